//===-- RowsTest.cpp - embedding, rotary, caches, sums against loops ------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "TestProgram.h"

#include <cmath>
#include <gtest/gtest.h>

using namespace polymoe::test;

namespace {

/// Enough rows for two tiles, where it is 274 of 70.
class Rows : public ModeTest {};

//===----------------------------------------------------------------------===//
// Embedding
//===----------------------------------------------------------------------===//

const TestProgram embedding = {
    {{"tokens", "2x137xi32"}, {"table", "101x70x$T"}, {"dy", "2x137x70x$T"}},
    R"(
  %y = moe.embedding %tokens, %table {scale = 8.366600265340756} : (tensor<2x137xi32>, tensor<101x70x$T>) -> tensor<2x137x70x$T>
  %plain = moe.embedding %tokens, %table : (tensor<2x137xi32>, tensor<101x70x$T>) -> tensor<2x137x70x$T>
  %dtable = moe.embedding_grad %tokens, %dy {scale = 8.366600265340756} : (tensor<2x137xi32>, tensor<2x137x70x$T>) -> tensor<101x70x$P>
  %dplain = moe.embedding_grad %tokens, %dy : (tensor<2x137xi32>, tensor<2x137x70x$T>) -> tensor<101x70x$P>)",
    {{"y", "2x137x70x$T"},
     {"plain", "2x137x70x$T"},
     {"dtable", "101x70x$P"},
     {"dplain", "101x70x$P"}}};

Tensors embeddingInputs() {
  Tensor tokens = randomIntegers({2, 137}, 0, 101, 1);
  // The ends of the vocabulary, and a token with many occurrences.
  tokens[0] = 0;
  tokens[1] = 100;
  for (int64_t i = 10; i < 30; ++i)
    tokens[i] = 57;
  return {{"tokens", tokens},
          {"table", randomTensor({101, 70}, 2)},
          {"dy", randomTensor({2, 137, 70}, 3)}};
}

TEST_P(Rows, EmbeddingAndItsGradient) {
  Mode mode = GetParam();
  Tensors in = rounded(embeddingInputs(), mode);
  Tensors out = run(embedding, in, mode);
  Tensor scale{{1}, {8.366600265340756}};
  if (mode.type == "bf16")
    scale = roundToBf16(scale);
  Tensor y = in["dy"], plain = y;
  Tensor dtable{{101, 70}, std::vector<double>(101 * 70)}, dplain = dtable;
  for (int64_t t = 0; t < 274; ++t)
    for (int64_t d = 0; d < 70; ++d) {
      int64_t entry = in["tokens"][t] * 70 + d;
      plain[t * 70 + d] = in["table"][entry];
      y[t * 70 + d] = scale[0] * in["table"][entry];
      dplain[entry] += in["dy"][t * 70 + d];
      dtable[entry] += scale[0] * in["dy"][t * 70 + d];
    }
  expectClose(out["y"], y, mode.tolerance, "y");
  expectClose(out["plain"], plain, 0, "plain");
  // Gradients of parameters are kept in f32.
  double precise = std::min(mode.tolerance, 1e-6);
  expectClose(out["dtable"], dtable, precise, "dtable");
  expectClose(out["dplain"], dplain, precise, "dplain");
}

TEST(EmbeddingBits, SameForAnyNumberOfThreads) {
  expectSameBitsOnThreads(embedding, embeddingInputs());
}

//===----------------------------------------------------------------------===//
// Rotary embedding
//===----------------------------------------------------------------------===//

const TestProgram rotaryTable = {
    {{"positions", "2x137xi32"}},
    R"(
  %cos, %sin = moe.rotary_table %positions {frequencies = array<f32: 1.0, 0.31622776, 0.1, 0.031622775, 0.001>, scale = 1.25} : (tensor<2x137xi32>) -> (tensor<2x137x5x$P>, tensor<2x137x5x$P>))",
    {{"cos", "2x137x5x$P"}, {"sin", "2x137x5x$P"}}};

