//===-- Pipelines.cpp - from a model to the fused level
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Transforms/Pipelines.h"

#include "moe/Transforms/Passes.h"

#include "mlir/Pass/PassRegistry.h"
#include "mlir/Transforms/Passes.h"

using namespace mlir;
using namespace mlir::moe;

/// Checks the model that a program is made from, and keeps it in the program.
static void addModel(OpPassManager &pm, bool embed) {
  pm.addPass(createVerifyLevel(VerifyLevelOptions{"model"}));
  if (embed)
    pm.addPass(createEmbedModel());
}

/// Fixes the shapes of a program, checks it and simplifies it.
static void addShapes(OpPassManager &pm, int64_t rows, int64_t length) {
  pm.addPass(createSpecializeShapes(SpecializeShapesOptions{rows, length}));
  // Every shape is static, and every entry point is bound.
  pm.addPass(createVerifyLevel(VerifyLevelOptions{"objective"}));
  pm.addPass(createCanonicalizerPass());
  pm.addPass(createCSEPass());
}

static void addFusion(OpPassManager &pm) {
  pm.addPass(createFuseRoutedMatmuls());
  pm.addPass(createCSEPass());
  pm.addPass(createSymbolDCEPass());
  // Every op becomes one kernel or a short series of kernels.
  pm.addPass(createVerifyLevel(VerifyLevelOptions{"fused"}));
}

void mlir::moe::buildExpandPipeline(OpPassManager &pm,
                                    const ExpandPipelineOptions &options) {
  UpcycleOptions upcycle;
  upcycle.experts = options.experts;
  upcycle.counts.assign(options.counts.begin(), options.counts.end());
  upcycle.topK = options.topK;
  upcycle.seed = options.seed;
  pm.addPass(createUpcycle(upcycle));
  // Every FFN has become a mixture of itself, expert 0, and copies of itself.
  pm.addPass(createFreezeBackbone());
  // New experts and routers train, and nothing else does.
  pm.addPass(createVerifyLevel(VerifyLevelOptions{"model"}));
}

void mlir::moe::buildTrainPipeline(OpPassManager &pm,
                                   const TrainPipelineOptions &options) {
  addModel(pm, options.embedModel);
  AddObjectiveOptions objective;
  objective.balance = options.balance;
  objective.balanceForm = options.balanceForm;
  objective.languagePrior = options.languagePrior;
  objective.languagePriorForm = options.languagePriorForm;
  objective.classifier = options.classifier;
  objective.routerCrossEntropy = options.routerCrossEntropy;
  pm.addPass(createAddObjective(objective));
  // @step returns the loss.
  addShapes(pm, options.rows, options.length);
  pm.addPass(createDifferentiate());
  // @step adds to the gradient of every trainable parameter.
  pm.addPass(
      createPlanActivations(PlanActivationsOptions{options.memoryBudget}));
  // The saved values fit the memory budget, if they can.
  pm.addPass(createVerifyLevel(VerifyLevelOptions{"step"}));
  pm.addPass(createFuseLoss(FuseLossOptions{options.chunk}));
  // No more than a chunk of logits exists at a time.
  addFusion(pm);
}

void mlir::moe::buildScorePipeline(OpPassManager &pm,
                                   const ScorePipelineOptions &options) {
  addModel(pm, options.embedModel);
  pm.addPass(createAddScoring(AddScoringOptions{options.logits}));
  // @score returns log-probabilities.
  addShapes(pm, options.rows, options.length);
  addFusion(pm);
}

void mlir::moe::buildGeneratePipeline(OpPassManager &pm,
                                      const GeneratePipelineOptions &options) {
  addModel(pm, options.embedModel);
  pm.addPass(createInsertCache(InsertCacheOptions{options.capacity}));
  // @extend keeps keys and values over calls.
  addShapes(pm, options.rows, options.length);
  addFusion(pm);
}

void mlir::moe::buildProbePipeline(OpPassManager &pm,
                                   const ProbePipelineOptions &options) {
  addModel(pm, options.embedModel);
  pm.addPass(createAddProbe(AddProbeOptions{options.what}));
  // @probe returns sums over each row of the batch.
  addShapes(pm, options.rows, options.length);
  addFusion(pm);
}

void mlir::moe::registerPipelines() {
  PassPipelineRegistration<ExpandPipelineOptions>(
      "moe-expand-pipeline",
      "a dense model to the mixture that stage 1 of MoE-LPR trains",
      buildExpandPipeline);
  PassPipelineRegistration<TrainPipelineOptions>(
      "moe-train-pipeline",
      "a model to @step at the fused level, the objective with its backward",
      buildTrainPipeline);
  PassPipelineRegistration<ScorePipelineOptions>(
      "moe-score-pipeline",
      "a model to @score at the fused level, the log-probability of every "
      "token",
      buildScorePipeline);
  PassPipelineRegistration<GeneratePipelineOptions>(
      "moe-generate-pipeline",
      "a model to @extend at the fused level, which generation calls",
      buildGeneratePipeline);
  PassPipelineRegistration<ProbePipelineOptions>(
      "moe-probe-pipeline",
      "a model to @probe at the fused level, what profiles measure",
      buildProbePipeline);
}
