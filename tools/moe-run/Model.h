//===-- Model.h - a model, its parameters, what runs it ---------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TOOLS_MOE_RUN_MODEL_H
#define MOE_TOOLS_MOE_RUN_MODEL_H

#include "moe/Dialect/MoE.h"
#include "moe/Import/Module.h"
#include "moe/Runtime/Data.h"
#include "moe/Runtime/Executor.h"
#include "moe/Runtime/Objective.h"
#include "moe/Runtime/Parameters.h"
#include "moe/Runtime/Progress.h"
#include "moe/Runtime/ThreadPool.h"
#include "moe/Target/CompiledExecutor.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json_fwd.hpp>

#include <memory>
#include <string>

namespace polymoe {

//===----------------------------------------------------------------------===//
// Options that several commands have
//===----------------------------------------------------------------------===//

/// Which model, and what runs it.
struct MachineOptions {
  std::string model;
  std::string executor = "compiled";
  std::string dtype; ///< empty: the model's own
  /// What routes go by: "router", or the "group" of a token's language.
  std::string routes = "router";
  mlir::moe::Bf16Products bf16Products = mlir::moe::hostBf16Products();
  mlir::moe::FrozenWeights frozenWeights = mlir::moe::FrozenWeights::AsIs;
  int threads = 0;
  /// MiB for activations that a step saves, 0 for no limit.
  int64_t memoryBudget = 0;
  /// Whether a corpus may have been made with another tokenizer than the
  /// model's.
  bool otherTokenizer = false;
};

void addMachineOptions(CLI::App &app, MachineOptions &options);
/// For commands that read a corpus.
CLI::Option *addOtherTokenizer(CLI::App &app, MachineOptions &options);
/// For commands whose data say the language of each token.
CLI::Option *addRoutes(CLI::App &app, MachineOptions &options);
/// For commands that run models without training.
void addFrozenWeights(CLI::App &app, MachineOptions &options);

Progress::Options progressOptions(double flopsPerToken = 0);

//===----------------------------------------------------------------------===//
// Models
//===----------------------------------------------------------------------===//

/// A module and where it came from.
class Model {
public:
  /// Loads `path`, a .mlir file or a run folder. Throws Error. Of a compiled
  /// module it takes the model that is embedded there.
  explicit Model(const std::filesystem::path &path);

  /// At the model level.
  mlir::ModuleOp module() { return *loaded.module; }
  /// The program that the file holds beside the model, in the LLVM dialect;
  /// null for most.
  mlir::ModuleOp program() { return program_ ? *program_ : mlir::ModuleOp(); }
  /// Against which the module's paths resolve.
  const std::filesystem::path &folder() const { return loaded.folder; }
  const std::filesystem::path &file() const { return loaded.file; }
  bool isRunFolder() const { return fromRunFolder; }

  /// The number of logits of a token.
  int64_t vocabulary();
  /// The tokenizer.json that belongs to the model; throws Error when it has
  /// none.
  std::filesystem::path tokenizer();
  bool hasTokenizer();
  /// The model's configuration, and what it says of generation where that has
  /// a file of its own; empty objects where there is none.
  nlohmann::json configuration();
  nlohmann::json generationConfiguration();
  /// Tokens of the longest sequence that the model is made for; 0 where its
  /// configuration names no limit (ALiBi has none).
  int64_t contextLimit();

  /// The groups of languages; empty where it has none.
  LanguageGroups groups();

  /// Says that the module's paths resolve against another folder now.
  void setFolder(std::filesystem::path folder) {
    loaded.folder = std::move(folder);
  }

private:
  std::filesystem::path findTokenizer();

  mlir::MLIRContext context;
  LoadedModule loaded;
  mlir::OwningOpRef<mlir::ModuleOp> program_;
  bool fromRunFolder;
};

/// Throws an Error that names both files if the corpus was made with another
/// tokenizer.json than the model's, where both are there.
void checkTokenizer(Model &model, const Corpus &corpus);

/// Warns where rows are longer than what the model is made for.
void warnOfLength(Model &model, int64_t length);

/// Prints `moe-run: warning: TEXT`.
void warn(const std::string &text);

/// Says which roles train, with commas, or "none" (moe-freeze-backbone). Throws
/// Error.
void setTrainable(mlir::ModuleOp module, llvm::StringRef roles);

/// What of a model runs: a copy that computes in the type that `options` name,
/// whose routes pass by language gates that nothing has trained yet, and go by
/// groups where `options` say so. Throws Error.
mlir::OwningOpRef<mlir::ModuleOp> modelToRun(mlir::ModuleOp module,
                                             const MachineOptions &options);

/// Loads the parameters of `module`, whose files lie relative to `model`'s
/// folder. Keys that it does not use are an error, but in a run folder and with
/// checkpoints of a run, of which later phases use a part.
std::unique_ptr<ParameterStore> loadParameters(Model &model,
                                               mlir::ModuleOp module,
                                               ThreadPool &pool, bool training,
                                               OptimizerStates states = {});

//===----------------------------------------------------------------------===//
// Executors
//===----------------------------------------------------------------------===//

CompiledExecutorOptions compiledOptions(const MachineOptions &options);

/// The executor that `options` names for `module`, which is at the model level
/// and outlives it, as does `file`, whose program runs if it has one. Throws
/// Error.
Executor makeExecutor(const MachineOptions &options, Model &file,
                      mlir::ModuleOp module, ParameterStore &store,
                      ThreadPool &pool, const Objective &objective = {});

/// All that running a model without training takes.
class Inference {
public:
  explicit Inference(const MachineOptions &options);

  Model model;
  ThreadPool pool;
  mlir::OwningOpRef<mlir::ModuleOp> module;
  std::unique_ptr<ParameterStore> store;
  Executor executor;
};

} // namespace polymoe

#endif // MOE_TOOLS_MOE_RUN_MODEL_H
