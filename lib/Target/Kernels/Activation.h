//===-- Activation.h - activations and their derivatives --------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TARGET_KERNELS_ACTIVATION_H
#define MOE_TARGET_KERNELS_ACTIVATION_H

#include "moe/Dialect/MoE.h"
#include "moe/Target/KernelBuilder.h"

namespace mlir::moe {

/// An activation and what it computes with.
struct Activation {
  ActivationKind kind;
  /// The functions of its scalars that multiply terms of it, as vectors, and
  /// their derivatives.
  SmallVector<Value, 2> factors = {}, slopes = {};
};

/// The activation of an expert whose scalars are in these buffers.
Activation makeActivation(KernelBuilder &k, ActivationKind kind,
                          ValueRange scalars);

/// `act(x)` of a vector of the type of computation.
Value emitActivation(KernelBuilder &k, const Activation &activation, Value x);
/// `act'(x)`.
Value emitActivationDerivative(KernelBuilder &k, const Activation &activation,
                               Value x);
/// The derivatives of `act(x)` by the scalars.
SmallVector<Value, 2>
emitScalarDerivatives(KernelBuilder &k, const Activation &activation, Value x);

/// `tanh(x)` of a vector of the type of computation, to within two units in the
/// last place; that of math.tanh is off by five.
Value emitTanh(KernelBuilder &k, Value x);
/// `cap * tanh(x / cap)` of such a vector.
Value emitSoftCap(KernelBuilder &k, Value x, double cap);
/// The derivative of a soft cap where its result is `y`, a vector or a scalar.
Value emitSoftCapDerivative(KernelBuilder &k, Value y, double cap);

} // namespace mlir::moe

#endif // MOE_TARGET_KERNELS_ACTIVATION_H
