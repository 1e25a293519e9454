//===-- Model.cpp - a model, its parameters, what runs it -----------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Model.h"

#include "moe/Import/Config.h"
#include "moe/Runtime/Error.h"
#include "moe/Runtime/Json.h"
#include "moe/Runtime/RunFolder.h"
#include "moe/Runtime/Safetensors.h"
#include "moe/Tokenizer/Tokenizer.h"
#include "moe/Transforms/Passes.h"

#include "mlir/Pass/PassManager.h"
#include "llvm/ADT/StringExtras.h"

#include <iostream>
#include <set>

using namespace mlir;
using namespace mlir::moe;
namespace fs = std::filesystem;

namespace polymoe {

template <typename Enum>
using Names = std::vector<std::pair<std::string, Enum>>;

/// An option that takes one of these names. CLI::CheckedTransformer would take
/// the numbers of the enumerators, too, and name them in the help.
template <typename Enum>
static void addEnumOption(CLI::App &app, const char *name, Enum &value,
                          const Names<Enum> &names, const char *help) {
  app.add_option(name, value, help)
      ->transform(CLI::Transformer(names).description(""))
      // The last that is added runs first.
      ->transform(CLI::IsMember(names))
      ->type_name("TEXT");
}

void addMachineOptions(CLI::App &app, MachineOptions &options) {
  app.add_option("model", options.model, "module (.mlir) or run folder")
      ->required()
      ->check(CLI::ExistingPath);
  app.add_option("--executor", options.executor,
                 "compiled: our own code; torch: LibTorch, op by op, as a "
                 "second opinion")
      ->check(CLI::IsMember({"compiled", "torch"}))
      ->capture_default_str();
  app.add_option("--dtype", options.dtype,
                 "type to compute in: fp32 or bf16 (default: the model's own)")
      ->check(CLI::IsMember({"fp32", "bf16"}));
  using Products = mlir::moe::Bf16Products;
  Names<Products> products = {{"widened", Products::Widened},
                              {"pairs", Products::Pairs},
                              {"amx", Products::Amx}};
  std::erase_if(products, [&](const auto &entry) {
    return entry.second > mlir::moe::hostBf16Products();
  });
  addEnumOption(app, "--bf16-products", options.bf16Products, products,
                "how compiled code multiplies bf16: widened to fp32, in pairs "
                "(AVX512-BF16) or by AMX; last bits of results depend on it "
                "(default: the last that this machine can do)");
  app.add_option("--threads", options.threads,
                 "threads, 0 for one per processor; results do not depend on "
                 "it")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
}

void addFrozenWeights(CLI::App &app, MachineOptions &options) {
  using Weights = mlir::moe::FrozenWeights;
  addEnumOption<Weights>(
      app, "--frozen-weights", options.frozenWeights,
      {{"as-is", Weights::AsIs}, {"int8", Weights::Int8}},
      "how compiled code keeps weights: as they are, or int8, rounded to 127 "
      "steps of a scale for each output channel: half the memory of bf16, and "
      "faster where reading it takes the time (default: as-is)");
}

CLI::Option *addOtherTokenizer(CLI::App &app, MachineOptions &options) {
  return app.add_flag("--allow-other-tokenizer", options.otherTokenizer,
                      "take a corpus that was made with another tokenizer.json "
                      "than the model's");
}

CLI::Option *addRoutes(CLI::App &app, MachineOptions &options) {
  return app
      .add_option("--routes", options.routes,
                  "what sends a token to its experts: the router, or the group "
                  "of its language, which has an expert (DMoE)")
      ->check(CLI::IsMember({"router", "group"}));
}

Progress::Options progressOptions(double flopsPerToken) {
  Progress::Options options;
  options.flopsPerToken = flopsPerToken;
  return options;
}

//===----------------------------------------------------------------------===//
// Models
//===----------------------------------------------------------------------===//

Model::Model(const fs::path &path) : fromRunFolder(fs::is_directory(path)) {
  registerModuleDialects(context);
  loaded = loadModule(path, context);
  if (std::string source = embeddedModel(module()); !source.empty()) {
    if (!module()->hasAttr(MoEDialect::TargetAttrHelper::getNameStr()))
      fail(file(), ": expected a module of the model level or a compiled one, "
                   "but got a level between; moe-opt --moe-cpu-pipeline "
                   "compiles it");
    program_ = std::move(loaded.module);
    loaded.module = parseModule(source, file().string(), context);
  }
  if (!module().lookupSymbol<func::FuncOp>("forward"))
    fail(file(), ": expected a module of the model level, but got one without "
                 "@forward");
}

int64_t Model::vocabulary() {
  auto forward = module().lookupSymbol<func::FuncOp>("forward");
  auto logits = forward.getNumResults() == 1
                    ? dyn_cast<RankedTensorType>(forward.getResultTypes()[0])
                    : RankedTensorType();
  if (!logits || logits.getRank() != 3 || logits.isDynamicDim(2))
    fail(file(), ": expected @forward to return logits [rows, length, "
                 "vocabulary]");
  return logits.getDimSize(2);
}

fs::path Model::findTokenizer() {
  if (fromRunFolder && fs::exists(folder() / "tokenizer.json"))
    return folder() / "tokenizer.json";
  if (hasModelSource(module()))
    if (auto tokenizer = modelSource(module()).tokenizer)
      return folder() / *tokenizer;
  return {};
}

bool Model::hasTokenizer() { return !findTokenizer().empty(); }

fs::path Model::tokenizer() {
  fs::path found = findTokenizer();
  if (found.empty())
    fail(file(), ": expected a model with a tokenizer, but it names none");
  return found;
}

nlohmann::json Model::configuration() {
  if (!hasModelSource(module()))
    return nlohmann::json::object();
  return textConfigOf(readJsonObject<nlohmann::ordered_json>(
      folder() / modelSource(module()).config));
}

nlohmann::json Model::generationConfiguration() {
  if (!hasModelSource(module()))
    return nlohmann::json::object();
  fs::path file = (folder() / modelSource(module()).config)
                      .replace_filename("generation_config.json");
  return fs::exists(file) ? readJsonObject(file) : nlohmann::json::object();
}

int64_t Model::contextLimit() {
  const nlohmann::json config = configuration();
  auto limit = config.find("max_position_embeddings");
  return limit != config.end() && limit->is_number_integer()
             ? limit->get<int64_t>()
             : 0;
}

LanguageGroups Model::groups() {
  LanguageGroups groups;
  MoEDialect::GroupsAttrHelper helper(&context);
  if (DictionaryAttr known = helper.getAttr(module()))
    for (NamedAttribute entry : known)
      groups[entry.getName().str()] =
          static_cast<int32_t>(cast<IntegerAttr>(entry.getValue()).getInt());
  return groups;
}

void checkTokenizer(Model &model, const Corpus &corpus) {
  if (corpus.tokenizer().empty() || !model.hasTokenizer())
    return;
  const fs::path ofModel = model.tokenizer().lexically_normal();
  const fs::path ofCorpus = corpus.folder() / corpus.tokenizer();
  if (!fs::exists(ofModel) || !fs::exists(ofCorpus))
    return;
  if (std::string difference = tokenizerDifference(ofModel, ofCorpus);
      !difference.empty())
    fail(ofCorpus, ": expected the tokenizer of the model, ", ofModel,
         ", but got another: ", difference,
         "; tokenize the text with the model's, or take the corpus as it is "
         "with --allow-other-tokenizer");
}

void warn(const std::string &text) {
  std::cerr << "moe-run: warning: " << text << "\n";
}

void warnOfLength(Model &model, int64_t length) {
  const int64_t limit = model.contextLimit();
  if (limit > 0 && length > limit)
    warn(concat("rows of ", length, " tokens are longer than the ", limit,
                " that the model is made for (max_position_embeddings)"));
}

void setTrainable(ModuleOp module, StringRef roles) {
  FreezeBackboneOptions options;
  for (StringRef role : llvm::split(roles, ','))
    options.train.push_back(role.trim().str());
  PassManager pm(module.getContext());
  pm.addPass(createFreezeBackbone(options));
  diagnose(*module.getContext(), [&] { return pm.run(module); });
}

OwningOpRef<ModuleOp> modelToRun(ModuleOp module,
                                 const MachineOptions &options) {
  OwningOpRef<ModuleOp> copy = module.clone();
  PassManager pm(module.getContext());
  if (!options.dtype.empty())
    pm.addPass(createConvertDType({options.dtype}));
  pm.addPass(createDropUntrainedGates());
  if (options.routes == "group")
    pm.addPass(createRouteByGroup());
  diagnose(*module.getContext(), [&] { return pm.run(*copy); });
  return copy;
}

/// Whether some parameter was trained by a run.
static bool readsTrained(const std::vector<ParameterSpec> &specs,
                         const fs::path &folder) {
  std::set<std::string> files;
  for (const ParameterSpec &spec : specs)
    if (auto *origin = std::get_if<CheckpointOrigin>(&spec.origin))
      files.insert(origin->file);
  return llvm::any_of(files, [&](const std::string &file) {
    return holdsTrained(*SafetensorsFile::open(folder / file));
  });
}

std::unique_ptr<ParameterStore> loadParameters(Model &model, ModuleOp module,
                                               ThreadPool &pool, bool training,
                                               OptimizerStates states) {
  ParameterOptions options;
  options.training = training;
  options.states = states;
  std::vector<ParameterSpec> specs = extractParameterSpecs(module);
  options.requireAllKeys =
      !model.isRunFolder() && !readsTrained(specs, model.folder());
  if (hasModelSource(module))
    for (const std::string &key : modelSource(module).ignored)
      options.ignoredKeys.push_back(key);
  return std::make_unique<ParameterStore>(std::move(specs), model.folder(),
                                          pool, options);
}

Inference::Inference(const MachineOptions &options)
    : model(options.model), pool(options.threads) {
  setTrainable(model.module(), "none");
  module = modelToRun(model.module(), options);
  store = loadParameters(model, *module, pool, /*training=*/false);
  executor = makeExecutor(options, model, *module, *store, pool);
}

} // namespace polymoe
