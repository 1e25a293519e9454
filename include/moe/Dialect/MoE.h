//===-- MoE.h - the moe dialect ---------------------------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_DIALECT_MOE_H
#define MOE_DIALECT_MOE_H

#include "mlir/Bytecode/BytecodeOpInterface.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/BuiltinAttributes.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Dialect.h"
#include "mlir/IR/OpDefinition.h"
#include "mlir/IR/OpImplementation.h"
#include "mlir/IR/PatternMatch.h"
#include "mlir/IR/SymbolTable.h"
#include "mlir/Interfaces/InferTypeOpInterface.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"

#include "moe/Dialect/MoEEnums.h.inc"
#define GET_ATTRDEF_CLASSES
#include "moe/Dialect/MoEAttrs.h.inc"
#include "moe/Dialect/MoEDialect.h.inc"

namespace mlir::moe {

/// A matrix product of an op.
struct MatrixProduct {
  /// The operand that is the matrix, null if neither factor is a parameter.
  Value weight;
  double flops; ///< a fused multiply-add counts two
};

} // namespace mlir::moe

#include "moe/Dialect/MoEInterfaces.h.inc"

namespace mlir::moe {

/// Implements LevelOpInterface: the op stands at `first` to `last`.
template <Level first, Level last> struct Levels {
  template <typename ConcreteType>
  struct Impl : OpTrait::TraitBase<ConcreteType, Impl> {
    static Level getFirstLevel() { return first; }
    static Level getLastLevel() { return last; }
  };
};

/// Marks an op so cheap that its result is recomputed in the backward rather
/// than saved when memory is scarce.
template <typename ConcreteType>
class CheapToRecompute
    : public OpTrait::TraitBase<ConcreteType, CheapToRecompute> {};

} // namespace mlir::moe

#define GET_TYPEDEF_CLASSES
#include "moe/Dialect/MoETypes.h.inc"
#define GET_OP_CLASSES
#include "moe/Dialect/MoEOps.h.inc"

namespace mlir::moe {

/// Whether a bias follows each matrix in `weights` of experts or of an FFN.
bool haveBiases(ValueRange weights);

/// The trained scalars of an activation.
inline int64_t numScalars(ActivationKind activation) {
  return activation == ActivationKind::Xielu ? 2 : 0;
}

/// Where each weight of an expert stands among them: gate, up, down if gated;
/// else up, down, or up, bias, down, bias; then the activation's scalars.
struct FfnLayout {
  FfnLayout(FfnForm form, ActivationKind activation, ValueRange weights)
      : gated(form == FfnForm::Gated), biased(haveBiases(weights)),
        activation(activation) {}

  bool gated, biased;
  ActivationKind activation;

  /// The number of matrices, vectors and scalars of one expert.
  int64_t each() const { return scalars() + numScalars(activation); }
  int64_t down() const { return gated || biased ? 2 : 1; }
  int64_t scalars() const { return down() + (biased ? 2 : 1); }
};

/// Whether `type` has no dynamic dimension.
inline bool hasStaticShape(Type type) {
  if (auto tensor = dyn_cast<RankedTensorType>(type))
    return tensor.hasStaticShape();
  auto routes = dyn_cast<RoutesType>(type);
  return !routes || routes.hasStaticShape();
}

/// The type in which norms, softmax and losses are computed: f64 in a f64
/// model, f32 in any other.
Type preciseType(Type elementType);

/// The type of the gradient of a parameter of `type`: that of the parameter in
/// its precise type, so that micro-batches can be accumulated.
RankedTensorType parameterGradientType(RankedTensorType type);

/// Of the matrix products of `op`, 0 if it has none; shapes must be static.
double flopsOf(Operation *op);

/// Of `rows` x `inner` times `inner` x `columns`.
inline double productFlops(int64_t rows, int64_t inner, int64_t columns) {
  return 2.0 * static_cast<double>(rows) * static_cast<double>(inner) *
         static_cast<double>(columns);
}

/// The memory that a tensor, a buffer or routes of a static shape take.
int64_t sizeInBytes(Type type);

/// Appends an argument to `function`.
BlockArgument addArgument(func::FuncOp function, Type type,
                          BindingAttr binding = {});

} // namespace mlir::moe

#endif // MOE_DIALECT_MOE_H
