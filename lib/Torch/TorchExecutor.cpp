//===-- TorchExecutor.cpp - models run by LibTorch ------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Torch/TorchExecutor.h"

#include "Interpreter.h"
#include "Losses.h"

#include "moe/Runtime/Error.h"
#include "moe/Runtime/Generate.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/from_blob.h>
#include <c10/util/Exception.h>

#include <map>

namespace polymoe {

static at::ScalarType scalarType(DType type) {
  switch (type) {
  case DType::F64:
    return at::kDouble;
  case DType::F32:
    return at::kFloat;
  case DType::BF16:
    return at::kBFloat16;
  default:
    fail("expected a parameter of F64, F32 or BF16, but got ", type);
  }
}

namespace {

class TorchModel : public HostTrainee, public Scorer {
public:
  TorchModel(mlir::ModuleOp module, ParameterStore &store, ThreadPool &pool,
             const Objective &objective)
      : HostTrainee(store, launches), launches{&pool}, objective(objective),
        interpreter(module,
                    [this](llvm::StringRef name) { return parameter(name); }) {
    forward = module.lookupSymbol<mlir::func::FuncOp>("forward");
    if (!forward)
      fail("expected a module of the model level, but got one without "
           "@forward");
    for (const ParameterSpec &spec : store.specs()) {
      at::Tensor leaf = at::from_blob(store.value(spec.name), spec.shape,
                                      scalarType(spec.dtype));
      if (store.findTrainable(spec.name))
        leaf.requires_grad_();
      leaves.emplace(spec.name, std::move(leaf));
    }
  }

  Losses accumulateGradients(const Batch &batch, const LossWeights &weights,
                             MicroBatch which) override;
  void score(const Batch &batch, std::span<float> logprobs,
             std::span<float> logits) override;

private:
  /// A tensor in the parameter's memory; a leaf of autograd's graph if it
  /// trains.
  at::Tensor parameter(llvm::StringRef name) {
    auto it = leaves.find(name.str());
    if (it == leaves.end())
      fail("expected a parameter, but got @", name.str());
    return it->second;
  }

  /// A copy of [rows, length] integers of a batch.
  static at::Tensor ids(const std::vector<int32_t> &values, const Batch &batch,
                        const char *what) {
    if (static_cast<int64_t>(values.size()) != batch.rows * batch.length)
      fail("expected ", batch.rows * batch.length, " ", what, ", but got ",
           values.size());
    return at::from_blob(const_cast<int32_t *>(values.data()),
                         {batch.rows, batch.length}, at::kInt)
        .clone();
  }

  /// The logits [rows, length, vocabulary], and the decisions of the routers.
  at::Tensor run(const Batch &batch, std::vector<RoutedLayer> &routed) {
    std::vector<int32_t> slots(batch.rows * batch.length);
    for (size_t i = 0; i < slots.size(); ++i)
      slots[i] = static_cast<int32_t>(i % batch.length);
    llvm::SmallVector<at::Tensor> arguments;
    for (unsigned i = 0; i < forward.getNumArguments(); ++i) {
      auto binding = mlir::moe::BindingAttr::ofArgument(forward, i);
      llvm::StringRef name = binding ? binding.getName().getValue() : "";
      if (name == "tokens")
        arguments.push_back(ids(batch.tokens, batch, "tokens"));
      else if (name == "positions")
        arguments.push_back(ids(batch.positions, batch, "positions"));
      else if (name == "segments")
        arguments.push_back(ids(batch.segments, batch, "segments"));
      else if (name == "slots")
        arguments.push_back(ids(slots, batch, "slots"));
      else if (name == "groups")
        arguments.push_back(ids(batch.knownGroups(), batch, "groups"));
      else
        fail("argument ", i,
             " of @forward: expected to be bound to tokens, positions, slots, "
             "segments or groups, but got '",
             name.str(), "'");
    }
    std::vector<at::Tensor> results =
        interpreter.run(forward, arguments, routed);
    if (results.size() != 1)
      fail("expected @forward to return logits, but got ", results.size(),
           " results");
    return results[0];
  }

  Losses differentiate(const Batch &batch, const LossWeights &weights);
  void addGradients();

