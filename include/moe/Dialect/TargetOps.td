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

def MoE_TableEntryOp : MoE_Op<"table_entry", [NoMemoryEffect]> {
  let summary = "the buffer at a position of a table, inside a kernel";
  let description = [{
    Reads the address at `position` when the kernel runs; `position` may depend
    on data. All entries that a kernel reads of one table have one type.

    Constraints:
    - (C1) the result has a static shape.

    Example:
    ```mlir
    moe.kernel @first(%item: index, %weights: !moe.table) {
      %w = moe.table_entry %weights[%item] : memref<96x64xf32>
    }
    ```
  }];
  let arguments = (ins MoE_TableType:$table, Index:$position);
  let results = (outs AnyStaticShapeMemRef:$buffer);
  let assemblyFormat = "$table `[` $position `]` attr-dict `:` type($buffer)";
}

def MoE_KernelOp : MoE_Op<"kernel",
    [Symbol, IsolatedFromAbove, AutomaticAllocationScope, SingleBlock,
     NoTerminator]> {
  let summary = "code that is run once for every work item of a launch";
  let description = [{
    The first argument of the body is the number of the work item, the others
    are what a `moe.dispatch` passes: buffers, tables of buffers and numbers.
    Work items run in any order and at the same time, so no two of them write
    one element, and none reads what another writes.

    `flops` and `bytes` are what one launch costs, for profiles: of its
    products, where a fused multiply-add counts two, and of all buffers, each
    once.

    Constraints:
    - (C1) the first argument of the body is an index.
    - (C2) the others are memrefs of static shape, tables, or indices.

    Example:
    ```mlir
    moe.kernel @clear(%item: index, %x: memref<8xf32>) {
      %zero = arith.constant 0.0 : f32
      memref.store %zero, %x[%item] : memref<8xf32>
    }
    ```
  }];
  let arguments = (ins SymbolNameAttr:$sym_name,
                       DefaultValuedAttr<F64Attr, "0.0">:$flops,
                       DefaultValuedAttr<F64Attr, "0.0">:$bytes);
  let regions = (region SizedRegion<1>:$body);
  let hasCustomAssemblyFormat = 1;
  let hasRegionVerifier = 1;
  let extraClassDeclaration = [{
    /// The number of the work item.
    BlockArgument getWorkItem() { return getBody().getArgument(0); }
    /// What a launch passes.
    Block::BlockArgListType getLaunchArguments() {
      return getBody().getArguments().drop_front();
    }
  }];
}

def MoE_DispatchOp : MoE_Op<"dispatch",
    [HasParent<"::mlir::func::FuncOp">,
     DeclareOpInterfaceMethods<SymbolUserOpInterface>]> {
  let summary = "runs a kernel over its work items";
  let description = [{
    Calls `kernel(item, arguments)` for every `item` in [0, workItems), in any
    order and on any thread, and waits for all. `workItems` is static: where the
    amount of work is data, some work items have nothing to do.

    A launch with `derives` computes its last argument from the others: it writes
    all of that buffer and reads none of it, and no other launch writes it. The
    text names the computation: launches with equal texts and equal inputs give
    the same bits, so `moe-hoist-parameter-work` may run one of them beforehand.

    Constraints:
    - (C1) `kernel` is a `moe.kernel`, and arguments have the types of what it
      takes after the number of the work item.
    - (C2) with `derives` there are arguments, and all of them are memrefs.

    Example:
    ```mlir
    moe.dispatch @clear [8] (%x) : memref<8xf32>
    ```
  }];
  let arguments = (ins FlatSymbolRefAttr:$kernel,
                       ConfinedAttr<I64Attr, [IntNonNegative]>:$workItems,
                       OptionalAttr<StrAttr>:$derives,
                       Variadic<AnyType>:$arguments);
  let assemblyFormat = [{
    $kernel ` ` `[` $workItems `]` `(` $arguments `)` attr-dict (`:` type($arguments)^)?
  }];
}

#endif // MOE_DIALECT_TARGETOPS
