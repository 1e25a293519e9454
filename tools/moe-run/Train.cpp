//===-- Train.cpp - trains a model, phase by phase ------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A run folder holds phases (stage 1, stage 2, ...), each with its options in
// run.json. model.mlir always names checkpoints that exist: it is rewritten
// after a checkpoint is complete and before older ones go.
//
//===----------------------------------------------------------------------===//

#include "Commands.h"
#include "Facts.h"
#include "TrainOptions.h"

#include "moe/Import/Base.h"
#include "moe/Runtime/Error.h"
#include "moe/Runtime/Evaluate.h"
#include "moe/Runtime/Files.h"
#include "moe/Runtime/Memory.h"
#include "moe/Runtime/Metrics.h"
#include "moe/Runtime/RunFolder.h"
#include "moe/Runtime/Safetensors.h"

#include "llvm/ADT/StringExtras.h"

#include <algorithm>
#include <iostream>
#include <set>

using namespace polymoe;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

/// What a phase without steps draws from.
class NoData : public BatchSource {
public:
  explicit NoData(int64_t length) : rowLength(length) {}
  const std::vector<Language> &languages() const override { return none; }
  int64_t length() const override { return rowLength; }
  Batch next(int64_t) override { fail("expected either --data or --tokens"); }
  void require(int64_t rows) const override {
    if (rows > 0)
      fail("expected either --data or --tokens");
  }
  void requireGroups() const override {}
  std::string position() const override { return "{}"; }
  void seek(std::string_view) override {}

private:
  std::vector<Language> none;
  int64_t rowLength;
};

/// One call of moe-run train.
class Training {
public:
  explicit Training(TrainCommandOptions &options);
  int run();

private:
  void choosePhase();
  void dropPhasesNotSaved(json &phases) const;
  void loadModel();
  void adoptCheckpoints();
  void freeze();
  void useTokenizer();
  void openData();
  std::vector<std::string> validatedLanguages() const;
  void chooseBatch(mlir::ModuleOp module);
  int64_t numGroups() const;
  void pointTo(const fs::path &checkpoint);
  int report(const TrainResult &result);

  TrainCommandOptions &options;
  bool isModelTheRun;
  fs::path out;
  RunFolder folder;
  json record; ///< run.json
  int64_t phase = 0;
  bool isBegun = false;    ///< the phase stands in run.json already
  bool isFinished = false; ///< and has done all its steps

  std::unique_ptr<Model> model;
  /// The model of the command line where a begun run goes on with its own:
  /// for its program.
  std::unique_ptr<Model> named;
  ThreadPool pool;
  std::unique_ptr<Corpus> corpus;
  std::unique_ptr<BatchSource> source;
};

} // namespace

static fs::path outputOf(const TrainCommandOptions &options) {
  if (!options.out.empty())
    return options.out;
  if (!fs::is_directory(options.machine.model))
    fail("--out: expected a run folder to write, since the model is not one");
  return options.machine.model;
}

Training::Training(TrainCommandOptions &options)
    : options(options), out(outputOf(options)),
      folder(out, RunFolder::Access::Write, warn),
      pool(options.machine.threads) {
  std::error_code error;
  isModelTheRun = fs::equivalent(options.machine.model, out, error);
}

/// Removes the last phases, if they were noted as begun and failed before their
/// first checkpoint. Damaged ones count: what they were is not known.
void Training::dropPhasesNotSaved(json &phases) const {
  std::vector<CheckpointInfo> all = folder.checkpoints();
  if (all.size() != folder.checkpointFolders().size())
    return;
  int64_t saved = 0;
  for (const CheckpointInfo &info : all)
    saved = std::max(saved, info.phase + 1);
  while (static_cast<int64_t>(phases.size()) > saved)
    phases.erase(phases.size() - 1);
}

