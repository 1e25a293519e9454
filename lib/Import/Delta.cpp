//===-- Delta.cpp - what training added to a base -------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Import/Delta.h"

#include "OutputFolder.h"
#include "moe/Dialect/MoE.h"
#include "moe/Import/Base.h"
#include "moe/Import/Checkpoint.h"
#include "moe/Import/Config.h"
#include "moe/Runtime/Error.h"
#include "moe/Runtime/Json.h"
#include "moe/Runtime/Parameters.h"
#include "moe/Runtime/Safetensors.h"
#include "moe/Runtime/ThreadPool.h"

#include <set>

using namespace polymoe;
namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

namespace {

constexpr const char *tensorsName = "delta.safetensors";
constexpr const char *indexName = "delta.json";
constexpr const char *moduleName = "model.mlir";

/// The tensors of a base: a Hugging Face folder, a module or a run folder.
class Base {
public:
  Base(const fs::path &path, const RunFolder::Warn &warn) : path(path) {
    if (fs::is_directory(path) && !fs::exists(path / moduleName)) {
      checkpoint.emplace(path);
      return;
    }
    mlir::MLIRContext context;
    registerModuleDialects(context);
    LoadedModule loaded = loadModule(path, context);
    if (fs::is_directory(path))
      useCheckpoints(path, warn, *loaded.module);
    SafetensorsFolder files(loaded.folder);
    for (const ParameterSpec &spec : extractParameterSpecs(*loaded.module))
      if (auto *origin = std::get_if<CheckpointOrigin>(&spec.origin))
        used.emplace(origin->key, files.open(origin->file));
  }

  struct Found {
    std::shared_ptr<const SafetensorsFile> file;
    const TensorInfo *tensor = nullptr;
  };

  /// The tensors called `key`. A module whose checkpoint has several files may
  /// have more than one.
  std::vector<Found> find(const std::string &key) const {
    std::vector<Found> all;
    if (checkpoint)
      // A checkpoint of the bare decoder does not name it.
      for (const std::string &name : {key, key.substr(key.find('.') + 1)})
        if (auto *entry = checkpoint->find(name)) {
          all.push_back({entry->file, entry->tensor});
          break;
        }
    for (auto it = used.lower_bound({key, nullptr});
         it != used.end() && it->first == key; ++it)
      all.push_back({it->second, &it->second->get(key)});
    return all;
  }

  const fs::path path;

private:
  std::optional<Checkpoint> checkpoint;
  std::set<std::pair<std::string, std::shared_ptr<const SafetensorsFile>>> used;
};

} // namespace

//===----------------------------------------------------------------------===//
// Export
//===----------------------------------------------------------------------===//

/// Whether the base has the tensor, whatever its file is called.
static bool hasTensor(const Base &base, const std::string &key,
                      const TensorIdentity &identity) {
  for (const Base::Found &found : base.find(key))
    if (found.tensor->shape == identity.shape &&
        found.tensor->dtypeName == identity.dtype &&
        identityOf(*found.file, *found.tensor) == identity)
      return true;
  return false;
}

static void writeDelta(const fs::path &path, std::vector<ParameterSpec> specs,
                       const fs::path &folder) {
  for (ParameterSpec &spec : specs)
    spec.trainable = false;
  ThreadPool pool;
  ParameterStore store(specs, folder, pool,
                       {.requireAllKeys = false, .training = false});
  SafetensorsWriter writer(path, trainedMetadata());
  for (const ParameterSpec &spec : specs)
    writer.add(
        spec.name, spec.dtype, spec.shape,
        {static_cast<const std::byte *>(store.value(spec.name)),
         static_cast<size_t>(*byteSizeOf(spec.shape, sizeOf(spec.dtype)))});
  writer.finish();
}

/// Copies the configuration and the tokenizer, and makes the module name the
/// copies.
static void copyConfiguration(const LoadedModule &loaded, const fs::path &to) {
  mlir::ModuleOp module = *loaded.module;
  if (!hasModelSource(module))
    return;
  ModelSource model = modelSource(module);
  fs::path config = loaded.folder / model.config;
  copyTokenizer(config.parent_path(), to);
  writeText(to / "config.json", readText(config));
  setModelFile(module, "config", "config.json");
  if (model.tokenizer) {
    fs::path tokenizer = loaded.folder / *model.tokenizer;
    copyTokenizer(tokenizer.parent_path(), to);
    writeText(to / "tokenizer.json", readText(tokenizer));
    setModelFile(module, "tokenizer", "tokenizer.json");
  }
}