TEST_P(Rows, RotaryTableRoundsTheAngleToF32) {
  Mode mode = GetParam();
  const float frequencies[] = {1.0f, 0.31622776f, 0.1f, 0.031622775f, 0.001f};
  Tensors in = {{"positions", randomIntegers({2, 137}, 0, 131072, 1)}};
  Tensors out = run(rotaryTable, in, mode);
  Tensor cosines{{2, 137, 5}, {}}, sines = cosines;
  for (double position : in["positions"].values)
    for (float frequency : frequencies) {
      float angle = static_cast<float>(position) * frequency;
      cosines.values.push_back(1.25 * std::cos(static_cast<double>(angle)));
      sines.values.push_back(1.25 * std::sin(static_cast<double>(angle)));
    }
  double precise = std::min(mode.tolerance, 1e-7);
  expectClose(out["cos"], cosines, precise, "cos");
  expectClose(out["sin"], sines, precise, "sin");
}

/// Seven heads of ten: the halves are narrower than any vector.
const TestProgram rotary = {
    {{"x", "2x137x70x$T"}, {"cos", "2x137x5x$P"}, {"sin", "2x137x5x$P"}},
    R"(
  %y = moe.rotary %x, %cos, %sin : (tensor<2x137x70x$T>, tensor<2x137x5x$P>, tensor<2x137x5x$P>) -> tensor<2x137x70x$T>
  %back = moe.rotary %x, %cos, %sin {inverse} : (tensor<2x137x70x$T>, tensor<2x137x5x$P>, tensor<2x137x5x$P>) -> tensor<2x137x70x$T>)",
    {{"y", "2x137x70x$T"}, {"back", "2x137x70x$T"}}};

Tensors rotaryInputs() {
  return {{"x", randomTensor({2, 137, 70}, 1)},
          {"cos", randomTensor({2, 137, 5}, 2)},
          {"sin", randomTensor({2, 137, 5}, 3)}};
}

TEST_P(Rows, RotaryTurnsTheHalvesOfEveryHead) {
  Mode mode = GetParam();
  Tensors in = rounded(rotaryInputs(), mode);
  Tensors out = run(rotary, in, mode);
  Tensor y = in["x"], back = y;
  for (int64_t t = 0; t < 274; ++t)
    for (int64_t head = 0; head < 7; ++head)
      for (int64_t i = 0; i < 5; ++i) {
        int64_t first = t * 70 + head * 10 + i, second = first + 5;
        double x1 = in["x"][first], x2 = in["x"][second];
        double c = in["cos"][t * 5 + i], s = in["sin"][t * 5 + i];
        y[first] = x1 * c - x2 * s;
        y[second] = x2 * c + x1 * s;
        back[first] = x1 * c + x2 * s;
        back[second] = x2 * c - x1 * s;
      }
  expectClose(out["y"], y, mode.tolerance, "y");
  expectClose(out["back"], back, mode.tolerance, "back");
}

/// Two heads, of which `2 w` elements rotate as neighbours and the rest stays.
/// A `w` of 37 ends inside a vector, whatever its width.
struct Interleaved {
  int64_t w, headWidth;

  TestProgram program() const {
    std::string x = "2x19x" + std::to_string(2 * headWidth) + "x$T";
    std::string table = "2x19x" + std::to_string(w) + "x$P";
    std::string types = "(tensor<" + x + ">, tensor<" + table + ">, tensor<" +
                        table + ">) -> tensor<" + x + ">";
    std::string options =
        "interleaved, head_dim = " + std::to_string(headWidth) + " : i64";
    return {{{"x", x}, {"cos", table}, {"sin", table}},
            "\n  %y = moe.rotary %x, %cos, %sin {" + options + "} : " + types +
                "\n  %back = moe.rotary %y, %cos, %sin {inverse, " + options +
                "} : " + types,
            {{"y", x}, {"back", x}}};
  }
};