/// Finds out which phase is meant: a new one, or one to resume.
void Training::choosePhase() {
  record = folder.readRun();
  if (record.is_null())
    record = {
        {"format", "polymoe-run"}, {"version", 1}, {"phases", json::array()}};
  if (!record.contains("phases") || !record["phases"].is_array())
    fail(out / "run.json", ": expected a list 'phases'");
  json &phases = record["phases"];
  std::optional<CheckpointInfo> latest = folder.latestCheckpoint();
  if (!latest && !folder.checkpointFolders().empty())
    fail(out / "checkpoints",
         ": expected a checkpoint to go on from, but all are damaged");
  if (latest && !options.resume)
    dropPhasesNotSaved(phases);
  int64_t last = static_cast<int64_t>(phases.size()) - 1;
  bool isLatestFinished = latest && folder.loadState(*latest).finished;
  bool isLastFinished = isLatestFinished && latest->phase == last;

  if (!isModelTheRun) {
    // The first phase of a run. What was begun and never saved is no run yet.
    if (latest && !options.resume)
      fail(out, ": expected a new run, but the folder holds one; --resume goes "
                "on with it");
    if (!latest)
      phases = json::array();
    isBegun = latest.has_value();
    isFinished = isBegun && (last > 0 || isLastFinished);
  } else {
    // A model's folder, of a merged delta, say, becomes a run by its first
    // phase.
    bool isSameStage =
        last >= 0 && (!options.isGiven("stage") ||
                      phases[last].value("stage", "") == options.phase.stage);
    isBegun = options.resume && isSameStage;
    if (!isBegun && last >= 0 && !isLastFinished)
      fail(out, ": expected a finished phase before a new one, but stage ",
           phases[last].value("stage", "?"),
           " is not; --resume goes on with it");
    // A damaged checkpoint may have been the end of the phase before.
    if (isBegun && latest && latest->phase < last &&
        !(isLatestFinished && latest->phase == last - 1))
      fail(out, ": expected the finished phase that stage ",
           phases[last].value("stage", "?"), " begins with, but got ",
           latest->folder);
    isFinished = isBegun && isLastFinished;
    phase = isBegun ? last : last + 1;
  }
  if (isBegun) {
    options.settleResumed(phases[phase]);
  } else {
    options.settleNew();
    phases.push_back(options.note());
  }
}

/// Makes the model name the tensors of `checkpoint`.
void Training::pointTo(const fs::path &checkpoint) {
  fs::path file = checkpoint / "parameters.safetensors";
  auto tensors = SafetensorsFile::open(file);
  for (const TensorInfo &tensor : tensors->tensors())
    setOrigin(model->module(), tensor.name,
              {relativePath(file, out), tensor.name, std::nullopt});
}

void Training::loadModel() {
  bool isInFolder = isModelTheRun || isBegun;
  model = std::make_unique<Model>(isInFolder ? out
                                             : fs::path(options.machine.model));
  if (!isModelTheRun && isBegun)
    named = std::make_unique<Model>(options.machine.model);
  if (isInFolder) {
    // A kill between checkpoint and module leaves the module behind.
    if (auto latest = folder.latestCheckpoint())
      pointTo(latest->folder);
  } else {
    rebasePaths(model->module(), model->folder(), out);
    model->setFolder(out);
    adoptCheckpoints();
  }
}

/// Gives what another run trained a name in this one: that run removes its
/// checkpoints when it goes on.
void Training::adoptCheckpoints() {
  std::map<std::string, std::string> nameOf;
  for (const ParameterSpec &spec : extractParameterSpecs(model->module())) {
    auto *origin = std::get_if<CheckpointOrigin>(&spec.origin);
    if (!origin)
      continue;
    auto [name, isNew] = nameOf.try_emplace(origin->file, origin->file);
    if (isNew && holdsTrained(*SafetensorsFile::open(out / origin->file))) {
      // One that lies here already keeps its name.
      fs::path relative = fs::path(relativePath(out / origin->file, out));
      if (relative.is_absolute() || *relative.begin() == "..") {
        name->second = concat("origins/", nameOf.size(), ".safetensors");
        std::error_code error;
        fs::create_directories(out / "origins", error);
        if (error)
          fail(out / "origins", ": cannot be created: ", error.message());
        linkOrCopy(out / origin->file, out / name->second);
      }
    }
    if (name->second != origin->file)
      setOrigin(model->module(), spec.name,
                {name->second, origin->key, origin->rows});
  }
}

