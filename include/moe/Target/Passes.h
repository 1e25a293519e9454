//===-- Passes.h - from fused ops to machine code ---------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TARGET_PASSES_H
#define MOE_TARGET_PASSES_H

#include "moe/Target/CPU/TargetDescription.h"

#include "mlir/IR/BuiltinOps.h"
#include "mlir/Pass/Pass.h"
#include "llvm/Support/CommandLine.h"

namespace mlir::moe {

/// The names of Bf16Products in options.
inline llvm::cl::ValuesClass bf16ProductsValues() {
  return llvm::cl::values(
      clEnumValN(Bf16Products::Widened, "widened", "as f32"),
      clEnumValN(Bf16Products::Pairs, "pairs", "with vdpbf16ps (AVX512-BF16)"),
      clEnumValN(Bf16Products::Amx, "amx", "with tdpbf16ps (AMX-BF16)"));
}

/// The names of FrozenWeights in options.
inline llvm::cl::ValuesClass frozenWeightsValues() {
  return llvm::cl::values(
      clEnumValN(FrozenWeights::AsIs, "as-is", "in the type of the model"),
      clEnumValN(FrozenWeights::Int8, "int8",
                 "as integers with a scale for each output channel"));
}

/// The names of PackedOnce in options.
inline llvm::cl::ValuesClass packedOnceValues() {
  return llvm::cl::values(
      clEnumValN(PackedOnce::All, "all", "all, for inference"),
      clEnumValN(PackedOnce::Frozen, "frozen",
                 "frozen ones, for training: no second copy of others"));
}

#define GEN_PASS_DECL
#define GEN_PASS_REGISTRATION
#include "moe/Target/Passes.h.inc"

} // namespace mlir::moe

#endif // MOE_TARGET_PASSES_H
