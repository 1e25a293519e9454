//===-- Activation.cpp - activations and their derivatives ----------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Activation.h"

#include "mlir/Dialect/Math/IR/Math.h"

using namespace mlir;
using namespace mlir::moe;

static Value sigmoid(KernelBuilder &k, Value x) {
  Value exponential = math::ExpOp::create(k, arith::NegFOp::create(k, x));
  return k.divf(k.splat(1.0), k.addf(k.splat(1.0), exponential));
}

/// The standard normal distribution function.
static Value normalCdf(KernelBuilder &k, Value x) {
  Value erf = math::ErfOp::create(k, k.mulf(x, k.splat(M_SQRT1_2)));
  return k.mulf(k.splat(0.5), k.addf(k.splat(1.0), erf));
}

/// `sqrt(2/pi) (x + 0.044715 x^3)`, the argument of gelu's tanh form.
static Value geluInner(KernelBuilder &k, Value x) {
  Value square = k.mulf(x, x);
  Value cubic = k.fma(k.mulf(square, x), k.splat(0.044715), x);
  return k.mulf(cubic, k.splat(M_2_SQRTPI * M_SQRT1_2));
}

// xielu is a sum of x/2 and of two terms, each a function of x times one of a
// scalar. The first is zero unless x > 0, the second is zero if it is.
constexpr double xieluSlope = 0.5, xieluEpsilon = -1e-6;

static Value isPositive(KernelBuilder &k, Value x) {
  return arith::CmpFOp::create(k, arith::CmpFPredicate::OGT, x, k.splat(0.0));
}

/// `expm1(min(x, epsilon)) - x`, which the second scalar multiplies.
static Value xieluNegative(KernelBuilder &k, Value x) {
  Value least = arith::MinimumFOp::create(k, x, k.splat(xieluEpsilon));
  return k.subf(math::ExpM1Op::create(k, least), x);
}

Activation mlir::moe::makeActivation(KernelBuilder &k, ActivationKind kind,
                                     ValueRange scalars) {
  Activation activation{kind};
  for (Value buffer : scalars) {
    Value alpha = k.broadcast(k.loadScalar(buffer, k.idx(0)));
    // softplus(alpha), without an exponential that overflows.
    Value decay = math::ExpOp::create(
        k, arith::NegFOp::create(k, math::AbsFOp::create(k, alpha)));
    Value softplus = k.addf(arith::MaximumFOp::create(k, alpha, k.splat(0.0)),
                            math::Log1pOp::create(k, decay));
    activation.factors.push_back(softplus);
    activation.slopes.push_back(sigmoid(k, alpha));
  }
  if (kind == ActivationKind::Xielu)
    activation.factors[1] = k.addf(activation.factors[1], k.splat(xieluSlope));
  return activation;
}

Value mlir::moe::emitActivation(KernelBuilder &k, const Activation &activation,
                                Value x) {
  switch (activation.kind) {
  case ActivationKind::Silu:
    return k.mulf(x, sigmoid(k, x));
  case ActivationKind::Gelu:
    return k.mulf(x, normalCdf(k, x));
  case ActivationKind::GeluTanh: {
    Value tanh = math::TanhOp::create(k, geluInner(k, x));
    return k.mulf(k.mulf(k.splat(0.5), x), k.addf(k.splat(1.0), tanh));
  }
  case ActivationKind::Xielu: {
    Value positive = k.mulf(activation.factors[0], k.mulf(x, x));
    Value negative = k.mulf(activation.factors[1], xieluNegative(k, x));
    return k.addf(k.select(isPositive(k, x), positive, negative),
                  k.mulf(k.splat(xieluSlope), x));
  }
  }
  llvm_unreachable("every activation is handled");
}