  MoeContext launches; ///< for the optimiser
  Objective objective;
  Interpreter interpreter;
  mlir::func::FuncOp forward;
  std::map<std::string, at::Tensor> leaves;
};

} // namespace

Losses TorchModel::differentiate(const Batch &batch,
                                 const LossWeights &weights) {
  std::vector<RoutedLayer> routed;
  at::Tensor logits = run(batch, routed);
  at::Tensor labels = ids(batch.labels, batch, "labels").to(at::kLong);
  at::Tensor loss = nextTokenLoss(logits, labels) * weights.token;
  Losses losses = {{"next_token", loss.item<double>()}};

  // Router losses are means over the MoE layers, the classifier's over the
  // layers with a gate.
  std::vector<RoutedLayer> gated;
  for (const RoutedLayer &layer : routed)
    if (layer.gate.defined())
      gated.push_back(layer);
  auto add = [&](const char *name, double coefficient, double weight,
                 const std::vector<RoutedLayer> &layers, const auto &lossOf) {
    if (coefficient == 0 || layers.empty())
      return;
    at::Tensor sum = lossOf(layers[0]);
    for (size_t layer = 1; layer < layers.size(); ++layer)
      sum = sum + lossOf(layers[layer]);
    at::Tensor mean = sum * (weight / static_cast<double>(layers.size()));
    losses[name] = mean.item<double>();
    loss = loss + mean * coefficient;
  };
  add("balance", objective.balance, weights.microBatch, routed,
      [&](const RoutedLayer &layer) {
        return balanceLoss(layer, objective.balanceForm);
      });
  add("language_prior", objective.languagePrior, weights.oldToken, routed,
      [&, old = ids(batch.old, batch, "old flags")](const RoutedLayer &layer) {
        return languagePriorLoss(layer, old, objective.languagePriorForm);
      });
  add("classifier", objective.classifier, weights.position, gated,
      [old = ids(batch.old, batch, "old flags")](const RoutedLayer &layer) {
        return classifierLoss(layer, old);
      });
  if (objective.routerCrossEntropy != 0)
    add("router_cross_entropy", objective.routerCrossEntropy, weights.position,
        routed,
        [groups = ids(batch.knownGroups(), batch, "groups")](
            const RoutedLayer &layer) {
          return routerCrossEntropy(layer, groups);
        });
  losses["loss"] = loss.item<double>();

  if (loss.requires_grad()) {
    loss.backward();
    addGradients();
  }
  return losses;
}

void TorchModel::addGradients() {
  at::NoGradGuard noGrad;
  for (const TrainableParameter &trainable : store.trainables()) {
    const ParameterSpec &spec = store.specs()[trainable.index];
    at::Tensor &leaf = leaves.at(spec.name);
    // The gradient of an expert without rows is undefined.
    if (!leaf.grad().defined())
      continue;
    at::Tensor sum = at::from_blob(trainable.gradient, spec.shape,
                                   scalarType(trainable.masterType));
    sum.add_(leaf.grad().to(sum.scalar_type()));
    leaf.mutable_grad() = at::Tensor();
  }
}

/// Runs `body` and turns PyTorch's errors into Error.
template <typename Body> static auto guarded(Body body) {
  try {
    return body();
  } catch (const c10::Error &error) {
    std::string text = error.what_without_backtrace();
    fail("LibTorch: ", text.substr(0, text.find('\n')));
  }
}

/// Copies a tensor to memory of as many floats.
static void copyTo(std::span<float> memory, const at::Tensor &tensor,
                   const char *what) {
  if (static_cast<int64_t>(memory.size()) != tensor.numel())
    fail("expected room for ", tensor.numel(), " ", what, ", but got ",
         memory.size());
  at::from_blob(memory.data(), tensor.sizes(), at::kFloat).copy_(tensor);
}

Losses TorchModel::accumulateGradients(const Batch &batch,
                                       const LossWeights &weights,
                                       MicroBatch which) {
  if (which.index == 0)
    store.zeroGradients();
  return guarded([&] {
    at::AutoGradMode grad(true);
    return differentiate(batch, weights);
  });
}

void TorchModel::score(const Batch &batch, std::span<float> logprobs,
                       std::span<float> logits) {
  guarded([&] {
    at::NoGradGuard noGrad;
    std::vector<RoutedLayer> routed;
    at::Tensor result = run(batch, routed);
    at::Tensor labels = ids(batch.labels, batch, "labels").to(at::kLong);
    copyTo(logprobs, labelLogprobs(result, labels), "log-probabilities");
    if (!logits.empty())
      copyTo(logits, result, "logits");
  });
}

Executor makeTorchExecutor(mlir::ModuleOp module, ParameterStore &store,
                           ThreadPool &pool, const Objective &objective,
                           int threads) {
  return guarded([&] {
    if (threads > 0)
      at::set_num_threads(threads);
    at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
    at::globalContext().setDeterministicFillUninitializedMemory(false);
    auto model = std::make_shared<TorchModel>(module, store, pool, objective);
    return Executor{model, model, std::make_shared<RescoringGenerator>(*model),
                    nullptr, "torch"};
  });
}

} // namespace polymoe

extern "C" __attribute__((visibility("default"))) void
moeMakeTorchExecutor(mlir::Operation *module, polymoe::ParameterStore *store,
                     polymoe::ThreadPool *pool,
                     const polymoe::Objective *objective, int threads,
                     polymoe::Executor *made) {
  *made = polymoe::makeTorchExecutor(mlir::cast<mlir::ModuleOp>(module), *store,
                                     *pool, *objective, threads);
}