TEST_P(Rows, RotaryTurnsNeighboursOfAPartOfEveryHead) {
  Mode mode = GetParam();
  for (Interleaved sizes : {Interleaved{37, 80}, Interleaved{8, 16}}) {
    int64_t w = sizes.w, width = 2 * sizes.headWidth;
    Tensors in = rounded({{"x", randomTensor({2, 19, width}, 1)},
                          {"cos", randomTensor({2, 19, w}, 2)},
                          {"sin", randomTensor({2, 19, w}, 3)}},
                         mode);
    Tensors out = run(sizes.program(), in, mode);
    Tensor y = in["x"], back = out["y"];
    for (int64_t t = 0; t < 38; ++t)
      for (int64_t head = 0; head < 2; ++head)
        for (int64_t i = 0; i < w; ++i) {
          int64_t first = t * width + head * sizes.headWidth + 2 * i;
          double c = in["cos"][t * w + i], s = in["sin"][t * w + i];
          auto turn = [&](const Tensor &x, Tensor &to, double s) {
            double x1 = x[first], x2 = x[first + 1];
            to[first] = x1 * c - x2 * s;
            to[first + 1] = x2 * c + x1 * s;
          };
          turn(in["x"], y, s);
          turn(out["y"], back, -s);
        }
    expectClose(out["y"], y, mode.tolerance, "y");
    expectClose(out["back"], back, mode.tolerance, "back");
  }
}

TEST(RotaryBits, SameForAnyNumberOfThreads) {
  expectSameBitsOnThreads(rotary, rotaryInputs());
}

//===----------------------------------------------------------------------===//
// Scales and soft caps
//===----------------------------------------------------------------------===//

/// `z` is made in the place of what is scaled.
const TestProgram elementwise = {{{"x", "2x37x301x$T"}, {"dy", "2x37x301x$T"}},
                                 R"(
  %y = moe.scale %x {factor = 0.22} : tensor<2x37x301x$T>
  %c = moe.soft_cap %x {cap = 1.5} : tensor<2x37x301x$T>
  %dx = moe.soft_cap_grad %dy, %x {cap = 1.5} : tensor<2x37x301x$T>
  %large = moe.scale %dy {factor = 4.0} : tensor<2x37x301x$T>
  %z = moe.soft_cap %large {cap = 1.5} : tensor<2x37x301x$T>)",
                                 {{"y", "2x37x301x$T"},
                                  {"c", "2x37x301x$T"},
                                  {"dx", "2x37x301x$T"},
                                  {"z", "2x37x301x$T"}}};

Tensors elementwiseInputs() {
  return {{"x", randomTensor({2, 37, 301}, 1)},
          {"dy", randomTensor({2, 37, 301}, 2)}};
}

TEST_P(Rows, ScalesAndSoftCaps) {
  Mode mode = GetParam();
  Tensors in = rounded(elementwiseInputs(), mode);
  Tensors out = run(elementwise, in, mode);
  Tensor y = in["x"], c = y, dx = y, z = y;
  for (int64_t i = 0; i < y.size(); ++i) {
    double x = in["x"][i], dy = in["dy"][i];
    y[i] = 0.22 * x;
    c[i] = 1.5 * std::tanh(x / 1.5);
    dx[i] = dy * (1 - std::pow(std::tanh(x / 1.5), 2));
    z[i] = 1.5 * std::tanh(4 * dy / 1.5);
  }
  expectClose(out["y"], y, mode.tolerance, "y");
  expectClose(out["c"], c, mode.tolerance, "c");
  expectClose(out["dx"], dx, mode.tolerance, "dx");
  expectClose(out["z"], z, mode.tolerance, "z");
}

TEST(SoftCap, IsPreciseFromSmallToLarge) {
  const TestProgram cap = {
      {{"x", "4x4096xf32"}},
      "  %y = moe.soft_cap %x {cap = 2.0} : tensor<4x4096xf32>",
      {{"y", "4x4096xf32"}}};
  Tensors in = {{"x", randomTensor({4, 4096}, 1)}};
  for (int64_t i = 0; i < in["x"].size(); ++i)
    in["x"][i] = static_cast<float>(std::copysign(
        std::exp(-10 + 15 * static_cast<double>(i) / in["x"].size()),
        in["x"][i]));
  in["x"][0] = 0;
  in["x"][1] = -INFINITY;
  in["x"][2] = NAN;
  for (int64_t vectorBytes : {0, 32}) {
    Tensor y = run(cap, in, {"f32", vectorBytes, 0})["y"];
    EXPECT_EQ(y[0], 0);
    EXPECT_EQ(y[1], -2);
    EXPECT_TRUE(std::isnan(y[2]));
    double squares = 0;
    for (int64_t i = 3; i < y.size(); ++i) {
      double expected = 2 * std::tanh(in["x"][i] / 2);
      squares += std::pow(y[i] / expected - 1, 2);
      EXPECT_NEAR(y[i], expected, 3e-7 * std::abs(expected)) << in["x"][i];
    }
    // Division, tanh and product each round once. With math.tanh it is 8e-8.
    EXPECT_LT(std::sqrt(squares / (y.size() - 3)), 6e-8);
  }
}

