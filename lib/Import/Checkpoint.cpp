//===-- Checkpoint.cpp - the safetensors files of a folder
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Import/Checkpoint.h"

#include "moe/Runtime/Error.h"
#include "moe/Runtime/Json.h"
#include "moe/Runtime/Memory.h"

#include <nlohmann/json.hpp>

#include <cstring>

using namespace polymoe;
namespace fs = std::filesystem;

//===----------------------------------------------------------------------===//
// The files
//===----------------------------------------------------------------------===//

static constexpr char singleName[] = "model.safetensors";
static constexpr char indexName[] = "model.safetensors.index.json";

/// Fails for a folder without a checkpoint that is read.
[[noreturn]] static void failWithout(const fs::path &folder) {
  for (const auto &entry : fs::directory_iterator(folder))
    if (entry.path().extension() == ".bin")
      fail(folder, ": expected ", singleName, ", but got ",
           entry.path().filename(),
           ", which is not read; transformers converts it: "
           "AutoModelForCausalLM.from_pretrained(FOLDER)"
           ".save_pretrained(OTHER)");
  fail(folder, ": expected ", singleName, " or ", indexName,
       ", but there is neither");
}

Checkpoint::Checkpoint(const fs::path &folder) : root(folder) {
  const bool single = fs::exists(root / singleName);
  const bool index = fs::exists(root / indexName);
  if (!single && !index)
    failWithout(root);
  if (single)
    openSingle();
  // Beside shards some programs leave a file that lacks tensors, or has none.
  if (index && !(single && holdsIndexed()))
    openSharded();
}

/// Whether the tensors are all that the index names.
bool Checkpoint::holdsIndexed() const {
  const nlohmann::json json = readJsonObject(root / indexName);
  const JsonReader weightMap =
      JsonReader(json, (root / indexName).string()).at("weight_map");
  weightMap.expectObject();
  for (const auto &[key, file] : weightMap.json().items())
    if (!tensors.count(key))
      return false;
  return true;
}

void Checkpoint::openSingle() {
  main = root / singleName;
  auto file = SafetensorsFile::open(main);
  for (const TensorInfo &tensor : file->tensors())
    tensors[tensor.name] = {file, &tensor};
}

void Checkpoint::openSharded() {
  tensors.clear();
  main = root / indexName;
  nlohmann::json index = readJsonObject(main);
  JsonReader weightMap = JsonReader(index, main.string()).at("weight_map");
  weightMap.expectObject();

  SafetensorsFolder shards(root);
  for (const auto &[key, value] : weightMap.json().items()) {
    std::string name = value.is_string() ? value.get<std::string>() : "";
    // A shard lies beside its index and nowhere else.
    if (name.empty() || fs::path(name).filename() != name || name == "..")
      weightMap.at(key).expected("the name of a file");
    auto file = shards.open(name);
    const TensorInfo *tensor = file->find(key);
    if (!tensor)
      fail(root / name, ": expected tensor '", key, "', which ",
           main.filename(), " says is there, but there is none");
    tensors[key] = {file, tensor};
  }
  for (const auto &[name, file] : shards.opened())
    for (const TensorInfo &tensor : file->tensors())
      if (weightMap.at(tensor.name).json() != name)
        fail(root / name, ": expected only tensors that ", main.filename(),
             " says are there, but got '", tensor.name, "'");
}

/// What the text model itself calls the tensor `key`: without what programs
/// that wrap the model put before its names.
static std::string nameInModel(std::string key, bool wrapped) {
  // torch.compile's, at any module.
  constexpr std::string_view compiled = "_orig_mod.";
  for (size_t at; (at = key.find(compiled)) != std::string::npos;)
    key.erase(at, compiled.size());
  auto replace = [&](std::string_view prefix, std::string_view by) {
    if (key.starts_with(prefix))
      key.replace(0, prefix.size(), by);
  };
  // PEFT's.
  replace("base_model.model.", "");
  if (wrapped) {
    replace("model.language_model.", "model.");
    replace("language_model.", "");
  }
  return key;
}

void Checkpoint::renameAll(const ModelConfig &config) {
  const Family::Keys &keys = config.family->keys;
  const std::string base = std::string(keys.root) + ".";
  std::map<std::string, Entry> renamed;
  for (const auto &[key, entry] : tensors) {
    auto [it, isNew] =
        renamed.try_emplace(nameInModel(key, config.wrapped), entry);
    if (!isNew)
      fail(entry.file->path(), ": tensor '", key,
           "': expected one tensor for each parameter, but got '",
           it->second.tensor->name, "' too");
  }
  // A checkpoint of the bare decoder has keys without the name of the decoder
  // in the model.
  const std::string embedding = std::string(keys.embedding) + ".weight";
  if (renamed.count(embedding) && !renamed.count(base + embedding)) {
    std::map<std::string, Entry> based;
    for (const auto &[key, entry] : renamed)
      based[key == "lm_head.weight" ? key : base + key] = entry;
    renamed = std::move(based);
  }
  tensors = std::move(renamed);
}

const Checkpoint::Entry *Checkpoint::find(const std::string &key) const {
  auto it = tensors.find(key);
  return it == tensors.end() ? nullptr : &it->second;
}

//===----------------------------------------------------------------------===//
// The model in them
//===----------------------------------------------------------------------===//