/// Says what trains; nothing has to where no step is taken.
void Training::freeze() {
  mlir::ModuleOp module = model->module();
  auto hasRole = [&](llvm::StringRef role) {
    return llvm::any_of(module.getOps<mlir::moe::ParameterOp>(),
                        [&](mlir::moe::ParameterOp parameter) {
                          return stringifyRole(parameter.getRole()) ==
                                 role.trim();
                        });
  };
  bool trains =
      llvm::any_of(llvm::split(options.phase.trainRoles, ','), hasRole);
  if (!trains && options.phase.steps > 0)
    fail("stage ", options.phase.stage, ": expected parameters of the roles ",
         options.phase.trainRoles, ", but ", model->file(),
         " has none; moe-opt --moe-upcycle makes experts and routers");
  // A stage has its classifier loss for models with gates, and only for them.
  if (options.isGiven("classifier") && options.phase.classifier != 0 &&
      !hasRole("language_gate"))
    fail("--classifier: expected a model with language gates, but ",
         model->file(),
         " has none; moe-opt --moe-insert-language-gates makes "
         "them");
  setTrainable(module, trains ? options.phase.trainRoles : "none");
}

void Training::openData() {
  if (options.phase.steps == 0 && options.data.empty() &&
      options.tokens.empty()) {
    source = std::make_unique<NoData>(options.phase.sequence);
    return;
  }
  if (options.data.empty() == options.tokens.empty())
    fail("expected either --data or --tokens");
  if (!options.tokens.empty()) {
    for (const char *name : {"mix", "sampling-alpha", "batches"})
      if (options.isGiven(name))
        fail("--", name,
             ": expected --data, since the rows of --tokens are taken as they "
             "are");
    if (options.validateEvery)
      fail("--validate-every: expected --data with documents to validate on");
    auto file =
        std::make_unique<TokensFile>(options.tokens, model->vocabulary());
    file->setGroups(model->groups());
    source = std::move(file);
    if (options.isGiven("sequence") &&
        options.phase.sequence != source->length())
      fail("--sequence: expected ", source->length(),
           ", the length of the "
           "rows of ",
           options.tokens, ", but got ", options.phase.sequence);
    return;
  }
  corpus = std::make_unique<Corpus>(options.data, model->vocabulary());
  corpus->setGroups(model->groups());
  if (!options.machine.otherTokenizer)
    checkTokenizer(*model, *corpus);
  if (options.validateEvery && corpus->documents("valid").empty())
    fail("--validate-every: expected documents to validate on, but split "
         "'valid' of ",
         options.data, " has none");
  source = options.phase.source(*corpus);
}

/// Languages to validate on: where the model reads groups, those that have one.
std::vector<std::string> Training::validatedLanguages() const {
  if (options.machine.routes != "group")
    return {};
  std::set<std::string> codes;
  for (const Corpus::Document &document : corpus->documents("valid")) {
    const Language &language = corpus->languages()[size_t(document.language)];
    if (language.group >= 0)
      codes.insert(language.code);
  }
  if (codes.empty())
    fail("--validate-every: expected documents to validate on in languages "
         "that the model has a group for, but split 'valid' of ",
         options.data, " has none");
  return {codes.begin(), codes.end()};
}

/// A run folder carries its tokenizer: the model's, or else the corpus's.
void Training::useTokenizer() {
  fs::path tokenizer;
  mlir::ModuleOp module = model->module();
  bool hasSource = hasModelSource(module);
  if (hasSource && modelSource(module).tokenizer)
    tokenizer = model->folder() / *modelSource(module).tokenizer;
  else if (corpus && !corpus->tokenizer().empty())
    tokenizer = corpus->folder() / corpus->tokenizer();
  if (tokenizer.empty())
    return;
  if (!fs::exists(out / "tokenizer.json")) {
    // With what belongs to it and lies beside it.
    for (const char *name : {"tokenizer_config.json", "added_tokens.json",
                             "special_tokens_map.json"}) {
      fs::path file = tokenizer;
      if (fs::exists(file.replace_filename(name)))
        writeText(out / name, readText(file));
    }
    writeText(out / "tokenizer.json", readText(tokenizer));
  }
  if (hasSource)
    setModelFile(module, "tokenizer", "tokenizer.json");
}

/// The bytes that a training keeps from step to step: values, masters, moments
/// and gradients, and the compiler with its code.
static int64_t lastingBytes(mlir::ModuleOp module, OptimizerStates states) {
  int64_t bytes = int64_t(512) << 20;
  for (const ParameterSpec &spec : extractParameterSpecs(module))
    bytes += byteSizeOf(spec.shape, sizeOf(spec.dtype)).value_or(0) +
             trainingBytesOf(spec, states);
  return bytes;
}

