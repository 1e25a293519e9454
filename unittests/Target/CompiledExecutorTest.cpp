//===-- CompiledExecutorTest.cpp - programs that share packed weights -----===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Target/CompiledExecutor.h"

#include "moe/Dialect/MoE.h"
#include "moe/Import/Module.h"
#include "moe/Runtime/Error.h"
#include "moe/Runtime/HostTrainee.h"
#include "moe/Runtime/Parameters.h"

#include "mlir/IR/MLIRContext.h"
#include "mlir/Parser/Parser.h"

#include <gtest/gtest.h>

using namespace polymoe;

namespace {

constexpr const char *model = R"(
moe.parameter backbone @embed : tensor<19x24xf32> from #moe.init<normal, seed = 1, std = 1.0>
moe.parameter backbone @frozen : tensor<24x24xf32> from #moe.init<normal, seed = 2, std = 0.2>
moe.parameter trainable backbone @trained : tensor<24x24xf32> from #moe.init<normal, seed = 3, std = 0.2>

func.func private @layer(%x: tensor<?x?x24xf32>, %w: tensor<24x24xf32>) -> tensor<?x?x24xf32> {
  %y = moe.linear %x, %w : (tensor<?x?x24xf32>, tensor<24x24xf32>) -> tensor<?x?x24xf32>
  %z = moe.add %x, %y : (tensor<?x?x24xf32>, tensor<?x?x24xf32>) -> tensor<?x?x24xf32>
  return %z : tensor<?x?x24xf32>
}

func.func @forward(
    %tokens: tensor<?x?xi32> {moe.binding = #moe.binding<input, "tokens">},
    %positions: tensor<?x?xi32> {moe.binding = #moe.binding<input, "positions">},
    %slots: tensor<?x?xi32> {moe.binding = #moe.binding<input, "slots">},
    %segments: tensor<?x?xi32> {moe.binding = #moe.binding<input, "segments">})
    -> (tensor<?x?x19xf32> {moe.binding = #moe.binding<output, "logits">}) {
  %e = moe.get_parameter @embed : tensor<19x24xf32>
  %f = moe.get_parameter @frozen : tensor<24x24xf32>
  %t = moe.get_parameter @trained : tensor<24x24xf32>
  %x = moe.embedding %tokens, %e : (tensor<?x?xi32>, tensor<19x24xf32>) -> tensor<?x?x24xf32>
  %a = call @layer(%x, %f) : (tensor<?x?x24xf32>, tensor<24x24xf32>) -> tensor<?x?x24xf32>
  %b = call @layer(%a, %t) : (tensor<?x?x24xf32>, tensor<24x24xf32>) -> tensor<?x?x24xf32>
  %c = call @layer(%b, %f) : (tensor<?x?x24xf32>, tensor<24x24xf32>) -> tensor<?x?x24xf32>
  %l = moe.linear %c, %e : (tensor<?x?x24xf32>, tensor<19x24xf32>) -> tensor<?x?x19xf32>
  return %l : tensor<?x?x19xf32>
})";

class Packing : public ::testing::Test {
protected:
  Packing() : pool(2) {
    registerModuleDialects(context);
    module = mlir::parseSourceString<mlir::ModuleOp>(model, &context);
    store = std::make_unique<ParameterStore>(extractParameterSpecs(*module),
                                             ".", pool);
  }

  Executor makeExecutor(
      mlir::moe::PackedOnce packedOnce = mlir::moe::PackedOnce::All,
      mlir::moe::FrozenWeights frozenWeights = mlir::moe::FrozenWeights::AsIs) {
    CompiledExecutorOptions options;
    options.compiler.packedOnce = packedOnce;
    options.compiler.frozenWeights = frozenWeights;
    return makeCompiledExecutor(*module, *store, pool, Objective(), options);
  }

  static Batch batchOf(int64_t rows) {
    Batch batch;
    batch.rows = rows;
    batch.length = 7;
    for (int64_t i = 0; i < rows * 7; ++i) {
      batch.tokens.push_back(static_cast<int32_t>((i * 5 + 3) % 19));
      batch.labels.push_back(static_cast<int32_t>((i * 7 + 1) % 19));
      batch.positions.push_back(static_cast<int32_t>(i % 7));
    }
    batch.languages.assign(rows * 7, 0);
    batch.old.assign(rows * 7, 0);
    batch.segments.assign(rows * 7, 0);
    return batch;
  }

  static std::vector<float> score(const Executor &executor, int64_t rows = 2) {
    std::vector<float> logprobs(rows * 7);
    executor.scorer->score(batchOf(rows), logprobs, {});
    return logprobs;
  }

  static void accumulate(const Executor &executor, MicroBatch which = {}) {
    static_cast<HostTrainee &>(*executor.trainee)
        .accumulateGradients(batchOf(2), {.token = 1.0 / 14}, which);
  }

  void change(const std::string &name) {
    auto *values = static_cast<float *>(store->value(name));
    for (int64_t i = 0; i < 24 * 24; ++i)
      values[i] = -values[i] + 0.125F;
  }

  // Panels of a square weight, and of the output projection: two panels of 16
  // lanes or four of 8 cover both.
  static constexpr int64_t square = 24 * 32 * 4, projection = 24 * 32 * 4;

  mlir::MLIRContext context;
  ThreadPool pool;
  mlir::OwningOpRef<mlir::ModuleOp> module;
  std::unique_ptr<ParameterStore> store;
};

TEST_F(Packing, IsRepeatedWhenParametersChanged) {
  auto executor = makeExecutor();
  std::vector<float> before = score(executor);
  change("trained");
  executor.trainee->copyFromStore();
  std::vector<float> after = score(executor);
  EXPECT_NE(after, before);
  EXPECT_EQ(after, score(makeExecutor()));
  // A program that was compiled later, and the first one after a change.
  EXPECT_EQ(score(executor, 3), score(makeExecutor(), 3));
  change("trained");
  executor.trainee->copyFromStore();
  EXPECT_EQ(score(executor, 3), score(makeExecutor(), 3));
  EXPECT_EQ(score(executor), score(makeExecutor()));
}

TEST_F(Packing, IsDoneOnceForWhatIsFrozen) {
  auto executor = makeExecutor();
  std::vector<float> before = score(executor);
  // Nobody may do this: it shows that the weight is not read again.
  change("frozen");
  executor.trainee->copyFromStore();
  EXPECT_EQ(score(executor), before);
  EXPECT_NE(score(makeExecutor()), before);
}

TEST_F(Packing, IsSharedByPrograms) {
  auto executor = makeExecutor();
  score(executor);
  EXPECT_EQ(executor.profiled->packedBytes(), 2 * square + projection);
  score(executor, 3);
  EXPECT_EQ(executor.profiled->packedBytes(), 2 * square + projection);
}

TEST_F(Packing, HoldsNoSecondCopyOfWhatTrains) {
  auto executor = makeExecutor(mlir::moe::PackedOnce::Frozen);
  std::vector<float> before = score(executor);
  // The layers share a function, of which one packs what trains.
  EXPECT_EQ(executor.profiled->packedBytes(), projection);
  EXPECT_EQ(before, score(makeExecutor()));
  // Training reads frozen weights both ways, whatever inference keeps.
  auto training = makeExecutor();
  accumulate(training);
  int64_t projectionAsItLies = 19 * 32 * 4;
  EXPECT_EQ(training.profiled->packedBytes(),
            2 * square + projection + projectionAsItLies);
  change("trained");
  executor.trainee->copyFromStore();
  EXPECT_EQ(score(executor), score(makeExecutor()));
}

TEST_F(Packing, KeepsIntegersOfWhatIsFrozen) {
  using mlir::moe::FrozenWeights, mlir::moe::PackedOnce;
  auto executor = makeExecutor(PackedOnce::All, FrozenWeights::Int8);
  std::vector<float> logprobs = score(executor), exact = score(makeExecutor());
  EXPECT_NE(logprobs, exact);
  for (size_t i = 0; i < exact.size(); ++i)
    EXPECT_NEAR(logprobs[i], exact[i], 0.3);
  // The layers share a function, of which one has a weight that trains. A
  // byte for an element, and a scale of four for each column.
  EXPECT_EQ(executor.profiled->packedBytes(), 2 * square + (24 + 4) * 32);
  // A backward would not be that of such a forward.
  try {
    accumulate(executor);
    ADD_FAILURE() << "expected an error";
  } catch (const Error &error) {
    EXPECT_NE(std::string(error.what()).find("without gradients"),
              std::string::npos)
        << error.what();
  }
}

class Steps : public Packing {
protected:
  std::vector<float> gradient() {
    const auto *values = static_cast<float *>(store->gradient("trained"));
    return {values, values + 24 * 24};
  }
  bool isOwn() { return store->findTrainable("trained")->gradient == own; }

  void *own = store->gradient("trained");
};

TEST_F(Steps, OfOneMicroBatchHaveTheirGradientsInTheArena) {
  auto executor = makeExecutor();
  accumulate(executor, {0, 2});
  EXPECT_TRUE(isOwn());
  const std::vector<float> added = gradient();
  accumulate(executor, {1, 2});
  std::vector<float> twice = added;
  for (float &value : twice)
    value += value;
  EXPECT_EQ(gradient(), twice);

  for (int i = 0; i < 2; ++i) {
    accumulate(executor);
    EXPECT_FALSE(isOwn());
    EXPECT_EQ(gradient(), added);
    // A larger program may take another arena.
    score(executor, 40);
  }
  accumulate(executor, {0, 2});
  EXPECT_TRUE(isOwn());
  EXPECT_EQ(gradient(), added);
}

TEST_F(Steps, OfSeveralHaveTheirGradientsInTheOrderOfTheBackward) {
  module->lookupSymbol<mlir::moe::ParameterOp>("frozen").setTrainable(true);
  store = std::make_unique<ParameterStore>(extractParameterSpecs(*module), ".",
                                           pool);
  // Layers read `frozen`, `trained`, `frozen`: the last gradient is complete
  // with the first layer.
  accumulate(makeExecutor(), {0, 2});
  EXPECT_EQ(static_cast<float *>(store->gradient("trained")) + 24 * 24,
            store->gradient("frozen"));
}

} // namespace
