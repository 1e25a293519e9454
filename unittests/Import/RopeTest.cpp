//===-- RopeTest.cpp ------------------------------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Import/Rope.h"
#include "moe/Runtime/Memory.h"

#include <gtest/gtest.h>

using namespace polymoe;

static uint64_t hashOfBits(const std::vector<float> &values) {
  return hashOf({reinterpret_cast<const char *>(values.data()),
                 values.size() * sizeof(float)});
}

// The hashes are those of `LlamaRotaryEmbedding(config).inv_freq` of
// transformers 5.23 with torch 2.13 on a CPU with AVX-512;
// python/tests/test_import.py compares many more.
TEST(Rope, EqualsTransformersBitForBit) {
  struct Case {
    RopeConfig config;
    int64_t headDim;
    uint64_t hash;
  };
  using Type = RopeConfig::Type;
  const Case cases[] = {
      // Fewer frequencies than a vector, whole vectors, and both.
      {{.theta = 1e4}, 22, 0xaf0f4082ac54e9ed},
      {{.theta = 1e4}, 64, 0xb04819d1a0d52427},
      {{.theta = 1e7}, 80, 0xeed39c6007511b44},
      {{.theta = 1e6}, 128, 0x2d18705ac4dc2fa1},
      {{.theta = 150000}, 256, 0x2e352a4a316052d},
      {{Type::Linear, 25000, 2.5}, 128, 0x30432ddd70cb417a},
      {{Type::Llama3, 5e5, 8, 1, 4, 8192}, 128, 0x5b8166a97b875595},
      {{Type::Llama3, 5e5, 32, 1, 4, 8192}, 64, 0xf23c01738f29c748},
      {{.type = Type::Yarn,
        .theta = 1e6,
        .factor = 4,
        .originalPositions = 32768},
       128,
       0x8a493461f2216f1b},
      {{.type = Type::Yarn,
        .theta = 1e4,
        .factor = 40,
        .originalPositions = 4096,
        .betaFast = 24,
        .betaSlow = 2,
        .truncate = false},
       64,
       0x33d9d05e15a52796},
  };
  for (const Case &c : cases) {
    std::vector<float> frequencies = ropeFrequencies(c.config, c.headDim);
    EXPECT_EQ(frequencies.size(), static_cast<size_t>(c.headDim / 2));
    EXPECT_EQ(hashOfBits(frequencies), c.hash)
        << "theta " << c.config.theta << ", width of a head " << c.headDim;
  }
}

TEST(Rope, FrequenciesFallFromOneToOneOverTheta) {
  std::vector<float> frequencies = ropeFrequencies({.theta = 1e4}, 128);
  EXPECT_EQ(frequencies.front(), 1.0f);
  for (size_t i = 1; i < frequencies.size(); ++i)
    EXPECT_LT(frequencies[i], frequencies[i - 1]);
  EXPECT_GT(frequencies.back(), 1e-4f);
}

TEST(Rope, Llama3LeavesShortWavesAndDividesLongOnes) {
  RopeConfig config{RopeConfig::Type::Llama3, 5e5, 8, 1, 4, 8192};
  std::vector<float> scaled = ropeFrequencies(config, 128);
  std::vector<float> plain = ropeFrequencies({.theta = 5e5}, 128);
  EXPECT_EQ(scaled.front(), plain.front());
  EXPECT_EQ(scaled.back(), plain.back() / 8);
}
