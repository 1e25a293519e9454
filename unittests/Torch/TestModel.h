//===-- TestModel.h - small models for tests --------------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_UNITTESTS_TORCH_TESTMODEL_H
#define MOE_UNITTESTS_TORCH_TESTMODEL_H

#include "moe/Dialect/MoE.h"
#include "moe/Runtime/ThreadPool.h"
#include "moe/Torch/TorchExecutor.h"

#include "mlir/Parser/Parser.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

namespace polymoe {

/// A module in f64 with its parameters (which have no file: tests set them)
/// and its executor.
class TestModel {
public:
  explicit TestModel(const std::string &text, const Objective &objective = {})
      : pool(1) {
    context.loadDialect<mlir::moe::MoEDialect, mlir::func::FuncDialect>();
    module = mlir::parseSourceString<mlir::ModuleOp>(text, &context);
    if (!module)
      throw std::runtime_error("the test's module does not parse");
    std::vector<ParameterSpec> specs;
    for (auto op : module->getOps<mlir::moe::ParameterOp>()) {
      ParameterSpec spec;
      spec.name = op.getSymName().str();
      spec.dtype = DType::F64;
      spec.shape = mlir::cast<mlir::RankedTensorType>(op.getType()).getShape();
      spec.trainable = op.getTrainable();
      InitOrigin origin;
      origin.kind = InitOrigin::Kind::Normal;
      origin.standardDeviation = 0.5;
      spec.origin = origin;
      specs.push_back(spec);
    }
    store = std::make_unique<ParameterStore>(specs, ".", pool);
    executor = makeTorchExecutor(*module, *store, pool, objective, 1);
  }

  std::span<double> values(const std::string &name) {
    return span(store->value(name), name);
  }
  std::span<double> gradient(const std::string &name) {
    return span(store->gradient(name), name);
  }
  void set(const std::string &name, const std::vector<double> &to) {
    std::span<double> memory = values(name);
    ASSERT_EQ(memory.size(), to.size());
    std::copy(to.begin(), to.end(), memory.begin());
  }

  /// One row of `tokens`, predicting each next one, positions from 0.
  static Batch row(const std::vector<int32_t> &tokens) {
    Batch batch;
    batch.rows = 1;
    batch.length = static_cast<int64_t>(tokens.size());
    batch.tokens = tokens;
    for (size_t i = 0; i < tokens.size(); ++i) {
      batch.labels.push_back(i + 1 < tokens.size() ? tokens[i + 1] : -1);
      batch.positions.push_back(static_cast<int32_t>(i));
    }
    batch.languages.assign(tokens.size(), 0);
    batch.old.assign(tokens.size(), 0);
    batch.segments.assign(tokens.size(), 0);
    return batch;
  }

  /// Adds up gradients, those of a new step if `which` is its first.
  Losses accumulate(const Batch &batch, const LossWeights &weights,
                    MicroBatch which = {}) {
    return static_cast<HostTrainee &>(*executor.trainee)
        .accumulateGradients(batch, weights, which);
  }

  std::vector<float> logits(Batch batch, int64_t vocabulary) {
    // Tokens need not be labels: in the tests of ops, "logits" are anything.
    std::ranges::fill(batch.labels, -1);
    std::vector<float> logprobs(batch.tokens.size());
    std::vector<float> result(batch.tokens.size() * vocabulary);
    executor.scorer->score(batch, logprobs, result);
    return result;
  }

  mlir::MLIRContext context;
  mlir::OwningOpRef<mlir::ModuleOp> module;
  ThreadPool pool;
  std::unique_ptr<ParameterStore> store;
  Executor executor;

private:
  std::span<double> span(void *memory, const std::string &name) {
    int64_t elements = 1;
    for (int64_t size : store->spec(name).shape)
      elements *= size;
    return {static_cast<double *>(memory), static_cast<size_t>(elements)};
  }
};

inline void expectNear(const std::vector<float> &got,
                       const std::vector<double> &expected,
                       double tolerance = 1e-6) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i)
    EXPECT_NEAR(got[i], expected[i], tolerance) << "element " << i;
}

} // namespace polymoe

#endif // MOE_UNITTESTS_TORCH_TESTMODEL_H
