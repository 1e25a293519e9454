//===-- Peak.h - the most that the cores can multiply -----------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_BENCHMARKS_PEAK_H
#define MOE_BENCHMARKS_PEAK_H

#include <cstdint>

namespace polymoe {

/// Independent chains of fused multiply-adds on one core, in registers.
struct PeakLoop {
  /// Runs `steps` steps; returns something that depends on all of them. Null
  /// where the host lacks the instruction.
  float (*run)(int64_t steps) = nullptr;
  double flopsPerStep = 0;
};

/// Of fp32, by the widest fused multiply-add that the host has.
PeakLoop peakLoopF32();
/// Of pairs of bf16 summed in fp32 (vdpbf16ps).
PeakLoop peakLoopBf16();

} // namespace polymoe

#endif // MOE_BENCHMARKS_PEAK_H
