//===-- Pipelines.h - from a model to the fused level -----------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The named pipelines. All begin at the model level. The expand pipeline stays
// there; each of the others makes a program at the fused level, where the
// pipeline of a target takes over.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TRANSFORMS_PIPELINES_H
#define MOE_TRANSFORMS_PIPELINES_H

#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassOptions.h"

namespace mlir::moe {

/// The options of all pipelines that make programs.
template <typename Derived> struct ShapeOptions : PassPipelineOptions<Derived> {
  template <typename T>
  using Option = typename PassPipelineOptions<Derived>::template Option<T>;

  Option<int64_t> rows{*this, "rows", llvm::cl::desc("rows of a batch"),
                       llvm::cl::init(1)};
  Option<int64_t> length{*this, "length", llvm::cl::desc("tokens of a row"),
                         llvm::cl::init(1)};
  Option<bool> embedModel{
      *this, "embed-model",
      llvm::cl::desc("keep the model in the result, for moe-run"),
      llvm::cl::init(true)};
};

struct ExpandPipelineOptions : PassPipelineOptions<ExpandPipelineOptions> {
  Option<int64_t> experts{
      *this, "experts",
      llvm::cl::desc("experts of every layer, the original FFN included"),
      llvm::cl::init(6)};
  ListOption<int64_t> counts{
      *this, "counts",
      llvm::cl::desc("experts of each layer, in place of experts")};
  Option<int64_t> topK{*this, "top-k", llvm::cl::desc("experts of a token"),
                       llvm::cl::init(2)};
  Option<uint64_t> seed{*this, "seed",
                        llvm::cl::desc("seed of the routers' initialisation"),
                        llvm::cl::init(0)};
};

struct TrainPipelineOptions : ShapeOptions<TrainPipelineOptions> {
  Option<double> balance{*this, "balance",
                         llvm::cl::desc("coefficient of the balance loss"),
                         llvm::cl::init(0.0)};
  Option<std::string> balanceForm{*this, "balance-form",
                                  llvm::cl::desc("paper or reference"),
                                  llvm::cl::init("paper")};
  Option<double> languagePrior{
      *this, "language-prior",
      llvm::cl::desc("coefficient of the language-prior loss"),
      llvm::cl::init(0.0)};
  Option<std::string> languagePriorForm{*this, "language-prior-form",
                                        llvm::cl::desc("paper or reference"),
                                        llvm::cl::init("paper")};
  Option<double> classifier{
      *this, "classifier",
      llvm::cl::desc("coefficient of the loss of language gates"),
      llvm::cl::init(0.0)};
  Option<double> routerCrossEntropy{
      *this, "router-cross-entropy",
      llvm::cl::desc("coefficient of the loss that teaches routers groups"),
      llvm::cl::init(0.0)};
  Option<int64_t> memoryBudget{
      *this, "memory-budget",
      llvm::cl::desc("MiB for saved activations, 0 for no limit"),
      llvm::cl::init(0)};
  Option<int64_t> chunk{*this, "chunk",
                        llvm::cl::desc("rows of logits held at a time"),
                        llvm::cl::init(256)};
};

struct ScorePipelineOptions : ShapeOptions<ScorePipelineOptions> {
  Option<bool> logits{*this, "logits", llvm::cl::desc("return the logits too"),
                      llvm::cl::init(false)};
};

struct GeneratePipelineOptions : ShapeOptions<GeneratePipelineOptions> {
  Option<int64_t> capacity{*this, "capacity",
                           llvm::cl::desc("slots of a cache"),
                           llvm::cl::init(512)};
};

struct ProbePipelineOptions : ShapeOptions<ProbePipelineOptions> {
  Option<std::string> what{*this, "what", llvm::cl::desc("directions or loads"),
                           llvm::cl::init("directions")};
};

/// `--moe-expand-pipeline`: a dense model becomes the mixture that stage 1 of
/// MoE-LPR trains.
void buildExpandPipeline(OpPassManager &pm,
                         const ExpandPipelineOptions &options);

/// `--moe-train-pipeline`: @step, the objective with its backward.
void buildTrainPipeline(OpPassManager &pm, const TrainPipelineOptions &options);

/// `--moe-score-pipeline`: @score, the log-probability of every token.
void buildScorePipeline(OpPassManager &pm, const ScorePipelineOptions &options);

/// `--moe-generate-pipeline`: @extend, which appends tokens to sequences and
/// returns the logits after the last one.
void buildGeneratePipeline(OpPassManager &pm,
                           const GeneratePipelineOptions &options);

/// `--moe-probe-pipeline`: @probe, what profiles measure of hidden states.
void buildProbePipeline(OpPassManager &pm, const ProbePipelineOptions &options);

/// Registers the pipelines.
void registerPipelines();

} // namespace mlir::moe

#endif // MOE_TRANSFORMS_PIPELINES_H
