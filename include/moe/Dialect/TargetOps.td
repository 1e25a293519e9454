//===-- TargetOps.td - programs of kernel launches -*- tablegen -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_DIALECT_TARGETOPS
#define MOE_DIALECT_TARGETOPS

include "moe/Dialect/RoutingOps.td"

def MoE_PointerTableOp : MoE_Op<"pointer_table", [Pure]> {
  let summary = "a table of the addresses of buffers";
  let description = [{
    The table holds the address of each buffer, in order, for as long as the
    launch that reads it runs.

    Constraints:
    - (C1) `buffers` have static shapes.

    Example:
    ```mlir
    %t = moe.pointer_table %w0, %w1 : memref<96x64xf32>, memref<96x64xf32>
    ```
  }];
  let arguments = (ins Variadic<AnyMemRef>:$buffers);
  let results = (outs MoE_TableType:$table);
  let assemblyFormat = "$buffers attr-dict `:` type($buffers)";
  let hasVerifier = 1;
}

def MoE_DispatchOp : MoE_Op<"dispatch",
    [DeclareOpInterfaceMethods<SymbolUserOpInterface>]> {
  let summary = "runs a kernel over its tiles";
  let description = [{
    Calls `kernel(tile, arguments)` for every `tile` in [0, tiles), in any
    order and on any thread, and waits for all. `tiles` is static: work whose
    size is data leaves some tiles empty.

    A launch with `derives` reads all of its arguments but the last, writes the
    last wholly, and nothing else writes that. The text says what it makes of
    them: with the same arguments and the same text, the same bits.

    Constraints:
    - (C1) `kernel` is a function `(i64, !llvm.ptr) -> ()` that carries
      `moe.kernel`.
    - (C2) arguments are memrefs of static shape, tables, or i64.
    - (C3) with `derives` there are arguments, and all of them are memrefs.

    Example:
    ```mlir
    moe.dispatch @add_f32_4x64 [4] (%a, %b, %y) : memref<4x64xf32>, memref<4x64xf32>, memref<4x64xf32>
    ```
  }];
  let arguments = (ins FlatSymbolRefAttr:$kernel, I64Attr:$tiles,
                       OptionalAttr<StrAttr>:$derives,
                       Variadic<AnyType>:$arguments);
  let assemblyFormat = [{
    $kernel ` ` `[` $tiles `]` `(` $arguments `)` attr-dict (`:` type($arguments)^)?
  }];
}

#endif // MOE_DIALECT_TARGETOPS
