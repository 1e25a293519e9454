//===-- MatmulTest.cpp - dense products against plain loops ---------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "KernelTest.h"

#include <algorithm>
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
  // One chain of roundings: its error grows with its length.
  double tolerance =
      1e-6 * std::max<double>(1, std::max(s.inner, s.outer) / 2048.0);
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
  Tensors in = inputsFor(s);
  for (auto &[name, tensor] : in)
    tensor = roundToBf16(tensor);
  Tensors out = runProgram(instantiate(s, "bf16"), in);
  Tensor y = product(s.rows * s.length, s.outer, s.inner, in["x"], s.inner, 1,
                     in["w"], 1, s.inner);
  for (int64_t i = 0; i < y.size(); ++i)
    y[i] += in["b"][i % s.outer];
  // One rounding of the result: half a unit in the eighth bit.
  expectClose(out["y"], y, 0x1p-8, "y");
}

TEST_P(Linear, SameBitsForAnyNumberOfThreads) {
  Shape s = GetParam();
  Tensors in = inputsFor(s);
  Tensors one = runProgram(instantiate(s, "f32"), in, 1);
  Tensors four = runProgram(instantiate(s, "f32"), in, 4);
  for (auto &[name, tensor] : one)
    EXPECT_EQ(tensor.values, four[name].values) << name;
}

/// What `panels` should hold of `columns` columns with `inner` steps; element
/// (step, column) of the right operand is at(step, column).
template <typename At>
void expectPanels(const Tensor &panels, int64_t columns, int64_t inner,
                  const At &at) {
  ASSERT_EQ(panels.shape.size(), 3u);
  int64_t lanes = panels.shape[2];
  EXPECT_EQ(panels.shape[1], inner);
  EXPECT_GE(panels.shape[0] * lanes, columns);
  EXPECT_EQ(panels.shape[0] % 2, 0);
  for (int64_t panel = 0; panel < panels.shape[0]; ++panel)
    for (int64_t step = 0; step < inner; ++step)
      for (int64_t lane = 0; lane < lanes; ++lane) {
        int64_t column = panel * lanes + lane;
        ASSERT_EQ(panels[(panel * inner + step) * lanes + lane],
                  column < columns ? at(step, column) : 0)
            << "step " << step << " of column " << column;
      }
}

TEST_P(Linear, PanelsHoldTheWeight) {
  Shape s = GetParam();
  for (const char *type : {"f32", "bf16", "f64"})
    for (int64_t vectorBytes : {64, 32}) {
      Tensors in = inputsFor(s);
      if (type == std::string("bf16"))
        for (auto &[name, tensor] : in)
          tensor = roundToBf16(tensor);
      Tensors out =
          runProgram(instantiate(s, type), in, /*threads=*/2, vectorBytes);
      std::string lanes =
          std::to_string(vectorBytes / (type == std::string("f64") ? 8 : 4));
      const Tensor &w = in["w"];
      expectPanels(out.at("w.transposed." + lanes), s.outer, s.inner,
                   [&](int64_t step, int64_t column) {
                     return w[column * s.inner + step];
                   });
      expectPanels(out.at("w.straight." + lanes), s.inner, s.outer,
                   [&](int64_t step, int64_t column) {
                     return w[step * s.inner + column];
                   });
    }
}

TEST(LinearRow, DependsNeitherOnOtherRowsNorOnTheTile) {
  Shape many{2, 37, 50, 70}, one{1, 1, 50, 70};
  Tensors in = inputsFor(many);
  Tensors all = runProgram(instantiate(many, "f32"), in);
  for (int64_t row : {0, 13, 73}) {
    Tensors single = in;
    single["x"] = {{1, 1, 50},
                   {in["x"].values.begin() + row * 50,
                    in["x"].values.begin() + (row + 1) * 50}};
    single["dy"] = {{1, 1, 70},
                    {in["dy"].values.begin() + row * 70,
                     in["dy"].values.begin() + (row + 1) * 70}};
    Tensors out = runProgram(instantiate(one, "f32"), single);
    for (int64_t j = 0; j < 70; ++j)
      EXPECT_EQ(out["y"][j], all["y"][row * 70 + j]);
    for (int64_t j = 0; j < 50; ++j)
      EXPECT_EQ(out["dx"][j], all["dx"][row * 50 + j]);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, Linear,
    ::testing::Values(Shape{1, 1, 1, 1}, Shape{1, 5, 16, 32},
                      Shape{2, 37, 50, 70}, Shape{3, 50, 129, 48},
                      // Few panels, cut for the threads.
                      Shape{1, 3, 1001, 17},
                      // Wider than what is packed.
                      Shape{1, 13, 16400, 5}, Shape{1, 13, 5, 16400}));

} // namespace
