//===-- Passes.td - from fused ops to machine code ---------*- tablegen -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TARGET_PASSES
#define MOE_TARGET_PASSES

include "mlir/Pass/PassBase.td"

defvar PackedOnceOption = Option<
    "packedOnce", "packed-once", "mlir::moe::PackedOnce", "mlir::moe::PackedOnce::All",
    "parameters whose weights are packed once: all, or those that do not train",
    [{::mlir::moe::packedOnceValues()}]>;

def ConvertMoEToKernels : Pass<"convert-moe-to-kernels", "mlir::ModuleOp"> {
  let summary = "turn ops on tensors into launches of CPU kernels on memory";
  let description = [{
    Tensors become memrefs of static shape, results become arguments, and every
    op of the fused level becomes `moe.dispatch`es of kernels written with the
    vector, scf, arith and math dialects. Equal launches share one kernel. On
    entry points (public functions), parameters and their gradients become
    arguments with a `moe.binding`. A program adds to gradients that outlive it;
    with `writes-gradients` it writes gradients of its own.

    With `frozen-weights=int8`, weights of `moe.linear`, `moe.routed_up` and
    `moe.routed_down` that are parameters in every call of their function, and
    do not train, are packed as integers from -127 to 127 with a scale for each
    output channel, the largest magnitude over 127. Routers and language gates
    keep theirs. A channel that holds an infinity or a NaN gives NaN. Programs
    with gradients are refused.

    Where experts have few rows each and their weights are not packed once
    (`packed-once`), no launch packs these weights: the work item that
    multiplies by them packs the columns of one register tile at a time.

    Needs static shapes and the fused level.

    ```mlir
    %y = moe.add %a, %b : (tensor<1x4x64xf32>, tensor<1x4x64xf32>) -> tensor<1x4x64xf32>
    // ==>
    %y = memref.alloc() : memref<1x4x64xf32>
    moe.dispatch @add_0 [1] (%a, %b, %y) : memref<1x4x64xf32>, memref<1x4x64xf32>, memref<1x4x64xf32>
    ```
  }];
  let dependentDialects = [
    "mlir::amx::AMXDialect", "mlir::arith::ArithDialect",
    "mlir::LLVM::LLVMDialect",
    "mlir::math::MathDialect", "mlir::memref::MemRefDialect",
    "mlir::scf::SCFDialect", "mlir::vector::VectorDialect",
    "mlir::x86vector::X86VectorDialect"];
  let options = [
    Option<"vectorBytes", "vector-bytes", "int64_t", "64", "bytes of a vector register: 64, 32 or 16">,
    Option<"bf16Products", "bf16-products", "mlir::moe::Bf16Products", "mlir::moe::Bf16Products::Widened",
           "how two operands in bf16 are multiplied",
           [{::mlir::moe::bf16ProductsValues()}]>,
    Option<"l2Bytes", "l2-bytes", "int64_t", "1 << 20",
           "bytes of a core's L2 cache">,
    Option<"frozenWeights", "frozen-weights", "mlir::moe::FrozenWeights", "mlir::moe::FrozenWeights::AsIs",
           "how weights that do not train are kept",
           [{::mlir::moe::frozenWeightsValues()}]>,
    PackedOnceOption,
    Option<"writesGradients", "writes-gradients", "bool", "false",
           "write gradients of parameters in place of adding to them">,
  ];
}

