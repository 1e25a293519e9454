//===-- KernelTest.cpp - runs IR through the compiler and back ------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "KernelTest.h"

#include "ProgramRunner.h"
#include "TileEmulation.h"

#include <bit>
#include <cmath>
#include <gtest/gtest.h>
#include <random>

using namespace polymoe;
using namespace polymoe::test;

Tensor polymoe::test::randomTensor(std::vector<int64_t> shape, uint64_t seed) {
  Tensor tensor{shape, {}};
  int64_t count = 1;
  for (int64_t extent : shape)
    count *= extent;
  std::mt19937_64 engine(seed);
  for (int64_t i = 0; i < count; ++i)
    tensor.values.push_back(
        // Exactly representable in f32, so that all sides start equal.
        static_cast<float>(static_cast<double>(engine() >> 11) * 0x1p-52 - 1));
  return tensor;
}

Tensor polymoe::test::randomIntegers(std::vector<int64_t> shape, int64_t low,
                                     int64_t high, uint64_t seed) {
  Tensor tensor = randomTensor(shape, seed);
  for (double &value : tensor.values)
    value = std::floor(low + (value + 1) / 2 * (high - low));
  return tensor;
}

static uint16_t toBf16(float value) {
  uint32_t bits = std::bit_cast<uint32_t>(value);
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

static float fromBf16(uint16_t value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value) << 16);
}

Tensor polymoe::test::roundToBf16(const Tensor &tensor) {
  Tensor rounded = tensor;
  for (double &value : rounded.values)
    value = fromBf16(toBf16(static_cast<float>(value)));
  return rounded;
}

static void write(const Tensor &tensor, DType type, void *to) {
  for (int64_t i = 0; i < tensor.size(); ++i) {
    double value = tensor[i];
    if (type == DType::F64)
      static_cast<double *>(to)[i] = value;
    else if (type == DType::F32)
      static_cast<float *>(to)[i] = static_cast<float>(value);
    else if (type == DType::BF16)
      static_cast<uint16_t *>(to)[i] = toBf16(static_cast<float>(value));
    else
      static_cast<int32_t *>(to)[i] = static_cast<int32_t>(value);
  }
}

static void read(const void *from, DType type, Tensor &tensor) {
  for (int64_t i = 0; i < tensor.size(); ++i) {
    if (type == DType::F64)
      tensor[i] = static_cast<const double *>(from)[i];
    else if (type == DType::F32)
      tensor[i] = static_cast<const float *>(from)[i];
    else if (type == DType::BF16)
      tensor[i] = fromBf16(static_cast<const uint16_t *>(from)[i]);
    else if (type == DType::U8)
      tensor[i] = static_cast<const uint8_t *>(from)[i];
    else
      tensor[i] = static_cast<const int32_t *>(from)[i];
  }
}

Tensors polymoe::test::runProgram(const std::string &ir, const Tensors &inputs,
                                  int threads, int64_t vectorBytes,
                                  Bf16Products bf16Products,
                                  FrozenWeights frozenWeights, bool emulate) {
  mlir::moe::CompilerOptions options;
  options.frozenWeights = frozenWeights;
  options.vectorBytes = vectorBytes;
  emulate &= bf16Products == Bf16Products::Amx;
  options.bf16Products = bf16Products;
  ProgramRunner runner(
      ir, options, threads, emulate ? emulateTiles : [](mlir::ModuleOp) {});
  for (auto [i, binding] : llvm::enumerate(runner.bindings()))
    if (auto it = inputs.find(binding.name); it != inputs.end()) {
      EXPECT_EQ(it->second.size(), ProgramRunner::elements(binding))
          << binding.name;
      write(it->second, binding.dtype, runner.data(i));
    }
  runOnLargeStack([&] {
    runner.prepare();
    runner.run();
  });

  Tensors outputs;
  for (auto [i, binding] : llvm::enumerate(runner.bindings())) {
    if (binding.kind != Binding::Kind::Output &&
        binding.kind != Binding::Kind::Gradient &&
        binding.kind != Binding::Kind::Packed &&
        binding.kind != Binding::Kind::State)
      continue;
    Tensor &tensor = outputs[binding.name];
    tensor.shape = binding.shape;
    tensor.values.resize(ProgramRunner::elements(binding));
    read(runner.data(i), binding.dtype, tensor);
  }
  return outputs;
}

void polymoe::test::expectClose(const Tensor &actual, const Tensor &expected,
                                double tolerance, const std::string &what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  double scale = 1e-30, worst = 0;
  int64_t where = 0;
  for (double value : expected.values)
    scale = std::max(scale, std::abs(value));
  for (int64_t i = 0; i < actual.size(); ++i) {
    double error = std::abs(actual[i] - expected[i]);
    if (!(error <= worst)) {
      worst = std::isnan(error) ? INFINITY : error;
      where = i;
    }
  }
  EXPECT_LE(worst / scale, tolerance)
      << what << ": element " << where << " is " << actual[where]
      << ", expected " << expected[where];
}
