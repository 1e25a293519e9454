//===-- TestProgram.h - one program, checked in every type -----*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A program is stated once, for a type `T`, and checked in every type and for
// every width of a vector; its gradients are checked against differences of
// its f64 forward.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_UNITTESTS_TARGET_TESTPROGRAM_H
#define MOE_UNITTESTS_TARGET_TESTPROGRAM_H

#include "KernelTest.h"
#include "ProgramText.h"

#include <gtest/gtest.h>

namespace polymoe::test {

/// A model's type, a width of vectors, how close results must come, and how
/// bf16 is multiplied. LLVM splits vectors that are wider than the host's,
/// which changes no result; products need an instruction that the host has.
struct Mode {
  std::string type;
  int64_t vectorBytes;
  double tolerance;
  Bf16Products bf16Products = mlir::moe::hostBf16Products();
  FrozenWeights frozenWeights = FrozenWeights::AsIs;
};

/// f32, bf16 and f64, for the host's vectors and for narrow ones; bf16 in every
/// way.
std::vector<Mode> allModes();
/// Those for the host's vectors without f64.
std::vector<Mode> hostModes();
/// Those with bf16.
std::vector<Mode> bf16Modes();
/// The same without bf16, for programs without `$T`: theirs is f32.
std::vector<Mode> preciseModes();
std::string nameOf(const Mode &mode);

/// Those of `modes` that the host can run. Each of the others marks the current
/// test as skipped and says why; the test goes on and can still fail.
std::vector<Mode> ofHost(std::vector<Mode> modes);

/// Tests that take one mode, and are skipped where the host cannot run it.
class ModeTest : public ::testing::TestWithParam<Mode> {
  void SetUp() override { ofHost({GetParam()}); }
};

/// Every tensor as `mode` stores it.
Tensors rounded(const Tensors &tensors, const Mode &mode);

/// Runs `program` in `mode`.
Tensors run(const TestProgram &program, const Tensors &inputs, const Mode &mode,
            int threads = 1);

/// Expects `gradient` to be that of `sum(cotangent * result)` with respect to
/// `input`: compares its product with random directions against central
/// differences of the f64 program.
void expectGradient(const TestProgram &forward, const Tensors &inputs,
                    const std::string &result, const Tensor &cotangent,
                    const std::string &input, const Tensor &gradient);

/// Expects the same bits from one thread and from four in hostModes.
void expectSameBitsOnThreads(const TestProgram &program, const Tensors &inputs);

} // namespace polymoe::test

#endif // MOE_UNITTESTS_TARGET_TESTPROGRAM_H
