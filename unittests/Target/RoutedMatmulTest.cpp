//===-- RoutedMatmulTest.cpp - grouped products against plain loops -------===//
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

constexpr int64_t batch = 2, length = 37, width = 50, hidden = 35;
constexpr int64_t tokens = batch * length;

struct Config {
  int64_t experts, topK;
  bool gated;
  const char *activation;
  bool routed = true;
  bool languageGate = false;
};

std::string number(int64_t value) { return std::to_string(value); }

std::string matrix(int64_t rows, int64_t columns) {
  return number(rows) + "x" + number(columns) + "x$T";
}

const std::string activations =
    number(batch) + "x" + number(length) + "x" + number(width) + "x$T";

/// The names of the weights of expert `e`.
std::vector<std::string> weightNames(const Config &c, int64_t e) {
  std::vector<std::string> names =
      c.gated ? std::vector<std::string>{"gate", "up", "down"}
              : std::vector<std::string>{"up", "b", "down", "c"};
  for (std::string &name : names)
    name += number(e);
  return names;
}

std::vector<int64_t> weightShape(const std::string &name) {
  switch (name[0]) {
  case 'd':
    return {width, hidden};
  case 'b':
    return {hidden};
  case 'c':
    return {width};
  default:
    return {hidden, width};
  }
}

std::string weightType(const std::string &name, const std::string &element) {
  std::string type;
  for (int64_t extent : weightShape(name))
    type += number(extent) + "x";
  return type + element;
}

/// Operands of the weights whose name begins with one of `kinds`, and their
/// types.
std::pair<std::string, std::string> weightsOf(const Config &c,
                                              const std::string &kinds) {
  std::string operands, types;
  for (int64_t e = 0; e < c.experts; ++e)
    for (const std::string &name : weightNames(c, e))
      if (kinds.find(name[0]) != std::string::npos) {
        operands += ", %" + name;
        types += ", tensor<" + weightType(name, "$T") + ">";
      }
  return {operands, types};
}

/// Everything about one configuration as text.
struct Program {
  explicit Program(const Config &c) : c(c) {
    rows = c.routed ? tokens * c.topK : tokens;
    zWidth = c.gated ? 2 * hidden : hidden;
    form = c.gated ? "#moe.ffn<gated>" : "#moe.ffn<plain>";
    routes = "!moe.routes<" + number(c.experts) + ", " + number(c.topK) + ">";
    scores =
        number(batch) + "x" + number(length) + "x" + number(c.topK) + "x$P";
    routesOperand = c.routed ? ", %routes" : "";
    routesType = c.routed ? ", " + routes : "";
    segment = c.routed ? "1" : "0";
    yRows = c.routed ? matrix(rows, width) : activations;
  }

  std::string attributes(const std::string &segments, bool activation) const {
    return std::string(" {form = ") + form +
           (activation ? std::string(", activation = #moe.activation<") +
                             c.activation + ">"
                       : "") +
           ", operandSegmentSizes = array<i32: " + segments + ">}";
  }

  std::vector<Port> inputs() const {
    std::vector<Port> ports{{"x", activations}, {"dy", activations}};
    if (c.routed) {
      ports.push_back({"logits", number(batch) + "x" + number(length) + "x" +
                                     number(c.experts) + "x$P"});
      ports.push_back({"scores", scores});
    }
    if (c.languageGate)
      ports.push_back({"gate", number(batch) + "x" + number(length) + "x2x$P"});
    for (int64_t e = 0; e < c.experts; ++e)
      for (const std::string &name : weightNames(c, e))
        ports.push_back({name, weightType(name, "$T")});
    return ports;
  }