Value mlir::moe::emitActivationDerivative(KernelBuilder &k,
                                          const Activation &activation,
                                          Value x) {
  Value one = k.splat(1.0);
  switch (activation.kind) {
  case ActivationKind::Silu: {
    // s + x s (1 - s)
    Value s = sigmoid(k, x);
    return k.mulf(s, k.fma(x, k.subf(one, s), one));
  }
  case ActivationKind::Gelu: {
    // Phi(x) + x phi(x)
    Value exponent = k.mulf(k.splat(-0.5), k.mulf(x, x));
    Value density = k.mulf(math::ExpOp::create(k, exponent),
                           k.splat(M_2_SQRTPI * M_SQRT1_2 * 0.5));
    return k.fma(x, density, normalCdf(k, x));
  }
  case ActivationKind::GeluTanh: {
    Value tanh = math::TanhOp::create(k, geluInner(k, x));
    Value slope = k.mulf(k.fma(k.mulf(x, x), k.splat(3 * 0.044715), one),
                         k.splat(M_2_SQRTPI * M_SQRT1_2));
    Value inner = k.mulf(k.subf(one, k.mulf(tanh, tanh)), slope);
    Value half = k.splat(0.5);
    return k.fma(k.mulf(half, x), inner, k.mulf(half, k.addf(one, tanh)));
  }
  case ActivationKind::Xielu: {
    Value positive = k.mulf(k.addf(x, x), activation.factors[0]);
    // The minimum has no slope above epsilon.
    Value isBelow = arith::CmpFOp::create(k, arith::CmpFPredicate::OLT, x,
                                          k.splat(xieluEpsilon));
    Value negative =
        k.mulf(k.select(isBelow, math::ExpM1Op::create(k, x), k.splat(-1.0)),
               activation.factors[1]);
    return k.addf(k.select(isPositive(k, x), positive, negative),
                  k.splat(xieluSlope));
  }
  }
  llvm_unreachable("every activation is handled");
}

SmallVector<Value, 2>
mlir::moe::emitScalarDerivatives(KernelBuilder &k, const Activation &activation,
                                 Value x) {
  if (activation.kind != ActivationKind::Xielu)
    return {};
  Value positive = k.mulf(activation.slopes[0], k.mulf(x, x));
  Value negative = k.mulf(activation.slopes[1], xieluNegative(k, x));
  Value isAbove = isPositive(k, x), zero = k.splat(0.0);
  return {k.select(isAbove, positive, zero), k.select(isAbove, zero, negative)};
}

Value mlir::moe::emitTanh(KernelBuilder &k, Value x) {
  if (k.compute().isF64())
    return math::TanhOp::create(k, x);
  Value magnitude = math::AbsFOp::create(k, x);
  // Near zero: x + x^3 p(x^2), whose coefficients make the relative error least
  // up to the bound.
  constexpr double bound = 0.625;
  constexpr double coefficients[] = {-5.704986926e-03, 2.063908716e-02,
                                     -5.373971505e-02, 1.333144220e-01,
                                     -3.333328194e-01};
  Value square = k.mulf(x, x);
  Value sum = k.splat(coefficients[0]);
  for (double coefficient : llvm::drop_begin(coefficients))
    sum = k.fma(sum, square, k.splat(coefficient));
  Value small = k.fma(k.mulf(x, square), sum, x);
  // Elsewhere: 1 - 2 / (exp(2 |x|) + 1), with the sign of x.
  Value exponential = math::ExpOp::create(k, k.addf(magnitude, magnitude));
  Value rest = k.divf(k.splat(2.0), k.addf(exponential, k.splat(1.0)));
  Value large = math::CopySignOp::create(k, k.subf(k.splat(1.0), rest), x);
  Value isSmall = arith::CmpFOp::create(k, arith::CmpFPredicate::OLT, magnitude,
                                        k.splat(bound));
  return k.select(isSmall, small, large);
}

Value mlir::moe::emitSoftCap(KernelBuilder &k, Value x, double cap) {
  return k.mulf(k.splat(cap), emitTanh(k, k.divf(x, k.splat(cap))));
}

Value mlir::moe::emitSoftCapDerivative(KernelBuilder &k, Value y, double cap) {
  auto constant = [&](double value) {
    return isa<VectorType>(y.getType()) ? k.splat(value) : k.scalar(value);
  };
  Value tanh = k.divf(y, constant(cap));
  return k.subf(constant(1.0), k.mulf(tanh, tanh));
}