int64_t Training::numGroups() const {
  int64_t count = 0;
  for (const auto &[language, group] : model->groups())
    count = std::max<int64_t>(count, group + 1);
  return count;
}

/// Gives --batch the paper's rows if they fit into memory, or else as many as
/// do, with as many micro-batches as make the same step unless --accumulate
/// says how many.
void Training::chooseBatch(mlir::ModuleOp module) {
  PhaseOptions &asked = options.phase;
  const bool hasProgram = (named ? *named : *model).program() != nullptr;
  if (options.isGiven("batch") || hasProgram || asked.steps == 0)
    return;
  const int64_t limit =
      options.memory > 0 ? options.memory << 20 : availableMemory() / 5 * 4;
  const int64_t lasting =
      lastingBytes(module, parseOptimizerStates(asked.optimizerStates));
  const int64_t step = asked.batch;
  const bool isTorch = options.machine.executor == "torch";
  auto microBatchesOf = [&](int64_t rows) {
    return options.isGiven("accumulate") ? asked.accumulate : step / rows;
  };
  auto bytesOf = [&](int64_t rows) {
    const int64_t bytes =
        stepBytes(module, asked.objective(), compiledOptions(options.machine),
                  rows, source->length(), microBatchesOf(rows));
    // LibTorch keeps all logits, what it makes of them and their gradients,
    // and activations that compiled code has done with.
    return lasting + (isTorch ? 2 * bytes + 16 * rows * source->length() *
                                                model->vocabulary()
                              : bytes);
  };
  // A micro-batch has text of one group of languages, a step that of all.
  const int64_t groups =
      asked.batches == "group" && !options.isGiven("accumulate") ? numGroups()
                                                                 : 1;
  auto hasAllGroups = [&](int64_t rows) { return step / rows % groups == 0; };
  // The next smaller number of rows that makes the same step, and one with
  // equally many micro-batches of each group if there is any.
  auto fewer = [&](int64_t rows) {
    do
      --rows;
    while (rows > 1 &&
           (step % rows != 0 || (hasAllGroups(1) && !hasAllGroups(rows))));
    return rows;
  };
  // What a row takes tells where to begin; the plan of that many rows decides.
  const int64_t two = bytesOf(2), row = std::max<int64_t>(two - bytesOf(1), 1);
  int64_t rows = step, bytes = 0;
  while (rows > 1 && rows * groups > step)
    rows = fewer(rows);
  const bool isWhole = rows == step;
  while (rows > 1 && two + (rows - 2) * row > limit)
    rows = fewer(rows);
  while ((bytes = bytesOf(rows)) > limit && rows > 1)
    rows = fewer(rows);
  if (bytes > limit)
    warn(concat("a step of one row needs ", formatAmount(double(bytes)),
                "B of memory, but there are ", formatAmount(double(limit)),
                "B; a shorter --sequence, --optimizer-states=8bit or a "
                "--memory-budget needs less"));
  if (rows == step)
    return;
  asked.accumulate = microBatchesOf(rows);
  asked.batch = rows;
  std::cerr << "moe-run: --batch=" << rows
            << " --accumulate=" << asked.accumulate << ": "
            << (isWhole ? concat(step, " rows at once do not fit into memory")
                        : "a micro-batch has one group of languages")
            << "; a step of " << rows * asked.accumulate
            << " rows in micro-batches takes " << formatAmount(double(bytes))
            << "B of " << formatAmount(double(limit)) << "B\n";
}

int Training::report(const TrainResult &result) {
  if (result.status == TrainResult::Status::Interrupted) {
    std::cerr << "moe-run: interrupted after step " << result.phaseStep
              << " of " << options.phase.steps
              << (result.checkpoint.empty() ? ", nothing to save yet"
                                            : ", all is saved")
              << "; to go on: the same command with --resume\n";
    return exitInterrupted;
  }
  std::cerr << "moe-run: stage " << options.phase.stage << ": "
            << result.phaseStep << " steps done, saved in "
            << result.checkpoint.string() << "\n";
  return 0;
}