  std::string forwardBody() const {
    auto [ups, upTypes] = weightsOf(c, c.gated ? "gu" : "ub");
    auto [downs, downTypes] = weightsOf(c, c.gated ? "d" : "dc");
    std::string h = "tensor<" + matrix(rows, hidden) + ">";
    std::string z = "tensor<" + matrix(rows, zWidth) + ">";
    std::string count = number(2 * c.experts);
    std::string downCount = number((c.gated ? 1 : 2) * c.experts);
    std::string text;
    if (c.routed)
      text += std::string("  %routes, %own = moe.route %logits") +
              (c.languageGate ? ", %gate" : "") + " {renormalize} : (tensor<" +
              number(batch) + "x" + number(length) + "x" + number(c.experts) +
              "x$P>" +
              (c.languageGate ? ", tensor<" + number(batch) + "x" +
                                    number(length) + "x2x$P>"
                              : "") +
              ") -> (" + routes + ", tensor<" + scores + ">)\n";
    text += "  %h, %z = moe.routed_up %x" + routesOperand + ups +
            attributes("1, " + segment + ", " + count, true) + " : (tensor<" +
            activations + ">" + routesType + upTypes + ") -> (" + h + ", " + z +
            ")\n";
    text += std::string("  %") + (c.routed ? "rows" : "y") +
            " = moe.routed_down %h" + routesOperand + downs +
            attributes("1, " + segment + ", " + downCount, false) + " : (" + h +
            routesType + downTypes + ") -> tensor<" + yRows + ">\n";
    if (c.routed)
      text += "  %y = moe.combine %rows, %routes, %scores : (tensor<" + yRows +
              ">, " + routes + ", tensor<" + scores + ">) -> tensor<" +
              activations + ">\n";
    return text;
  }

  /// Gradients of the input, the scores and the weights of every expert but
  /// the first.
  TestProgram backward() const {
    TestProgram program{inputs(), forwardBody(), {{"y", activations}}};
    auto [downs, downTypes] = weightsOf(c, c.gated ? "d" : "dc");
    auto [ups, upTypes] = weightsOf(c, c.gated ? "gu" : "u");
    std::string z = "tensor<" + matrix(rows, zWidth) + ">";
    std::string h = "tensor<" + matrix(rows, hidden) + ">";
    std::string act = "tensor<" + activations + ">";
    std::string &body = program.body;
    body += std::string("  %dz, %scaled") + (c.routed ? ", %dscores" : "") +
            " = moe.routed_down_grad %dy" + (c.routed ? ", %scores" : "") +
            routesOperand + ", %z" + downs + " {form = " + form +
            ", activation = #moe.activation<" + c.activation +
            ">, operandSegmentSizes = array<i32: 1, " + segment + ", " +
            segment + ", 1, " + number((c.gated ? 1 : 2) * c.experts) +
            ">, resultSegmentSizes = array<i32: 1, 1, " + segment + ">} : (" +
            act + (c.routed ? ", tensor<" + scores + ">" : "") + routesType +
            ", " + z + downTypes + ") -> (" + z + ", " + h +
            (c.routed ? ", tensor<" + scores + ">" : "") + ")\n";
    std::string inner = c.routed ? "%dxrows" : "%dx";
    body += "  " + inner + " = moe.routed_input_grad %dz" + routesOperand +
            ups +
            attributes("1, " + segment + ", " +
                           number((c.gated ? 2 : 1) * c.experts),
                       false) +
            " : (" + z + routesType + upTypes + ") -> tensor<" + yRows + ">\n";
    if (c.routed)
      body += "  %dx = moe.combine %dxrows, %routes : (tensor<" + yRows +
              ">, " + routes + ") -> " + act + "\n";
    program.results.push_back({"dx", activations});
    if (c.routed)
      program.results.push_back({"dscores", scores});

    int64_t first = c.routed ? 1 : 0;
    auto grad = [&](const std::string &op, const std::string &kind,
                    const std::string &operands, const std::string &types,
                    const std::string &more) {
      std::string experts, results, resultTypes;
      for (int64_t e = first; e < c.experts; ++e) {
        std::string name = kind + number(e);
        experts += (e > first ? ", " : "") + number(e);
        results += (e > first ? ", %d" : "%d") + name;
        resultTypes += (e > first ? ", tensor<" : "tensor<") +
                       weightType(name, "$P") + ">";
        program.results.push_back({"d" + name, weightType(name, "$P")});
      }
      body += "  " + results + " = moe." + op + " " + operands + routesOperand +
              more + " {experts = array<i64: " + experts + ">" +
              types.substr(0, types.find('|')) + "} : (" +
              types.substr(types.find('|') + 1) + ") -> (" + resultTypes +
              ")\n";
    };
    std::string tail = routesType;
    grad("routed_weight_grad", "down", "%dy, %scaled",
         "|" + act + ", " + h + tail, "");
    if (c.gated)
      grad("routed_weight_grad", "gate", "%dz, %x", "|" + z + ", " + act + tail,
           "");
    grad("routed_weight_grad", "up", "%dz, %x",
         (c.gated ? ", offset = " + number(hidden) + " : i64|" : "|") + z +
             ", " + act + tail,
         "");
    if (!c.gated) {
      grad("routed_bias_grad", "b", "%dz",
           ", operandSegmentSizes = array<i32: 1, " + segment + ", 0>|" + z +
               tail,
           "");
      grad("routed_bias_grad", "c", "%dy",
           ", operandSegmentSizes = array<i32: 1, " + segment + ", " + segment +
               ">|" + act + tail + (c.routed ? ", tensor<" + scores + ">" : ""),
           c.routed ? ", %scores" : "");
    }
    return program;
  }