def HoistParameterWork : Pass<"moe-hoist-parameter-work", "mlir::ModuleOp"> {
  let summary = "do once what depends on parameters only";
  let description = [{
    Moves launches that derive something from parameters alone (`derives`) out
    of programs: through private functions to their callers, whose buffer they
    fill, and out of entry points into entry points of their own,
    `prepare_frozen` and `prepare_trainable`. Their results are bound as
    `packed` under the name `<parameter>.<derives>`, one binding for all uses,
    and all programs that bind it share the memory.

    A launch stays where it is if some call of its function passes anything but
    a parameter, or, with `packed-once=frozen`, a parameter that trains. Such
    parameters change at every training step, and a second copy of them costs
    memory. A launch stays as well if a table holds its result together with
    that of one that stays: a frozen expert is packed together with those that
    train, at little cost, and has no second copy either.

    Runs after `convert-moe-to-kernels` and before `moe-plan-arena`.

    ```mlir
    func.func @score(%x: ..., %w: ... {moe.binding = #moe.binding<parameter, "w">}) {
      %p = memref.alloc() : memref<4x64x16xf32>
      moe.dispatch @linear_pack_0 [4] (%w, %p) {derives = "transposed.16"}
    // ==>
    func.func @score(%x: ..., %w: ...,
        %p: memref<4x64x16xf32> {moe.binding = #moe.binding<packed, "w.transposed.16">}) {
    func.func @prepare_frozen(%w: ..., %p: ...) {
      moe.dispatch @linear_pack_0 [4] (%w, %p) {derives = "transposed.16"}
    ```
  }];
  let dependentDialects = ["mlir::memref::MemRefDialect"];
  let options = [
    PackedOnceOption,
  ];
  let statistics = [
    Statistic<"numHoisted", "hoisted", "launches that left their function">,
    Statistic<"numPrepared", "prepared", "values that are prepared">,
  ];
}

def PlanArena : Pass<"moe-plan-arena", "mlir::ModuleOp"> {
  let summary = "put all buffers of a function into one arena";
  let description = [{
    Replaces every `memref.alloc` by a view of an arena that the function takes
    as its last argument, sharing memory between buffers that are not alive at
    the same time. A call gets a piece of its caller's arena. The arena of an
    entry point is bound as `arena`. A `step_gradient` lies in it as well, from
    its first use to the end of the function; its binding has the offset.

    ```mlir
    func.func @f(%x: memref<4xf32>) {
      %a = memref.alloc() : memref<4xf32>
    // ==>
    func.func @f(%x: memref<4xf32>, %arena: memref<64xi8>) {
      %a = memref.view %arena[%c0][] : memref<64xi8> to memref<4xf32>
    ```
  }];
  let dependentDialects = [
    "mlir::arith::ArithDialect", "mlir::memref::MemRefDialect"];
  let statistics = [
    Statistic<"numBytes", "arena-bytes", "bytes of the largest arena">,
    Statistic<"numNaive", "naive-bytes", "bytes that its buffers take without sharing">,
  ];
}

def ConvertMoEToLLVM : Pass<"convert-moe-to-llvm", "mlir::ModuleOp"> {
  let summary = "lower launches and entry points to the runtime's ABI";
  let description = [{
    An entry point becomes `MoeEntry` of moe/Runtime/ABI.h: a function of the
    context and an array of pointers, one for each of its arguments. A function
    that it calls takes pointers as arguments. A `moe.dispatch` becomes a call
    of `moeParallelFor` with the kernel's address and an array of its arguments
    on the stack. The module's `moe.target` notes `variant` and the version of
    the ABI, which are checked before the program runs.
  }];
  let dependentDialects = ["mlir::LLVM::LLVMDialect"];
  let options = [
    Option<"variant", "variant", "std::string", "\"generic\"",
           "instruction set that the kernels are made for">,
  ];
}

def ExpandMath : Pass<"moe-expand-math"> {
  let summary = "replace exp, log, tanh and erf of f32 by arithmetic";
  let description = [{
    Uses upstream's polynomial approximations, which are a few units in the last
    place off, so that no kernel calls a scalar function for each element of a
    vector. Operations in f64 become calls of libm later.
  }];
  let dependentDialects = [
    "mlir::arith::ArithDialect", "mlir::math::MathDialect",
    "mlir::vector::VectorDialect"];
}

#endif // MOE_TARGET_PASSES