static FoundTensor findTensor(const ParameterLayout &parameter,
                              const Checkpoint &checkpoint) {
  for (const TensorLocation &location : parameter.locations) {
    const Checkpoint::Entry *entry = checkpoint.find(location.key);
    if (!entry)
      continue;
    if (entry->tensor->shape != location.shape)
      fail(entry->file->path(), ": tensor '", entry->tensor->name,
           "': expected shape ", toString(location.shape), ", but got ",
           toString(entry->tensor->shape));
    return {&parameter, &location, entry};
  }
  std::string alternatives;
  for (const TensorLocation &location : parameter.locations)
    alternatives += (alternatives.empty() ? "'" : " or '") + location.key + "'";
  fail(checkpoint.mainFile(), ": expected tensor ", alternatives, " of shape ",
       toString(parameter.locations.front().shape), ", but there is none");
}

/// A tied model's file may hold the output projection too, if it is the same.
static bool isTiedHead(const ModelConfig &config, const FoundTensors &found,
                       const std::string &key, const Checkpoint::Entry &head) {
  if (!config.tied || key != "lm_head.weight")
    return false;
  const Checkpoint::Entry &table = *found.parameters.front().entry;
  auto lhs = head.file->data(*head.tensor);
  auto rhs = table.file->data(*table.tensor);
  if (head.tensor->dtype != table.tensor->dtype || lhs.size() != rhs.size() ||
      std::memcmp(lhs.data(), rhs.data(), lhs.size()) != 0)
    fail(head.file->path(), ": tensor '", head.tensor->name,
         "': expected a copy of '", table.tensor->name,
         "', since 'tie_word_embeddings' is true, but got another value");
  return true;
}

/// Fails unless the tensor holds `value`, in its own type.
static void checkConstant(const Checkpoint::Entry &entry, double value) {
  const TensorInfo &tensor = *entry.tensor;
  const auto bytes = entry.file->data(tensor);
  std::vector<std::byte> expected(sizeof(double));
  bool equal = tensor.elements() == 1 && tensor.dtype && isFloat(*tensor.dtype);
  if (equal) {
    convert(DType::F64, &value, *tensor.dtype, expected.data(), 1);
    equal = std::memcmp(bytes.data(), expected.data(), bytes.size()) == 0;
  }
  if (!equal)
    fail(entry.file->path(), ": tensor '", tensor.name, "': expected ",
         nlohmann::json(value).dump(), ", but got another value");
}

/// Whether the tensor belongs to what sees images beside the text model.
static bool isVision(std::string_view key) {
  if (key.starts_with("model."))
    key.remove_prefix(6);
  return key.starts_with("vision_tower.") ||
         key.starts_with("multi_modal_projector.");
}

FoundTensors polymoe::findTensors(const ModelConfig &config,
                                  const std::vector<ParameterLayout> &layout,
                                  const Checkpoint &checkpoint) {
  FoundTensors found;
  std::set<const TensorInfo *> used;
  for (const ParameterLayout &parameter : layout) {
    found.parameters.push_back(findTensor(parameter, checkpoint));
    used.insert(found.parameters.back().entry->tensor);
  }
  for (const ConstantTensor &constant : constantsOf(config))
    if (const Checkpoint::Entry *entry = checkpoint.find(constant.key)) {
      checkConstant(*entry, constant.value);
      used.insert(entry->tensor);
      found.constants.push_back(entry->tensor->name);
    }
  for (const auto &[key, entry] : checkpoint.entries()) {
    if (used.count(entry.tensor))
      continue;
    if (!mayBeIgnored(key) && !isTiedHead(config, found, key, entry) &&
        !(config.wrapped && isVision(key)))
      fail(entry.file->path(), ": tensor '", entry.tensor->name,
           "': expected no such tensor in a model of type ",
           config.family->name, ", but got shape ",
           toString(entry.tensor->shape));
    found.ignored.push_back(entry.tensor->name);
  }
  return found;
}

/// Whether a tensor of type `from` can be read as a parameter of type `to`:
/// exactly, as the fp32 master of a narrower parameter, or as transformers
/// does, rounded to the bf16 that the configuration asks for.
static bool canRead(DType from, DType to) {
  static const std::map<DType, std::set<DType>> readable = {
      {DType::F64, {DType::F64, DType::F32, DType::BF16, DType::F16}},
      {DType::F32, {DType::F32, DType::BF16, DType::F16}},
      {DType::BF16, {DType::BF16, DType::F32, DType::F16}}};
  auto types = readable.find(to);
  return types != readable.end() && types->second.contains(from);
}

DType polymoe::chooseType(const ModelConfig &config,
                          const FoundTensors &tensors) {
  std::set<DType> types;
  for (const FoundTensor &found : tensors.parameters) {
    const Checkpoint::Entry &entry = *found.entry;
    auto type = entry.tensor->dtype;
    if (!type || !canRead(*type, DType::F64))
      fail(entry.file->path(), ": tensor '", entry.tensor->name,
           "': expected type F32, BF16, F16 or F64, but got ",
           entry.tensor->dtypeName);
    types.insert(*type);
  }

  DType result = config.dtype.value_or(types.size() == 1 ? *types.begin()
                                       : types.count(DType::F64) ? DType::F64
                                                                 : DType::F32);
  // The model does not compute in f16, whose range training overflows. f32
  // holds its values exactly.
  if (result == DType::F16)
    result = DType::F32;
  for (const FoundTensor &found : tensors.parameters) {
    const Checkpoint::Entry &entry = *found.entry;
    if (!canRead(*entry.tensor->dtype, result))
      fail(entry.file->path(), ": tensor '", entry.tensor->name,
           "': expected a type that a model of type ", nameOf(result),
           " can take its values from, but got ", entry.tensor->dtypeName);
  }
  return result;
}