  TestProgram forward() const {
    return {inputs(), forwardBody(), {{"y", activations}}};
  }

  Config c;
  int64_t rows, zWidth;
  std::string form, routes, scores, routesOperand, routesType, segment, yRows;
};

/// The last expert of several gets no token.
Tensors inputsFor(const Config &c) {
  Tensors in{{"x", randomTensor({batch, length, width}, 1)},
             {"dy", randomTensor({batch, length, width}, 2)}};
  if (c.routed) {
    in["logits"] = randomTensor({batch, length, c.experts}, 3);
    if (c.experts > c.topK)
      for (int64_t t = 0; t < tokens; ++t)
        in["logits"][t * c.experts + c.experts - 1] = -9;
    in["scores"] = randomTensor({batch, length, c.topK}, 4);
  }
  if (c.languageGate)
    in["gate"] = randomTensor({batch, length, 2}, 99);
  uint64_t seed = 5;
  for (int64_t e = 0; e < c.experts; ++e)
    for (const std::string &name : weightNames(c, e)) {
      in[name] = randomTensor(weightShape(name), seed++);
      for (double &value : in[name].values)
        value = static_cast<float>(value * 0.3);
    }
  return in;
}

double activate(const std::string &kind, double x) {
  if (kind == "silu")
    return x / (1 + std::exp(-x));
  if (kind == "gelu")
    return x * 0.5 * (1 + std::erf(x / std::sqrt(2.0)));
  return 0.5 * x *
         (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

/// The mixture, token by token.
Tensor reference(const Config &c, const Tensors &in) {
  auto dot = [](const Tensor &w, int64_t row, int64_t n, const double *x) {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i)
      sum += w[row * n + i] * x[i];
    return sum;
  };
  Tensor y{{batch, length, width}, std::vector<double>(tokens * width)};
  for (int64_t t = 0; t < tokens; ++t) {
    std::vector<int64_t> order(c.experts);
    for (int64_t e = 0; e < c.experts; ++e)
      order[e] = e;
    if (c.routed)
      std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
        const double *logits = &in.at("logits").values[t * c.experts];
        return std::pair(-logits[a], a) < std::pair(-logits[b], b);
      });
    const double *x = &in.at("x").values[t * width];
    bool old =
        c.languageGate && in.at("gate")[2 * t] >= in.at("gate")[2 * t + 1];
    for (int64_t slot = 0; slot < (old ? 1 : c.topK); ++slot) {
      std::string e = number(old ? 0 : order[slot]);
      double score = c.routed ? in.at("scores")[t * c.topK + slot] : 1;
      std::vector<double> h(hidden);
      for (int64_t f = 0; f < hidden; ++f) {
        double up = dot(in.at("up" + e), f, width, x);
        h[f] = c.gated ? activate(c.activation,
                                  dot(in.at("gate" + e), f, width, x)) *
                             up
                       : activate(c.activation, up + in.at("b" + e)[f]);
      }
      for (int64_t i = 0; i < width; ++i)
        y[t * width + i] +=
            score * (dot(in.at("down" + e), i, hidden, h.data()) +
                     (c.gated ? 0 : in.at("c" + e)[i]));
    }
  }
  return y;
}