void polymoe::exportDelta(const fs::path &source, const fs::path &output,
                          mlir::MLIRContext &context,
                          const DeltaOptions &options) {
  registerModuleDialects(context);
  LoadedModule loaded = loadModule(source, context);
  mlir::ModuleOp module = *loaded.module;
  if (fs::is_directory(source))
    useCheckpoints(source, options.warn, module);
  if (options.replace)
    checkReplaced(output, loaded);
  std::optional<Base> base;
  if (!options.base.empty())
    base.emplace(options.base, options.warn);

  // The tensors of the base. A file is called base/ and its own name, with a
  // number if two have the same name.
  SafetensorsFolder files(loaded.folder);
  std::vector<ParameterSpec> specs = extractParameterSpecs(module);
  std::map<std::string, std::string> nameOfFile;
  std::set<std::string> names;
  std::set<TensorName> ofBase;
  Json index = {
      {"format", "polymoe-delta"}, {"version", 1}, {"base", Json::array()}};
  for (const auto &[file, key] : tensorsOf(specs)) {
    const SafetensorsFile &opened = *files.open(file);
    if (!base && holdsTrained(opened))
      continue;
    TensorIdentity identity = identityOf(opened, opened.get(key));
    if (base && !hasTensor(*base, key, identity))
      continue;
    std::string &name = nameOfFile[file];
    for (int number = 1; name.empty(); ++number) {
      std::string candidate =
          concat("base/", number == 1 ? "" : concat(number, "-"),
                 fs::path(file).filename());
      if (names.insert(candidate).second)
        name = candidate;
    }
    ofBase.insert({file, key});
    index["base"].push_back(toJson({{name, key}, identity}));
  }

  OutputFolder folder(output, options.replace);
  std::vector<ParameterSpec> trained;
  for (const ParameterSpec &spec : specs) {
    auto *origin = std::get_if<CheckpointOrigin>(&spec.origin);
    if (!origin)
      continue;
    if (ofBase.count({origin->file, origin->key})) {
      setOrigin(module, spec.name,
                {nameOfFile.at(origin->file), origin->key, origin->rows});
      continue;
    }
    trained.push_back(spec);
    setOrigin(module, spec.name, {tensorsName, spec.name, std::nullopt});
  }
  if (trained.empty())
    fail(source, ": expected values that a run trained, but all are those of "
                 "the base");
  writeDelta(folder.path() / tensorsName, std::move(trained), loaded.folder);
  copyConfiguration(loaded, folder.path());
  writeText(folder.path() / indexName, index.dump(1) + "\n");
  saveModule(module, folder.path() / moduleName);
  folder.commit();
}

//===----------------------------------------------------------------------===//
// Merge
//===----------------------------------------------------------------------===//

static std::vector<BaseTensor> readIndex(const fs::path &delta) {
  fs::path path = delta / indexName;
  if (!fs::is_regular_file(path))
    fail(delta,
         ": expected a delta, as moe-translate --export-delta writes "
         "it, but it has no ",
         indexName);
  nlohmann::json json = readJsonObject(path);
  JsonReader index(json, path.string());
  if (index.text("format") != "polymoe-delta" || index.integer("version") != 1)
    index.fail("expected format polymoe-delta, version 1");
  return readBaseTensors(index.at("base"));
}

/// The file in which the base has exactly this tensor.
static std::shared_ptr<const SafetensorsFile>
locate(const Base &base, const BaseTensor &tensor, const fs::path &delta) {
  const auto &[dtype, shape, digest] = tensor.identity;
  const std::string &key = tensor.name.key;
  std::vector<Base::Found> all = base.find(key);
  if (all.empty())
    fail(base.path, ": expected the base that ", delta,
         " was made for, with key '", key, "' of ", dtype, " ", toString(shape),
         ", but there is none");
  TensorIdentity got;
  for (const Base::Found &found : all) {
    got = identityOf(*found.file, *found.tensor);
    if (got == tensor.identity)
      return found.file;
  }
  if (got.dtype != dtype || got.shape != shape)
    fail(all.back().file->path(), ": key '", key, "': expected ", dtype, " ",
         toString(shape), " as in the base that ", delta,
         " was made for, but got ", got.dtype, " ", toString(got.shape));
  fail(all.back().file->path(), ": key '", key,
       "': expected the value of the base that ", delta,
       " was made for (checksum ", digest, "), but got another (", got.digest,
       ")");
}

void polymoe::mergeDelta(const fs::path &delta, const fs::path &output,
                         mlir::MLIRContext &context,
                         const DeltaOptions &options) {
  registerModuleDialects(context);
  std::vector<BaseTensor> tensors = readIndex(delta);
  LoadedModule loaded = loadModule(delta / moduleName, context);
  mlir::ModuleOp module = *loaded.module;

  Base base(options.base, options.warn);
  std::map<TensorName, Base::Found> foundTensors;
  for (const BaseTensor &tensor : tensors) {
    auto file = locate(base, tensor, delta);
    foundTensors[tensor.name] = {file, file->find(tensor.name.key)};
  }
  std::vector<fs::path> sources = {delta / indexName, delta / tensorsName};
  for (const auto &[name, found] : foundTensors)
    sources.push_back(found.file->path());
  if (options.replace)
    for (const fs::path &source : sources)
      checkReplaced(output, loaded, {source});

  OutputFolder folder(output, options.replace);
  std::map<fs::path, std::string> nameOfFile;
  auto nameOf = [&](const fs::path &file) {
    std::string &name = nameOfFile[file];
    if (!name.empty())
      return name;
    if (!options.selfContained)
      return name = relativePath(file, folder.path());
    name = concat("base-", nameOfFile.size(), ".safetensors");
    linkOrCopy(file, folder.path() / name);
    return name;
  };
  linkOrCopy(delta / tensorsName, folder.path() / tensorsName);
  for (const ParameterSpec &spec : extractParameterSpecs(module)) {
    auto *origin = std::get_if<CheckpointOrigin>(&spec.origin);
    if (!origin || origin->file == tensorsName)
      continue;
    auto found = foundTensors.find({origin->file, origin->key});
    if (found == foundTensors.end())
      fail(delta / indexName, ": expected file '", origin->file, "', key '",
           origin->key, "', which parameter '", spec.name,
           "' is read from, but there is none");
    setOrigin(module, spec.name,
              {nameOf(found->second.file->path()), origin->key, origin->rows});
  }
  copyConfiguration(loaded, folder.path());
  saveModule(module, folder.path() / moduleName);
  noteBase(module, folder.path());
  folder.commit();
}