TEST(SoftCap, SameBitsForAnyNumberOfThreads) {
  expectSameBitsOnThreads(elementwise, elementwiseInputs());
}

//===----------------------------------------------------------------------===//
// Caches
//===----------------------------------------------------------------------===//

const TestProgram cache = {{{"rows", "2x3x70x$T"},
                            {"slots", "2x3xi32"},
                            {"keys", "2x9x70x$T", "state"}},
                           R"(
  %y = moe.cache_update %keys, %rows, %slots : (tensor<2x9x70x$T>, tensor<2x3x70x$T>, tensor<2x3xi32>) -> tensor<2x9x70x$T>
  %last = moe.last_token %y : (tensor<2x9x70x$T>) -> tensor<2x1x70x$T>)",
                           {{"y", "2x9x70x$T"}, {"last", "2x1x70x$T"}}};

TEST_P(Rows, CacheUpdateWritesInPlace) {
  Mode mode = GetParam();
  Tensors in = rounded({{"rows", randomTensor({2, 3, 70}, 1)},
                        {"slots", {{2, 3}, {8, 0, 3, 2, 4, 7}}},
                        {"keys", randomTensor({2, 9, 70}, 2)}},
                       mode);
  Tensors out = run(cache, in, mode);
  Tensor expected = in["keys"];
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t s = 0; s < 3; ++s)
      for (int64_t d = 0; d < 70; ++d)
        expected[(b * 9 + in["slots"][b * 3 + s]) * 70 + d] =
            in["rows"][(b * 3 + s) * 70 + d];
  expectClose(out["y"], expected, 0, "result");
  expectClose(out["keys"], expected, 0, "state");
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t d = 0; d < 70; ++d)
      EXPECT_EQ(out["last"][b * 70 + d], expected[(b * 9 + 8) * 70 + d]);
}

//===----------------------------------------------------------------------===//
// Sums
//===----------------------------------------------------------------------===//

/// More than one tile with a tail, exactly one tile, less than one vector.
const TestProgram sums = {
    {{"a", "2x37x301x$T"},
     {"b", "2x37x301x$T"},
     {"c", "4x4096x$T"},
     {"d", "4x4096x$T"},
     {"e", "$P"},
     {"f", "$P"}},
    R"(
  %y = moe.add %a, %b : (tensor<2x37x301x$T>, tensor<2x37x301x$T>) -> tensor<2x37x301x$T>
  %z = moe.add %c, %d : (tensor<4x4096x$T>, tensor<4x4096x$T>) -> tensor<4x4096x$T>
  %s = moe.add %e, %f : (tensor<$P>, tensor<$P>) -> tensor<$P>
  %n = moe.column_sum %a : (tensor<2x37x301x$T>) -> tensor<301x$P>)",
    {{"y", "2x37x301x$T"}, {"z", "4x4096x$T"}, {"s", "$P"}, {"n", "301x$P"}}};

Tensors sumInputs() {
  return {{"a", randomTensor({2, 37, 301}, 1)},
          {"b", randomTensor({2, 37, 301}, 2)},
          {"c", randomTensor({4, 4096}, 3)},
          {"d", randomTensor({4, 4096}, 4)},
          {"e", randomTensor({}, 5)},
          {"f", randomTensor({}, 6)}};
}

