//===-- CompiledExecutor.h - models run by compiled code --------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TARGET_COMPILEDEXECUTOR_H
#define MOE_TARGET_COMPILEDEXECUTOR_H

#include "moe/Runtime/Executor.h"
#include "moe/Runtime/Memory.h"
#include "moe/Runtime/Objective.h"
#include "moe/Runtime/Parameters.h"
#include "moe/Runtime/ThreadPool.h"
#include "moe/Target/Compiler.h"

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

namespace polymoe {

struct CompiledExecutorOptions {
  mlir::moe::CompilerOptions compiler;
  /// MiB for saved activations, 0 for no limit.
  int64_t memoryBudget = 0;
  /// Rows of logits held at a time in training.
  int64_t chunk = 256;
  /// Tokens of a prompt that are fed at a time, longest first: each is a
  /// program, compiled for prompts that are long enough. Shorter ones go token
  /// by token, together.
  std::vector<int64_t> prefill = {512, 256, 32};
  /// A program that buildCpuPipeline left, to run in place of compiling one,
  /// and the file to name in errors. It outlives the executor.
  mlir::ModuleOp given;
  std::string givenFile;
};

struct ProgramUse;

/// Compiles a program for each shape that it meets, when it meets it, and keeps
/// it. All programs share one arena, and one copy of every packed weight.
class CompiledExecutor : public Executor {
public:
  /// `module` is at the model level. Module, store and pool must outlive the
  /// executor, which reads the store's memory in place.
  CompiledExecutor(mlir::ModuleOp module, ParameterStore &store,
                   ThreadPool &pool, const Objective &objective,
                   const CompiledExecutorOptions &options = {});
  ~CompiledExecutor() override;

  void beginStep(int64_t microBatches) override;
  Losses accumulateGradients(const Batch &batch,
                             const LossWeights &weights) override;
  void score(const Batch &batch, std::span<float> logprobs,
             std::span<float> logits) override;
  void parametersChanged() override { ++parameterVersion; }
  void beginSequences(int64_t count, int64_t capacity) override;
  void clearSequence(int64_t sequence) override;
  void extendSequences(std::span<Continuation> continuations,
                       std::span<float> logits) override;

  /// Throw Error if there is a given program and it is not one for training on,
  /// or scoring of, such batches.
  void requireTraining(int64_t rows, int64_t length, int64_t microBatches);
  void requireScoring(int64_t rows, int64_t length, bool logits) const;

  /// Where launches are recorded; null (the default) for nowhere.
  void setProfile(Profile *profile) { context.profile = profile; }
  /// Memory of packed weights.
  int64_t packedBytes() const;
  /// The kernels of the program that ran last, for a profile of it.
  const std::vector<KernelCost> &kernelCosts() const;

private:
  using BuildPipeline = std::function<void(mlir::OpPassManager &)>;
  /// What a program writes, by the name of its binding.
  using Outputs = std::map<std::string, std::pair<const Binding *, void *>>;
  /// Fills an input; false if there is none of that name.
  using FillInput = std::function<bool(const Binding &, void *)>;

  struct Program;
  struct Packed;
  /// The program for `use`; compiled by `build` when it is met first.
  Program &program(const std::string &key, const ProgramUse &use,
                   const BuildPipeline &build,
                   mlir::moe::PackedOnce packedOnce);
  void placeGradients(const Program &step);
  using MakeCode = std::function<
      llvm::FailureOr<std::unique_ptr<mlir::moe::CompiledProgram>>()>;
  /// What the compiler says of a failure of `make` is in the Error.
  std::unique_ptr<Program> makeProgram(const std::string &what,
                                       mlir::MLIRContext *in,
                                       const MakeCode &make);
  void loadGiven();
  void *memoryOf(const Binding &binding, Program &program);
  void addPreparation(Program &program, const char *name, bool trains);
  void prepare(Program &program);
  Outputs run(Program &program, const FillInput &fill);
  /// Memory of a state of the program for places `firstPlace` on.
  void *state(const Binding &binding);
  /// Feeds `tokens` [rows, count] to the places from `first` on, in slots
  /// `slots` of their caches, and returns the logits of `rows`.
  struct Feed {
    int64_t first, rows, count;
    std::vector<int32_t> tokens = {}, slots = {};
  };
  void feed(const Feed &feed, std::span<float> logits);
  int64_t feedPieces(const Continuation &continuation, std::span<float> logits);
  int64_t rowsOfStep() const;

  mlir::ModuleOp module;
  ParameterStore &store;
  Objective objective;
  CompiledExecutorOptions options;
  MoeContext context;
  std::map<std::string, std::unique_ptr<Program>> programs;
  std::unique_ptr<Program> given;
  Program *latest = nullptr;
  /// Packed weights of all programs by the name of their binding.
  std::map<std::string, Packed> packed;
  int64_t parameterVersion = 1;
  int64_t microBatches = 1;
  mlir::moe::Gradients gradients = mlir::moe::Gradients::Added;
  Buffer arena;
  /// A cache of the sequences that are being generated: one place for each.
  struct State {
    Buffer memory;
    int64_t bytesOfPlace = 0;
  };
  std::map<std::string, State> states;
  /// A sequence has a place from its first token on.
  struct Sequence {
    std::optional<int64_t> place;
    int64_t length = 0;
  };
  std::vector<Sequence> sequences;
  /// The sequences in places 0, 1, ...: no place before them is free, so that
  /// programs for fewer rows serve what is left.
  std::vector<int64_t> inPlaces;
  int64_t capacity = 0;
  /// Where the states of the program that runs begin.
  int64_t firstPlace = 0;
};

} // namespace polymoe

#endif // MOE_TARGET_COMPILEDEXECUTOR_H