class RoutedMatmul : public ::testing::TestWithParam<Config> {};

TEST_P(RoutedMatmul, EqualsPlainLoops) {
  Tensors in = inputsFor(GetParam());
  for (const Mode &mode : allModes()) {
    SCOPED_TRACE(nameOf(mode));
    Tensors stored = rounded(in, mode);
    // A chain of two products and an activation between them.
    expectClose(run(Program(GetParam()).forward(), in, mode)["y"],
                reference(GetParam(), stored), 8 * mode.tolerance, "y");
  }
}

TEST_P(RoutedMatmul, GradientsAreThoseOfTheForward) {
  Program program(GetParam());
  Tensors in = inputsFor(GetParam());
  Mode f64{"f64", 0, 1e-12};
  Tensors out = run(program.backward(), in, f64);
  // One expert stands for all: they differ in nothing but their number.
  std::string checked = number(program.c.routed ? 1 : 0);
  for (auto &[name, gradient] : out)
    if (name == "dx" || name == "dscores" ||
        name.substr(name.size() - 1) == checked)
      expectGradient(program.forward(), in, "y", in["dy"], name.substr(1),
                     gradient);
}

TEST_P(RoutedMatmul, Bf16GradientsAreThoseOfF64) {
  Program program(GetParam());
  Tensors in = rounded(inputsFor(GetParam()), {"bf16", 0, 0});
  // Routed by the same logits.
  if (GetParam().routed)
    in["logits"] = inputsFor(GetParam())["logits"];
  Tensors expected = run(program.backward(), in, {"f64", 0, 0});
  for (const Mode &mode : bf16Modes()) {
    SCOPED_TRACE(nameOf(mode));
    // The hidden state, its gradient and what is made of them are rounded.
    for (auto &[name, tensor] : run(program.backward(), in, mode))
      expectClose(tensor, expected[name], 2 * mode.tolerance, name);
  }
}

TEST_P(RoutedMatmul, SameBitsForAnyNumberOfThreads) {
  expectSameBitsOnThreads(Program(GetParam()).backward(),
                          inputsFor(GetParam()));
}

TEST(RoutedMatmulRows, DependOnNoOtherExpert) {
  // Tokens of other experts come and go before and after those of expert 1,
  // which has an odd number of them.
  Config c{3, 1, true, "silu"};
  Program program(c);
  auto runWith = [&](const Mode &mode, bool toFirst) {
    Tensors in = inputsFor(c);
    for (int64_t t = 0; t < tokens; ++t) {
      int64_t expert = t % 2 == 1 ? 1 : toFirst || t % 4 ? 0 : 2;
      for (int64_t e = 0; e < c.experts; ++e)
        in["logits"][t * c.experts + e] = e == expert ? 1 : -1;
    }
    return run(program.backward(), in, mode);
  };
  for (const Mode &mode : hostModes()) {
    SCOPED_TRACE(nameOf(mode));
    Tensors one = runWith(mode, true), other = runWith(mode, false);
    for (const char *name : {"dgate1", "dup1", "ddown1"})
      EXPECT_EQ(one[name].values, other[name].values) << name;
    for (int64_t t = 1; t < tokens; t += 2)
      for (int64_t i = 0; i < width; ++i)
        EXPECT_EQ(one["y"][t * width + i], other["y"][t * width + i]);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Forms, RoutedMatmul,
    ::testing::Values(Config{4, 2, true, "silu"}, Config{3, 1, false, "gelu"},
                      Config{3, 3, true, "gelu_tanh"},
                      Config{4, 2, true, "silu", true, true},
                      Config{3, 2, false, "gelu", true, true},
                      Config{3, 1, true, "silu", true, true},
                      Config{1, 1, true, "silu", false},
                      Config{1, 1, false, "gelu_tanh", false}));

} // namespace
