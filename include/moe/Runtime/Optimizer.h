//===-- Optimizer.h - AdamW, clipping, schedules ----------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Everything here gives the same bits for any number of threads: elements are
// cut into chunks of a fixed size, and sums add up the chunks in their order.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_RUNTIME_OPTIMIZER_H
#define MOE_RUNTIME_OPTIMIZER_H

#include "moe/Runtime/ABI.h"

#include <cstdint>
#include <string_view>

namespace polymoe {

class ParameterStore;

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  /// Decoupled, on every trainable parameter.
  double weightDecay = 0;
};

/// An update by AdamW.
struct Update {
  int64_t number = 1; ///< 1, 2, ...
  double rate = 0;
  double clip = 0; ///< largest norm of all gradients; 0 for none
  AdamWOptions adam = {};
};

/// The norm of all gradients as one vector, summed in double; NaN or infinite
/// when a gradient is.
double gradientNorm(const ParameterStore &store, MoeContext &context);

/// Update number t of every trainable parameter p with gradient g:
///   g <- clipFactor * g          p <- p * (1 - rate * weightDecay)
///   m <- beta1 m + (1 - beta1) g      v <- beta2 v + (1 - beta2) g^2
///   p <- p - rate / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + epsilon)
/// in F32 (in F64 for an F64 parameter, whose m and v are kept in F32). Where m
/// and v are kept in 8 bits, they are those of the codes before the update, and
/// rounded to codes after it: p takes a step with exact ones. A
/// parameter whose gradient is zero takes part, so its state advances too.
/// The compute copies are not refreshed.
void updateByAdamW(ParameterStore &store, MoeContext &context,
                   const Update &update, double clipFactor);

/// min(1, limit / (norm + 1e-6)); 1 when `limit` is not positive.
double clipFactor(double norm, double limit);

/// The learning rate, as transformers' get_*_schedule_with_warmup define it:
/// update s = 0, 1, ... of `steps` has rate * s / warmup while s < warmup, and
/// then, with x = (s - warmup) / max(1, steps - warmup),
/// rate (constant), rate * (1 + cos(pi x)) / 2 (cosine), rate * (1 - x)
/// (linear). So a first update in a warmup has rate 0.
struct Schedule {
  enum class Kind { Constant, Cosine, Linear };
  Kind kind = Kind::Cosine;
  double rate = 5e-5;
  int64_t steps = 0;
  /// Updates when at least 1, else a share of `steps`, rounded up.
  double warmup = 0;

  int64_t warmupSteps() const;
  double rateAt(int64_t step) const;
};

/// "constant", "cosine" or "linear"; throws Error for another name.
Schedule::Kind parseScheduleKind(std::string_view name);

} // namespace polymoe

#endif // MOE_RUNTIME_OPTIMIZER_H
