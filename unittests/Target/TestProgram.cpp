//===-- TestProgram.cpp - one program, checked in every type --------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "TestProgram.h"

#include <cmath>
#include <gtest/gtest.h>

using namespace polymoe::test;

std::vector<Mode> polymoe::test::allModes() {
  std::vector<Mode> modes;
  for (int64_t vectorBytes : {0, 32}) {
    modes.push_back({"f32", vectorBytes, 1e-6});
    // Two roundings: half a unit in the eighth bit each.
    modes.push_back({"bf16", vectorBytes, 0x1p-7});
    modes.push_back({"f64", vectorBytes, 1e-13});
  }
  for (Bf16Products products :
       {Bf16Products::Widened, Bf16Products::Pairs, Bf16Products::Amx})
    if (products != mlir::moe::hostBf16Products())
      modes.push_back({"bf16", 0, 0x1p-7, products});
  return modes;
}

std::vector<Mode> polymoe::test::hostModes() {
  std::vector<Mode> modes = allModes();
  std::erase_if(modes, [](const Mode &mode) {
    return mode.type == "f64" || mode.vectorBytes != 0;
  });
  return modes;
}

std::vector<Mode> polymoe::test::bf16Modes() {
  std::vector<Mode> modes = allModes();
  std::erase_if(modes, [](const Mode &mode) { return mode.type != "bf16"; });
  return modes;
}

std::vector<Mode> polymoe::test::preciseModes() {
  std::vector<Mode> modes = allModes();
  std::erase_if(modes, [](const Mode &mode) { return mode.type == "bf16"; });
  return modes;
}

std::string polymoe::test::nameOf(const Mode &mode) {
  std::string name = mode.type + (mode.vectorBytes ? "Narrow" : "Host");
  if (mode.bf16Products == mlir::moe::hostBf16Products())
    return name;
  const char *products[] = {"Widened", "InPairs", "WithAmx"};
  return name + products[static_cast<int>(mode.bf16Products)];
}

std::vector<Mode> polymoe::test::ofHost(std::vector<Mode> modes) {
  std::erase_if(modes, [](const Mode &mode) {
    // AMX tiles are emulated, but not the pairs beside them.
    bool lacks = mode.bf16Products != Bf16Products::Widened &&
                 mlir::moe::hostBf16Products() == Bf16Products::Widened;
    if (lacks)
      [&] {
        GTEST_SKIP() << nameOf(mode) << ": the host has no AVX512-BF16";
      }();
    return lacks;
  });
  return modes;
}

Tensors polymoe::test::rounded(const Tensors &tensors, const Mode &mode) {
  Tensors result = tensors;
  if (mode.type == "bf16")
    for (auto &[name, tensor] : result)
      tensor = roundToBf16(tensor);
  return result;
}

Tensors polymoe::test::run(const TestProgram &program, const Tensors &inputs,
                           const Mode &mode, int threads) {
  return runProgram(program.text(mode.type), inputs, threads, mode.vectorBytes,
                    mode.bf16Products, mode.frozenWeights);
}

void polymoe::test::expectGradient(const TestProgram &forward,
                                   const Tensors &inputs,
                                   const std::string &result,
                                   const Tensor &cotangent,
                                   const std::string &input,
                                   const Tensor &gradient) {
  const double step = 0x1p-20;
  for (uint64_t seed : {101, 102}) {
    Tensor direction = randomTensor(inputs.at(input).shape, seed);
    ASSERT_EQ(direction.size(), gradient.size()) << input;
    Tensors ahead = inputs, behind = inputs;
    double expected = 0, scale = 0, actual = 0;
    for (int64_t i = 0; i < direction.size(); ++i) {
      ahead[input][i] += step * direction[i];
      behind[input][i] -= step * direction[i];
      actual += gradient[i] * direction[i];
      scale += std::abs(gradient[i] * direction[i]);
    }
    Mode f64{"f64", 0, 0};
    Tensors after = run(forward, ahead, f64),
            before = run(forward, behind, f64);
    for (int64_t i = 0; i < cotangent.size(); ++i)
      expected +=
          cotangent[i] * (after[result][i] - before[result][i]) / (2 * step);
    EXPECT_NEAR(actual, expected, 1e-8 * (scale + 1))
        << "d" << result << "/d" << input;
  }
}

void polymoe::test::expectSameBitsOnThreads(const TestProgram &program,
                                            const Tensors &inputs) {
  for (const Mode &mode : ofHost(hostModes())) {
    SCOPED_TRACE(nameOf(mode));
    Tensors one = run(program, inputs, mode, 1),
            four = run(program, inputs, mode, 4);
    for (auto &[name, tensor] : one)
      EXPECT_EQ(tensor.values, four[name].values) << name;
  }
}
