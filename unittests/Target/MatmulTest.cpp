//===-- MatmulTest.cpp - dense products against plain loops ---------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "TestProgram.h"

#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>

using namespace polymoe::test;

namespace {

std::string replaceAll(std::string text, const std::string &from,
                       const std::string &to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos;
       at += to.size())
    text.replace(at, from.size(), to);
  return text;
}

/// y[m, n] = sum_k a(m, k) b(k, n), strides given for both.
Tensor product(int64_t m, int64_t n, int64_t inner, const Tensor &a,
               int64_t aRow, int64_t aInner, const Tensor &b, int64_t bInner,
               int64_t bColumn) {
  Tensor y{{m, n}, std::vector<double>(m * n)};
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j)
      for (int64_t k = 0; k < inner; ++k)
        y[i * n + j] += a[i * aRow + k * aInner] * b[k * bInner + j * bColumn];
  return y;
}

struct Shape {
  int64_t rows, length, inner, outer;
};

class Linear : public ::testing::TestWithParam<Shape> {};

const char *linearStep = R"(
func.func @step(
    %x: tensor<RxSxKxT> {moe.binding = #moe.binding<input, "x">},
    %w: tensor<NxKxT> {moe.binding = #moe.binding<parameter, "w">},
    %b: tensor<NxT> {moe.binding = #moe.binding<parameter, "b">},
    %dy: tensor<RxSxNxT> {moe.binding = #moe.binding<input, "dy">})
    -> (tensor<RxSxNxT> {moe.binding = #moe.binding<output, "y">},
        tensor<RxSxKxT> {moe.binding = #moe.binding<output, "dx">},
        tensor<NxKxf32> {moe.binding = #moe.binding<output, "dw">}) {
  %y = moe.linear %x, %w, %b : (tensor<RxSxKxT>, tensor<NxKxT>, tensor<NxT>) -> tensor<RxSxNxT>
  %dx = moe.linear_input_grad %dy, %w : (tensor<RxSxNxT>, tensor<NxKxT>) -> tensor<RxSxKxT>
  %dw = moe.linear_weight_grad %dy, %x : (tensor<RxSxNxT>, tensor<RxSxKxT>) -> tensor<NxKxf32>
  return %y, %dx, %dw : tensor<RxSxNxT>, tensor<RxSxKxT>, tensor<NxKxf32>
})";

std::string instantiate(const Shape &s, const std::string &type) {
  std::string ir = linearStep;
  ir =
      replaceAll(ir, "RxSx",
                 std::to_string(s.rows) + "x" + std::to_string(s.length) + "x");
  ir =
      replaceAll(ir, "NxKx",
                 std::to_string(s.outer) + "x" + std::to_string(s.inner) + "x");
  ir = replaceAll(ir, "Nx", std::to_string(s.outer) + "x");
  ir = replaceAll(ir, "Kx", std::to_string(s.inner) + "x");
  return replaceAll(ir, "xT>", "x" + type + ">");
}

Tensors inputsFor(const Shape &s) {
  return {{"x", randomTensor({s.rows, s.length, s.inner}, 1)},
          {"w", randomTensor({s.outer, s.inner}, 2)},
          {"b", randomTensor({s.outer}, 3)},
          {"dy", randomTensor({s.rows, s.length, s.outer}, 4)}};
}

TEST_P(Linear, EqualsPlainLoops) {
  Shape s = GetParam();
  int64_t tokens = s.rows * s.length;
  Tensors in = inputsFor(s);
  double tolerance = 1e-6;
  for (int64_t vectorBytes : {0, 32}) {
    Tensors out = runProgram(instantiate(s, "f32"), in, 1, vectorBytes);
    Tensor y = product(tokens, s.outer, s.inner, in["x"], s.inner, 1, in["w"],
                       1, s.inner);
    for (int64_t i = 0; i < y.size(); ++i)
      y[i] += in["b"][i % s.outer];
    expectClose(out["y"], y, tolerance, "y");
    expectClose(out["dx"],
                product(tokens, s.inner, s.outer, in["dy"], s.outer, 1, in["w"],
                        s.inner, 1),
                tolerance, "dx");
    expectClose(out["dw"],
                product(s.outer, s.inner, tokens, in["dy"], 1, s.outer, in["x"],
                        s.inner, 1),
                tolerance, "dw");
  }
}

TEST_P(Linear, Bf16SumsInF32) {
  Shape s = GetParam();
  int64_t tokens = s.rows * s.length;
  Tensors in = inputsFor(s);
  for (auto &[name, tensor] : in)
    tensor = roundToBf16(tensor);
  Tensor y = product(tokens, s.outer, s.inner, in["x"], s.inner, 1, in["w"], 1,
                     s.inner);
  for (int64_t i = 0; i < y.size(); ++i)
    y[i] += in["b"][i % s.outer];
  Tensor dx = product(tokens, s.inner, s.outer, in["dy"], s.outer, 1, in["w"],
                      s.inner, 1);
  Tensor dw = product(s.outer, s.inner, tokens, in["dy"], 1, s.outer, in["x"],
                      s.inner, 1);
  for (const Mode &mode : ofHost(bf16Modes())) {
    SCOPED_TRACE(nameOf(mode));
    Tensors out = runProgram(instantiate(s, "bf16"), in, 1, mode.vectorBytes,
                             mode.bf16Products);
    // One rounding of the result: half a unit in the eighth bit.
    expectClose(out["y"], y, 0x1p-8, "y");
    expectClose(out["dx"], dx, 0x1p-8, "dx");
    // Products are exact in f32, sums round as they do in a f32 model.
    expectClose(out["dw"], dw, 1e-6, "dw");
  }
}

/// Elements of a chain, as moe.linear states it.
constexpr int64_t chain = 256;

/// `sum_k a[k] b[k]`, by fused multiply-adds in chains of `length`.
template <typename T>
T sumOfChains(const double *a, const double *b, int64_t inner, int64_t length) {
  auto chainFrom = [&](int64_t first) {
    T sum = 0;
    for (int64_t k = first; k < std::min(first + length, inner); ++k)
      sum = std::fma(static_cast<T>(a[k]), static_cast<T>(b[k]), sum);
    return sum;
  };
  T sum = chainFrom(0);
  for (int64_t first = length; first < inner; first += length)
    sum += chainFrom(first);
  return sum;
}

/// The elements of `a b^T` in the type of `mode`.
Tensor productByChains(const Tensor &a, const Tensor &b, int64_t inner,
                       const Mode &mode, int64_t length = chain) {
  Tensor y;
  for (int64_t i = 0; i < a.size(); i += inner)
    for (int64_t j = 0; j < b.size(); j += inner) {
      const double *left = &a.values[i], *right = &b.values[j];
      y.values.push_back(mode.type == "f64"
                             ? sumOfChains<double>(left, right, inner, length)
                             : sumOfChains<float>(left, right, inner, length));
    }
  return y;
}

class LinearSum : public ::testing::TestWithParam<int64_t> {};

TEST_P(LinearSum, AddsUpChainsOfTheStatedLength) {
  constexpr int64_t outer = 37;
  int64_t inner = GetParam();
  for (int64_t rows : {1, 5, 30}) {
    // The gradient of the input sums over as many elements.
    Shape forward{1, rows, inner, outer}, backward{1, rows, outer, inner};
    Tensors in = inputsFor(forward), gradient = inputsFor(backward);
    in["b"] = {{outer}, std::vector<double>(outer)};
    Tensor transposed = gradient["w"];
    for (int64_t n = 0; n < inner; ++n)
      for (int64_t k = 0; k < outer; ++k)
        transposed[k * inner + n] = gradient["w"][n * outer + k];
    for (const Mode &mode : ofHost(preciseModes())) {
      SCOPED_TRACE(nameOf(mode) + ", rows " + std::to_string(rows));
      auto runWith = [&](const Shape &shape, const Tensors &inputs) {
        return runProgram(instantiate(shape, mode.type), inputs, 2,
                          mode.vectorBytes);
      };
      EXPECT_EQ(runWith(forward, in)["y"].values,
                productByChains(in["x"], in["w"], inner, mode).values);
      EXPECT_EQ(
          runWith(backward, gradient)["dx"].values,
          productByChains(gradient["dy"], transposed, inner, mode).values);
    }
  }
}

TEST(SumOfChains, ErrsLessThanOneChain) {
  constexpr int64_t inner = 1536;
  Shape s{1, 48, inner, 96};
  Tensors in = inputsFor(s);
  in["b"] = {{s.outer}, std::vector<double>(s.outer)};
  Tensor exact =
      product(s.length, s.outer, inner, in["x"], inner, 1, in["w"], 1, inner);
  auto error = [&](const Tensor &y) {
    double squares = 0;
    for (int64_t i = 0; i < y.size(); ++i)
      squares += (y[i] - exact[i]) * (y[i] - exact[i]);
    return std::sqrt(squares);
  };
  Mode f32{"f32", 0, 0};
  EXPECT_LT(error(runProgram(instantiate(s, "f32"), in)["y"]),
            0.5 * error(productByChains(in["x"], in["w"], inner, f32, inner)));
}

// A chain and less, several with a part of one, and rows that are taken in
// slices.
INSTANTIATE_TEST_SUITE_P(Lengths, LinearSum,
                         ::testing::Values(70, chain, 1536, 1601, 20003));

/// A router and its gradients: bf16 meets f32.
const char *routerStep = R"(
func.func @step(
    %x: tensor<2x37x75xbf16> {moe.binding = #moe.binding<input, "x">},
    %w: tensor<21x75xbf16> {moe.binding = #moe.binding<parameter, "w">},
    %dy: tensor<2x37x21xf32> {moe.binding = #moe.binding<input, "dy">})
    -> (tensor<2x37x21xf32> {moe.binding = #moe.binding<output, "y">},
        tensor<2x37x75xf32> {moe.binding = #moe.binding<output, "dx">},
        tensor<21x75xf32> {moe.binding = #moe.binding<output, "dw">}) {
  %y = moe.router %x, %w : (tensor<2x37x75xbf16>, tensor<21x75xbf16>) -> tensor<2x37x21xf32>
  %dx = moe.linear_input_grad %dy, %w : (tensor<2x37x21xf32>, tensor<21x75xbf16>) -> tensor<2x37x75xf32>
  %dw = moe.linear_weight_grad %dy, %x : (tensor<2x37x21xf32>, tensor<2x37x75xbf16>) -> tensor<21x75xf32>
  return %y, %dx, %dw : tensor<2x37x21xf32>, tensor<2x37x75xf32>, tensor<21x75xf32>
})";

TEST(LinearMixed, RoundsNoOperandOfF32) {
  constexpr int64_t tokens = 74, width = 75, experts = 21;
  Tensors in{{"x", roundToBf16(randomTensor({2, 37, width}, 1))},
             {"w", roundToBf16(randomTensor({experts, width}, 2))},
             {"dy", randomTensor({2, 37, experts}, 3)}};
  Tensors out = runProgram(routerStep, in);
  expectClose(
      out["y"],
      product(tokens, experts, width, in["x"], width, 1, in["w"], 1, width),
      1e-6, "y");
  expectClose(
      out["dx"],
      product(tokens, width, experts, in["dy"], experts, 1, in["w"], width, 1),
      1e-6, "dx");
  expectClose(
      out["dw"],
      product(experts, width, tokens, in["dy"], 1, experts, in["x"], width, 1),
      1e-6, "dw");
}

TEST_P(Linear, SameBitsForAnyNumberOfThreads) {
  Shape s = GetParam();
  Tensors in = inputsFor(s);
  for (const Mode &mode : ofHost(hostModes())) {
    SCOPED_TRACE(nameOf(mode));
    auto runWith = [&](int threads) {
      return runProgram(instantiate(s, mode.type), in, threads, 0,
                        mode.bf16Products);
    };
    Tensors one = runWith(1), four = runWith(4);
    for (auto &[name, tensor] : one)
      EXPECT_EQ(tensor.values, four[name].values) << name;
  }
}

/// What `panels` should hold of `columns` columns and `inner` elements, of
/// which a step takes `perStep` and a tile `atOnce` steps; element (k, column)
/// of the right operand is at(k, column).
template <typename At>
void expectPanels(const Tensor &panels, int64_t columns, int64_t inner,
                  int64_t perStep, int64_t atOnce, const At &at) {
  ASSERT_EQ(panels.shape.size(), 3u);
  int64_t steps = panels.shape[1], lanes = panels.shape[2] / perStep;
  int64_t taken = perStep * atOnce;
  EXPECT_EQ(steps, (inner + taken - 1) / taken * atOnce);
  EXPECT_GE(panels.shape[0] * lanes, columns);
  EXPECT_EQ(panels.shape[0] % 2, 0);
  int64_t position = 0;
  for (int64_t panel = 0; panel < panels.shape[0]; ++panel)
    for (int64_t step = 0; step < steps; ++step)
      for (int64_t lane = 0; lane < lanes; ++lane)
        for (int64_t i = 0; i < perStep; ++i) {
          int64_t column = panel * lanes + lane, k = step * perStep + i;
          ASSERT_EQ(panels[position++],
                    column < columns && k < inner ? at(k, column) : 0)
              << "element " << k << " of column " << column;
        }
}

TEST_P(Linear, PanelsHoldTheWeight) {
  Shape s = GetParam();
  std::vector<Mode> modes;
  for (int64_t vectorBytes : {64, 32}) {
    for (const char *type : {"f32", "bf16", "f64"})
      modes.push_back({type, vectorBytes, 0, Bf16Products::Widened});
    modes.push_back({"bf16", vectorBytes, 0, Bf16Products::Pairs});
  }
  modes.push_back({"bf16", 64, 0, Bf16Products::Amx});
  for (const Mode &mode : ofHost(modes)) {
    SCOPED_TRACE(nameOf(mode));
    Tensors in = rounded(inputsFor(s), mode);
    Tensors out = runProgram(instantiate(s, mode.type), in, /*threads=*/2,
                             mode.vectorBytes, mode.bf16Products);
    bool paired = mode.bf16Products != Bf16Products::Widened;
    bool tiled = mode.bf16Products == Bf16Products::Amx;
    std::string layout =
        std::to_string(mode.vectorBytes / (mode.type == "f64" ? 8 : 4)) +
        (paired ? "x2" : "") + (tiled ? "x16" : "");
    int64_t perStep = paired ? 2 : 1, atOnce = tiled ? 16 : 1;
    const Tensor &w = in["w"];
    expectPanels(
        out.at("w.transposed." + layout), s.outer, s.inner, perStep, atOnce,
        [&](int64_t k, int64_t column) { return w[column * s.inner + k]; });
    expectPanels(
        out.at("w.straight." + layout), s.inner, s.outer, perStep, atOnce,
        [&](int64_t k, int64_t column) { return w[k * s.inner + column]; });
  }
}

TEST(LinearRow, DependsNeitherOnOtherRowsNorOnTheTile) {
  constexpr int64_t inner = 51, outer = 71;
  Shape many{2, 37, inner, outer}, one{1, 1, inner, outer};
  Tensors in = inputsFor(many);
  for (const Mode &mode : ofHost(hostModes())) {
    SCOPED_TRACE(nameOf(mode));
    auto runWith = [&](const Shape &shape, const Tensors &inputs) {
      return runProgram(instantiate(shape, mode.type), inputs, 1, 0,
                        mode.bf16Products);
    };
    Tensors all = runWith(many, in);
    for (int64_t row : {0, 13, 73}) {
      Tensors single = in;
      single["x"] = {{1, 1, inner},
                     {in["x"].values.begin() + row * inner,
                      in["x"].values.begin() + (row + 1) * inner}};
      single["dy"] = {{1, 1, outer},
                      {in["dy"].values.begin() + row * outer,
                       in["dy"].values.begin() + (row + 1) * outer}};
      Tensors out = runWith(one, single);
      for (int64_t j = 0; j < outer; ++j)
        EXPECT_EQ(out["y"][j], all["y"][row * outer + j]);
      for (int64_t j = 0; j < inner; ++j)
        EXPECT_EQ(out["dx"][j], all["dx"][row * inner + j]);
    }
  }
}

TEST(Amx, OfTheHostEqualEmulatedOnes) {
  if (mlir::moe::hostBf16Products() != Bf16Products::Amx)
    GTEST_SKIP() << "the host has no AMX: other tests emulate it";
  Shape s{3, 50, 129, 48};
  Tensors in = inputsFor(s);
  auto runWith = [&](bool emulate) {
    return runProgram(instantiate(s, "bf16"), in, 1, 0, Bf16Products::Amx,
                      FrozenWeights::AsIs, emulate);
  };
  Tensors host = runWith(false), emulated = runWith(true);
  for (auto &[name, tensor] : emulated)
    // Sums may round elsewhere, and results differ by a bit of bf16.
    expectClose(host[name], tensor, name == "dw" ? 1e-6 : 0x1p-8, name);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, Linear,
    ::testing::Values(Shape{1, 1, 1, 1}, Shape{1, 5, 16, 32},
                      Shape{2, 37, 50, 70}, Shape{3, 50, 129, 48},
                      // A register tile of a tile and a part of one.
                      Shape{1, 21, 33, 31},
                      // Few panels, cut for the threads.
                      Shape{1, 3, 1001, 17},
                      // Taken in slices, the last a single column of f32.
                      Shape{1, 13, 16400, 5}, Shape{1, 13, 5, 16400},
                      Shape{1, 13, 32769, 5}, Shape{1, 13, 5, 32769}));

} // namespace