int Training::run() {
  choosePhase();
  if (isFinished) {
    std::cerr << "moe-run: " << out.string() << ": stage "
              << options.phase.stage << " is finished already\n";
    // A kill after the last checkpoint leaves the module behind.
    loadModel();
    saveModule(model->module(), folder.modelPath());
    auto latest = folder.latestCheckpoint();
    if (latest->phase + 1 == static_cast<int64_t>(record["phases"].size()))
      folder.pruneCheckpoints(options.keep, latest->step);
    return 0;
  }
  loadModel();
  if (options.readsGroups() && model->groups().empty())
    fail("stage ", options.phase.stage,
         ": expected a model with groups of languages, but ", model->file(),
         " has none; moe-opt --moe-group-languages makes them");
  openData();
  if (options.readsGroups())
    source->requireGroups();
  warnOfLength(*model, source->length());
  useTokenizer();
  freeze();
  mlir::OwningOpRef<mlir::ModuleOp> module =
      modelToRun(model->module(), options.machine);
  // What lacks rows is not begun; Trainer counts those of a resumed phase.
  if (!isBegun) {
    chooseBatch(*module);
    record["phases"].back() = options.note();
    source->require(options.phase.steps * options.phase.batch *
                    options.phase.accumulate);
  }
  std::unique_ptr<ParameterStore> store =
      loadParameters(*model, *module, pool, /*training=*/true,
                     parseOptimizerStates(options.phase.optimizerStates));
  Model &program = named ? *named : *model;
  Executor executor = makeExecutor(options.machine, program, *module, *store,
                                   pool, options.phase.objective());
  if (program.program() && options.validateEvery > 0)
    fail("--validate-every: expected a module of the model level to score "
         "with, but ",
         program.file(), " is compiled");
  if (options.phase.steps > 0)
    executor.trainee->requireBatches(options.phase.batch, source->length(),
                                     options.phase.accumulate);

  TrainerOptions trainerOptions = options.phase.trainer();
  trainerOptions.saveEvery = options.saveEvery;
  trainerOptions.keep = options.keep;
  trainerOptions.validateEvery = options.validateEvery;
  trainerOptions.phase = phase;
  trainerOptions.variant = executor.variant;
  trainerOptions.resume = options.resume;

  Progress progress(
      "stage " + options.phase.stage, "step", options.phase.steps,
      progressOptions(
          factsOf(model->module(), source->length()).trainingFlops()));
  TrainerHooks hooks;
  hooks.progress = &progress;
  hooks.warn = warn;
  hooks.checkpointSaved = [&](const CheckpointInfo &info) {
    pointTo(info.folder);
    saveModule(model->module(), folder.modelPath());
  };
  if (options.validateEvery > 0)
    hooks.validate = [&, languages = validatedLanguages()] {
      EvaluateOptions evaluation;
      evaluation.languages = languages;
      evaluation.split = "valid";
      evaluation.windows = {.length = source->length(),
                            .rows = options.phase.batch};
      evaluation.maxDocuments = options.validateDocuments;
      evaluation.byGroup = options.machine.routes == "group";
      return bitsPerByteByName(evaluate(*executor.scorer, *corpus, evaluation),
                               "valid/");
    };

  // Only what can be trained is noted as begun.
  if (!isBegun || !fs::exists(out / "base.json"))
    noteBase(model->module(), out);
  saveModule(model->module(), folder.modelPath());
  folder.writeRun(record);
  Trainer trainer(*executor.trainee, *store, *source, folder, trainerOptions,
                  hooks);
  return report(trainer.run());
}

void polymoe::addTrainCommand(CLI::App &app, Command &command) {
  auto options = std::make_shared<TrainCommandOptions>();
  CLI::App *train =
      app.add_subcommand("train", "Trains a model into a run folder.");
  train->footer("  moe-run train moe.mlir --stage=1 --data corpus/ --out run/\n"
                "  moe-run train run/ --stage=2 --steps=2000 --data corpus/\n"
                "  moe-run train run/ --resume --data corpus/\n"
                "\n"
                "Given the folder of a run, a new phase begins inside it. "
                "Ctrl-C saves and stops (exit code 3); the same command with "
                "--resume goes on and ends with the same bits.");
  addTrainOptions(*train, *options);
  train->callback([options, &command] {
    command = [options] { return Training(*options).run(); };
  });
}
