//===-- CompiledTest.cpp - LibTorch and compiled programs agree -----------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A random model of ops that few families have: soft caps of scores and of
// logits, scales, norms and plain FFNs without biases, xielu, and rotation of
// neighbours in a part of a head.
//
//===----------------------------------------------------------------------===//

#include "moe/Dialect/MoE.h"
#include "moe/Import/Module.h"
#include "moe/Runtime/HostTrainee.h"
#include "moe/Target/CompiledExecutor.h"
#include "moe/Torch/TorchExecutor.h"

#include "mlir/IR/MLIRContext.h"
#include "mlir/Parser/Parser.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <map>

using namespace polymoe;

namespace {

constexpr int64_t vocabulary = 31, rows = 2, length = 21;

/// Every token goes to both experts, so that no rounding error decides.
constexpr const char *model = R"(
func.func private @layer(%h: $X, %slots: $I, %segments: $I, %n: $D, %q: $Q, %k: $K, %v: $K, %m: $D, %r: $R,
                         %u0: $U, %d0: $W, %u1: $U, %d1: $W, %u2: $U, %d2: $W, %p2: $S, %n2: $S) -> $X {
  %cos, %sin = moe.rotary_table %slots {frequencies = array<f32: 1.0, 0.4, 0.1>, scale = 1.1} : ($I) -> ($C, $C)
  %x = moe.layer_norm %h, %n {epsilon = 1.0e-5} : ($X, $D) -> $X
  %q0 = moe.linear %x, %q : ($X, $Q) -> $X
  %q1 = moe.rotary %q0, %cos, %sin {interleaved, head_dim = 12 : i64} : ($X, $C, $C) -> $X
  %k0 = moe.linear %x, %k : ($X, $K) -> $Y
  %k1 = moe.rotary %k0, %cos, %sin {interleaved, head_dim = 12 : i64} : ($Y, $C, $C) -> $Y
  %v0 = moe.linear %x, %v : ($X, $K) -> $Y
  %a = moe.attention %q1, %k1, %v0, %slots, %segments {heads = 2 : i64, kv_heads = 1 : i64, scale = 0.8, window = 8 : i64, softcap = 1.2} : ($X, $Y, $Y, $I, $I) -> $X
  %a1 = moe.scale %a {factor = 0.7} : $X
  %h1 = moe.add %h, %a1 : ($X, $X) -> $X
  %y = moe.layer_norm %h1, %m {epsilon = 1.0e-5} : ($X, $D) -> $X
  %l = moe.router %y, %r : ($X, $R) -> $L
  %routes, %s = moe.route %l {renormalize} : ($L) -> (!moe.routes<?x2, 2>, $L)
  %e = moe.experts %y, %s, %routes, %u0, %d0, %u1, %d1 {form = #moe.ffn<plain>, activation = #moe.activation<gelu>} : ($X, $L, !moe.routes<?x2, 2>, $U, $W, $U, $W) -> $X
  %f = moe.ffn %y, %u2, %d2, %p2, %n2 {form = #moe.ffn<plain>, activation = #moe.activation<xielu>} : ($X, $U, $W, $S, $S) -> $X
  %h2 = moe.add %h1, %e : ($X, $X) -> $X
  %h3 = moe.add %h2, %f : ($X, $X) -> $X
  return %h3 : $X
}

func.func @forward(
    %tokens: $I {moe.binding = #moe.binding<input, "tokens">},
    %positions: $I {moe.binding = #moe.binding<input, "positions">},
    %slots: $I {moe.binding = #moe.binding<input, "slots">},
    %segments: $I {moe.binding = #moe.binding<input, "segments">})
    -> ($O {moe.binding = #moe.binding<output, "logits">}) {
  %embed = moe.get_parameter @embed : $E
  %x = moe.embedding %tokens, %embed : ($I, $E) -> $X
  %h0 = moe.scale %x {factor = 1.7} : $X
  $LAYERS
  %final = moe.get_parameter @final : $D
  %n = moe.layer_norm %h2, %final {epsilon = 1.0e-5} : ($X, $D) -> $X
  %all = moe.linear %n, %embed : ($X, $E) -> $O
  %logits = moe.soft_cap %all {cap = 2.5} : $O
  return %logits : $O
})";

std::string modelOf(const std::string &element) {
  const std::pair<const char *, std::string> weights[] = {
      {"n", "$D"},  {"q", "$Q"},  {"k", "$K"},  {"v", "$K"},  {"m", "$D"},
      {"r", "$R"},  {"u0", "$U"}, {"d0", "$W"}, {"u1", "$U"}, {"d1", "$W"},
      {"u2", "$U"}, {"d2", "$W"}, {"p2", "$S"}, {"n2", "$S"}};
  std::string parameters, layers;
  auto declare = [&](const std::string &name, const std::string &type) {
    parameters += "moe.parameter trainable backbone @" + name + " : " + type +
                  " from #moe.init<normal, seed = 3, std = 0.3>\n";
  };
  declare("embed", "$E");
  declare("final", "$D");
  for (int layer : {0, 1}) {
    std::string number = std::to_string(layer), operands, types;
    for (const auto &[name, type] : weights) {
      std::string full = name + std::string(".") + number;
      declare(full, type);
      layers +=
          "  %" + full + " = moe.get_parameter @" + full + " : " + type + "\n";
      operands += ", %" + full;
      types += ", " + type;
    }
    layers += "  %h" + std::to_string(layer + 1) + " = call @layer(%h" +
              number + ", %slots, %segments" + operands + ") : ($X, $I, $I" +
              types + ") -> $X\n";
  }
  std::string text = parameters + model;
  auto replace = [&](const std::string &what, const std::string &with) {
    for (size_t at = 0; (at = text.find(what, at)) != std::string::npos;
         at += with.size())
      text.replace(at, what.size(), with);
  };
  replace("$LAYERS", layers);
  replace("$X", "tensor<?x?x24x$T>");
  replace("$Y", "tensor<?x?x12x$T>");
  replace("$O", "tensor<?x?x31x$T>");
  replace("$L", element == "f64" ? "tensor<?x?x2xf64>" : "tensor<?x?x2xf32>");
  replace("$I", "tensor<?x?xi32>");
  replace("$S", "tensor<1x$T>");
  replace("$C", element == "f64" ? "tensor<?x?x3xf64>" : "tensor<?x?x3xf32>");
  replace("$D", "tensor<24x$T>");
  replace("$E", "tensor<31x24x$T>");
  replace("$Q", "tensor<24x24x$T>");
  replace("$K", "tensor<12x24x$T>");
  replace("$R", "tensor<2x24x$T>");
  replace("$U", "tensor<35x24x$T>");
  replace("$W", "tensor<24x35x$T>");
  replace("$T", element);
  return text;
}

Batch someBatch() {
  Batch batch;
  batch.rows = rows;
  batch.length = length;
  for (int32_t i = 0; i < rows * length; ++i) {
    batch.tokens.push_back((i * i + 3) % vocabulary);
    batch.labels.push_back(i % 11 == 7 ? -1 : (i * 7 + 1) % vocabulary);
    batch.positions.push_back(i % length);
    batch.segments.push_back(i % length / 12);
  }
  batch.languages.assign(rows * length, 0);
  batch.old.assign(rows * length, 0);
  return batch;
}

/// What an executor computes: `logits`, and gradients by parameter.
using Results = std::map<std::string, std::vector<double>>;

/// `count` numbers of an element type.
std::vector<double> numbersAt(const void *memory, const std::string &element,
                              int64_t count) {
  std::vector<double> numbers;
  for (int64_t i = 0; i < count; ++i)
    if (element == "f64")
      numbers.push_back(static_cast<const double *>(memory)[i]);
    else if (element == "f32")
      numbers.push_back(static_cast<const float *>(memory)[i]);
    else // the upper half of an f32
      numbers.push_back(std::bit_cast<float>(
          static_cast<uint32_t>(static_cast<const uint16_t *>(memory)[i])
          << 16));
  return numbers;
}

/// A model in a type, with its parameters.
struct Model {
  explicit Model(std::string type) : element(std::move(type)), pool(2) {
    registerModuleDialects(context);
    module =
        mlir::parseSourceString<mlir::ModuleOp>(modelOf(element), &context);
    if (!module)
      throw std::runtime_error("the test's module does not parse");
    store = std::make_unique<ParameterStore>(extractParameterSpecs(*module),
                                             ".", pool);
  }
  /// The same with the numbers of another, in f64.
  explicit Model(const Model *from) : Model("f64") {
    for (auto parameter : module->getOps<mlir::moe::ParameterOp>()) {
      std::string name = parameter.getSymName().str();
      std::vector<double> numbers = numbersAt(
          from->store->value(name), from->element, elementsOf(parameter));
      std::ranges::copy(numbers, static_cast<double *>(store->value(name)));
    }
  }

  static int64_t elementsOf(mlir::moe::ParameterOp parameter) {
    return mlir::cast<mlir::RankedTensorType>(parameter.getType())
        .getNumElements();
  }

  Results run(const Executor &executor) {
    Results results;
    std::vector<float> logits(rows * length * vocabulary);
    std::vector<float> logprobs(rows * length);
    executor.scorer->score(someBatch(), logprobs, logits);
    results["logits"].assign(logits.begin(), logits.end());
    results["logprobs"].assign(logprobs.begin(), logprobs.end());
    Losses losses =
        static_cast<HostTrainee &>(*executor.trainee)
            .accumulateGradients(someBatch(), {.token = 1.0 / (rows * length)},
                                 MicroBatch());
    results["loss"] = {losses.at("loss")};
    for (auto parameter : module->getOps<mlir::moe::ParameterOp>()) {
      std::string name = parameter.getSymName().str();
      results[name] =
          numbersAt(store->gradient(name), element == "f64" ? "f64" : "f32",
                    elementsOf(parameter));
    }
    return results;
  }
  Results byTorch() {
    return run(makeTorchExecutor(*module, *store, pool, Objective(), 1));
  }
  Results byProgram() {
    return run(makeCompiledExecutor(*module, *store, pool, Objective(), {}));
  }

  std::string element;
  mlir::MLIRContext context;
  ThreadPool pool;
  mlir::OwningOpRef<mlir::ModuleOp> module;
  std::unique_ptr<ParameterStore> store;
};

double norm(const std::vector<double> &values) {
  double squares = 0;
  for (double value : values)
    squares += value * value;
  return std::sqrt(squares);
}

/// How far `values` are from what is exact, as a part of its norm.
double errorOf(const std::vector<double> &values,
               const std::vector<double> &exact) {
  std::vector<double> difference = values;
  for (size_t i = 0; i < exact.size(); ++i)
    difference[i] -= exact.at(i);
  return norm(difference) / norm(exact);
}

class CompiledAndTorch : public ::testing::TestWithParam<const char *> {};

TEST_P(CompiledAndTorch, ComeEquallyCloseToTorchInF64) {
  Model model(GetParam());
  Results exact = Model(&model).byTorch();
  Results torch = model.byTorch(), compiled = model.byProgram();
  ASSERT_EQ(compiled.size(), exact.size());
  for (const auto &[name, values] : exact) {
    ASSERT_EQ(compiled[name].size(), values.size()) << name;
    EXPECT_GT(norm(values), 0) << name;
    // In the loss errors of either sign cancel by chance, so that the error of
    // one executor says nothing about that of the other.
    if (name == "loss")
      EXPECT_NEAR(compiled[name][0], values[0],
                  (GetParam() == std::string("f32") ? 1e-5 : 1e-2) *
                      std::abs(values[0]));
    // Gradients of routers are differences of nearly equal numbers.
    else
      EXPECT_LE(errorOf(compiled[name], values),
                1.75 * errorOf(torch[name], values) +
                    (name == "logits" ? 0 : 3e-7))
          << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Types, CompiledAndTorch,
                         ::testing::Values("f32", "bf16"));

} // namespace