TEST_P(Rows, Sums) {
  Mode mode = GetParam();
  Tensors in = rounded(sumInputs(), mode);
  Tensors out = run(sums, in, mode);
  auto sum = [](Tensor a, const Tensor &b) {
    for (int64_t i = 0; i < a.size(); ++i)
      a[i] += b[i];
    return a;
  };
  expectClose(out["y"], sum(in["a"], in["b"]), mode.tolerance, "y");
  expectClose(out["z"], sum(in["c"], in["d"]), mode.tolerance, "z");
  double precise = std::min(mode.tolerance, 1e-6);
  expectClose(out["s"], sum(in["e"], in["f"]), precise, "s");
  Tensor columns{{301}, std::vector<double>(301)};
  for (int64_t t = 0; t < 74; ++t)
    for (int64_t i = 0; i < 301; ++i)
      columns[i] += in["a"][t * 301 + i];
  expectClose(out["n"], columns, precise, "n");
}

TEST(SumBits, AreRoundedToTheNearestBf16) {
  const TestProgram add = {
      {{"a", "4x32xbf16"}, {"b", "4x32xbf16"}},
      "  %y = moe.add %a, %b : (tensor<4x32xbf16>, tensor<4x32xbf16>) -> "
      "tensor<4x32xbf16>",
      {{"y", "4x32xbf16"}}};
  Tensors in = {{"a", randomTensor({4, 32}, 1)},
                {"b", randomTensor({4, 32}, 2)}};
  // Ties to either side, sums that round up to the next power of two and beyond
  // all numbers, and what is none.
  const double cases[][2] = {{1, 0x1p-8},           {1 + 0x1p-7, 0x1p-8},
                             {-1, -0x1p-8},         {2 - 0x1p-7, 0x1p-8},
                             {0x1.fep127, 0x1p119}, {INFINITY, 1},
                             {INFINITY, -INFINITY}, {-0.0, -0.0}};
  for (int64_t i = 0; i < std::ssize(cases); ++i) {
    in["a"][i] = cases[i][0];
    in["b"][i] = cases[i][1];
  }
  for (const Mode &mode : ofHost(bf16Modes())) {
    SCOPED_TRACE(nameOf(mode));
    Tensors exact = rounded(in, mode);
    for (int64_t i = 0; i < exact["a"].size(); ++i)
      exact["a"][i] += exact["b"][i];
    Tensor expected = roundToBf16(exact["a"]), y = run(add, in, mode)["y"];
    for (int64_t i = 0; i < y.size(); ++i)
      if (std::isnan(exact["a"][i]))
        EXPECT_TRUE(std::isnan(y[i])) << i;
      else
        EXPECT_EQ(y[i], expected[i]) << i;
  }
}

TEST(SumBits, SameForAnyNumberOfThreads) {
  expectSameBitsOnThreads(sums, sumInputs());
}

TEST_P(Rows, OfMatricesAreJoinedAndTaken) {
  Mode mode = GetParam();
  const TestProgram joined = {
      {{"a", "6x70x$T"}, {"b", "1x70x$T"}, {"c", "300x70x$T"}},
      R"(
  %y = moe.concat_rows %a, %b, %c : (tensor<6x70x$T>, tensor<1x70x$T>, tensor<300x70x$T>) -> tensor<307x70x$T>
  %z = moe.take_rows %y {first = 5 : i64} : (tensor<307x70x$T>) -> tensor<3x70x$T>)",
      {{"y", "307x70x$T"}, {"z", "3x70x$T"}}};
  Tensors in = rounded({{"a", randomTensor({6, 70}, 1)},
                        {"b", randomTensor({1, 70}, 2)},
                        {"c", randomTensor({300, 70}, 3)}},
                       mode);
  std::vector<double> y;
  for (const char *part : {"a", "b", "c"})
    y.insert(y.end(), in[part].values.begin(), in[part].values.end());
  Tensors out = run(joined, in, mode);
  EXPECT_EQ(out["y"].values, y);
  EXPECT_EQ(out["z"].values,
            std::vector<double>(y.begin() + 5 * 70, y.begin() + 8 * 70));
}

INSTANTIATE_TEST_SUITE_P(Modes, Rows, ::testing::ValuesIn(allModes()),
                         [](const auto &info) { return nameOf(info.param); });

} // namespace
