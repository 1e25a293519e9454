//===-- BlockwiseTest.cpp -------------------------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/Blockwise.h"
#include "moe/Runtime/Memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

using namespace polymoe;

/// The magnitudes as the paper constructs them, in ascending order: a number
/// of zeros, a one, and what bits are left for the fraction.
static std::vector<double> magnitudes(int bits) {
  std::vector<double> all = {0, 1};
  for (int zeros = 0; zeros < 7; ++zeros) {
    const int count = 1 << (bits - zeros);
    for (int fraction = 0; fraction < count; ++fraction)
      all.push_back(std::pow(10.0, -zeros) *
                    (0.1 + 0.9 * (fraction + 0.5) / count));
  }
  std::sort(all.begin(), all.end());
  return all;
}

TEST(Blockwise, BooksAreThoseOfTheDynamicTree) {
  std::vector<double> expected = magnitudes(7);
  std::array<float, 256> numbers = numbersOf(CodeBook::Unsigned);
  ASSERT_EQ(expected.size(), 256u);
  for (size_t i = 0; i < 256; ++i)
    EXPECT_NEAR(numbers[i], expected[i], 1e-6 * expected[i]) << i;

  expected = magnitudes(6);
  numbers = numbersOf(CodeBook::Signed);
  ASSERT_EQ(expected.size(), 129u);
  for (size_t i = 0; i < 129; ++i)
    EXPECT_NEAR(numbers[127 + i], expected[i], 1e-6 * expected[i]) << i;
  for (size_t i = 1; i <= 127; ++i)
    EXPECT_EQ(numbers[127 - i], -numbers[127 + i]);
}

namespace {
struct Block {
  explicit Block(int64_t count)
      : codes(static_cast<size_t>(count)),
        absmax(static_cast<size_t>(blocksOf(count))) {}
  BlockwiseValues values() { return {codes.data(), absmax.data()}; }
  std::vector<uint8_t> codes;
  std::vector<float> absmax;
};
} // namespace

static std::vector<float> roundTrip(CodeBook book,
                                    const std::vector<float> &source) {
  const auto count = int64_t(source.size());
  Block block(count);
  quantize(book, source.data(), count, block.values(), 0);
  float result[blockSize];
  dequantize(book, block.values(), 0, count, result);
  return {result, result + count};
}

TEST(Blockwise, EveryNumberOfABookIsItself) {
  for (CodeBook book : {CodeBook::Signed, CodeBook::Unsigned})
    for (float scale : {1.0f, 3e-5f, 7e20f}) {
      std::array<float, 256> numbers = numbersOf(book);
      std::vector<float> source;
      for (float number : numbers)
        source.push_back(number * scale);
      EXPECT_EQ(roundTrip(book, source), source);
    }
}

// Half of a cell: 0.9 / 2^n of the decade's end; and half of the smallest
// number for what is below all decades.
TEST(Blockwise, ErrorIsAtMostHalfACell) {
  for (CodeBook book : {CodeBook::Signed, CodeBook::Unsigned}) {
    const int bits = book == CodeBook::Signed ? 6 : 7;
    for (uint64_t seed = 0; seed < 50; ++seed) {
      std::vector<float> source(blockSize);
      for (size_t i = 0; i < source.size(); ++i) {
        const double exponent = -8 * uniform(randomBits(seed, 2 * i));
        source[i] = float(std::pow(10.0, exponent)) * 5;
        if (book == CodeBook::Signed && randomBits(seed, 2 * i + 1) % 2)
          source[i] = -source[i];
      }
      double absmax = 0;
      for (float value : source)
        absmax = std::max(absmax, double(std::fabs(value)));
      const std::vector<float> got = roundTrip(book, source);
      for (size_t i = 0; i < source.size(); ++i) {
        const double x = std::fabs(source[i]) / absmax;
        double end = 1, bound = 0;
        for (int zeros = 0; zeros < 7; ++zeros, end /= 10)
          if (x <= end * 1.000001)
            bound = end * 0.45 / (1 << (bits - zeros));
        // The smallest number stands for all below it, too.
        bound = std::max(bound, 1e-6 * (0.1 + 0.45 / (1 << (bits - 6))));
        EXPECT_LE(std::fabs(double(got[i]) - source[i]),
                  (bound + 1e-6 * x) * absmax)
            << source[i] << " of " << absmax;
      }
    }
  }
}

TEST(Blockwise, ZerosStayZeroAndTheLargestIsExact) {
  EXPECT_EQ(roundTrip(CodeBook::Signed, std::vector<float>(256)),
            std::vector<float>(256));
  EXPECT_EQ(roundTrip(CodeBook::Unsigned, std::vector<float>(7)),
            std::vector<float>(7));
  EXPECT_EQ(roundTrip(CodeBook::Signed, {0, 0.3f, -0.1f})[1], 0.3f);
  EXPECT_EQ(roundTrip(CodeBook::Unsigned, {0, 0.3f})[1], 0.3f);
  // There is no code for -1.
  EXPECT_NEAR(roundTrip(CodeBook::Signed, {-0.3f, 0.1f})[0], -0.3f, 0.003f);
  // Zero bytes are zeros, as a store's memory comes.
  Block empty(256);
  float result[blockSize];
  dequantize(CodeBook::Signed, empty.values(), 0, 256, result);
  for (float value : result)
    EXPECT_EQ(value, 0);
}

TEST(Blockwise, AnUnsignedNumberDoesNotBecomeZero) {
  const std::vector<float> got =
      roundTrip(CodeBook::Unsigned, {1, 1e-12f, 1e-40f, 0});
  EXPECT_GT(got[1], 0);
  EXPECT_GT(got[2], 0);
  EXPECT_EQ(got[3], 0);
  EXPECT_EQ(roundTrip(CodeBook::Signed, {1, 1e-12f})[1], 0);
}

TEST(Blockwise, NumbersTooSmallToDivideByStayFinite) {
  for (float value : roundTrip(CodeBook::Signed, {1e-42f, -1e-40f, 1e-45f})) {
    EXPECT_TRUE(std::isfinite(value));
    EXPECT_LE(std::fabs(value), 1e-40f);
  }
}

TEST(Blockwise, APartOfABlockLeavesTheRestAlone) {
  Block block(512);
  std::fill(block.codes.begin(), block.codes.end(), uint8_t(9));
  const std::vector<float> source(10, 2.0f);
  quantize(CodeBook::Signed, source.data(), 10, block.values(), 256);
  EXPECT_EQ(block.absmax, (std::vector<float>{0, 2}));
  EXPECT_EQ(block.codes[255], 9);
  EXPECT_EQ(block.codes[256], 255);
  EXPECT_EQ(block.codes[266], 9);
}
