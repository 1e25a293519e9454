//===-- Checkpoint.cpp - the safetensors files of a folder
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Import/Checkpoint.h"

#include "moe/Runtime/Error.h"
#include "moe/Runtime/Json.h"

#include <cstring>

using namespace polymoe;
namespace fs = std::filesystem;

//===----------------------------------------------------------------------===//
// The files
//===----------------------------------------------------------------------===//

Checkpoint::Checkpoint(const fs::path &folder) : root(folder) {
  if (fs::exists(folder / "model.safetensors"))
    openSingle();
  else if (fs::exists(folder / "model.safetensors.index.json"))
    openSharded();
  else
    fail(folder, ": expected model.safetensors or "
                 "model.safetensors.index.json, but there is neither");

  for (const char *prefix : {"model.", "transformer."}) {
    auto hasPrefix = [&](const auto &entry) {
      return entry.first.starts_with(prefix);
    };
    const char *first =
        prefix[0] == 'm' ? "embed_tokens.weight" : "word_embeddings.weight";
    if (std::none_of(tensors.begin(), tensors.end(), hasPrefix) &&
        tensors.count(first))
      missingPrefix = prefix;
  }
}

void Checkpoint::openSingle() {
  main = root / "model.safetensors";
  auto file = SafetensorsFile::open(main);
  for (const TensorInfo &tensor : file->tensors())
    tensors[tensor.name] = {file, &tensor};
}

void Checkpoint::openSharded() {
  main = root / "model.safetensors.index.json";
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

const Checkpoint::Entry *Checkpoint::find(const std::string &key) const {
  auto it = tensors.find(key);
  if (it == tensors.end() && !missingPrefix.empty() &&
      key.starts_with(missingPrefix))
    it = tensors.find(key.substr(missingPrefix.size()));
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
                       const Checkpoint::Entry &head) {
  if (!config.tied || head.tensor->name != "lm_head.weight")
    return false;
  const Checkpoint::Entry &table = *found.parameters.front().entry;
  auto lhs = head.file->data(*head.tensor);
  auto rhs = table.file->data(*table.tensor);
  if (head.tensor->dtype != table.tensor->dtype || lhs.size() != rhs.size() ||
      std::memcmp(lhs.data(), rhs.data(), lhs.size()) != 0)
    fail(head.file->path(), ": tensor 'lm_head.weight': expected a copy of '",
         table.tensor->name,
         "', since 'tie_word_embeddings' is true, but got another value");
  return true;
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
  for (const auto &[key, entry] : checkpoint.entries()) {
    if (used.count(entry.tensor))
      continue;
    if (!mayBeIgnored(key) && !isTiedHead(config, found, entry))
      fail(entry.file->path(), ": tensor '", key,
           "': expected no such tensor in a model of type ",
           nameOf(config.family), ", but got shape ",
           toString(entry.tensor->shape));
    found.ignored.push_back(key);
  }
  return found;
}

/// Whether a tensor of type `from` can be read as a parameter of type `to`:
/// exactly, or as the fp32 master of a narrower parameter.
static bool canRead(DType from, DType to) {
  static const std::map<DType, std::set<DType>> readable = {
      {DType::F64, {DType::F64, DType::F32, DType::BF16, DType::F16}},
      {DType::F32, {DType::F32, DType::BF16, DType::F16}},
      {DType::BF16, {DType::BF16, DType::F32}}};
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
