//===-- ExportModel.cpp - from a module to a Hugging Face folder
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "ModelingFiles.h"
#include "OutputFolder.h"
#include "moe/Dialect/MoE.h"
#include "moe/Import/Export.h"
#include "moe/Import/Layout.h"
#include "moe/Import/Module.h"
#include "moe/Runtime/Error.h"
#include "moe/Runtime/Json.h"
#include "moe/Runtime/Memory.h"
#include "moe/Runtime/Parameters.h"
#include "moe/Runtime/Safetensors.h"
#include "moe/Runtime/ThreadPool.h"
#include "moe/Transforms/Layers.h"

#include <cstdio>
#include <cstring>
#include <map>
#include <set>

using namespace polymoe;
namespace fs = std::filesystem;

namespace {

//===----------------------------------------------------------------------===//
// Which parameters there are, and where their values lie
//===----------------------------------------------------------------------===//

using Specs = std::map<std::string, ParameterSpec>;

void checkParameters(const std::vector<ParameterLayout> &layout,
                     const Specs &specs) {
  std::set<std::string> expected;
  for (const ParameterLayout &parameter : layout) {
    expected.insert(parameter.name);
    auto it = specs.find(parameter.name);
    if (it == specs.end())
      fail("expected a parameter '", parameter.name, "' of shape ",
           toString(parameter.shape), ", but there is none");
    if (it->second.shape != parameter.shape)
      fail("parameter '", parameter.name, "': expected shape ",
           toString(parameter.shape), ", but got ", toString(it->second.shape));
  }
  for (const auto &[name, spec] : specs)
    if (!expected.count(name))
      fail("parameter '", name,
           "': expected no such parameter, since no checkpoint of the family "
           "has a place for it");
}

/// Drops the gates that the layout leaves out, since nothing trained them.
void dropUntrainedGates(mlir::ModuleOp module, Specs &specs) {
  for (auto parameter : module.getOps<mlir::moe::ParameterOp>())
    if (parameter.getRole() == mlir::moe::Role::LanguageGate &&
        !mlir::moe::isTrained(parameter))
      specs.erase(parameter.getSymName().str());
}

/// The type in which the parameter is stored, so that nothing is rounded. A
/// parameter that an initialiser draws gets the type of its master.
class StoredTypes {
public:
  StoredTypes(const Specs &specs, const fs::path &folder)
      : specs(specs), files(folder) {}

  DType of(const ParameterSpec &spec) {
    const ParameterSpec *root = &spec;
    for (size_t steps = 0; steps <= specs.size(); ++steps) {
      auto *copy = std::get_if<CopyOrigin>(&root->origin);
      auto it = copy ? specs.find(copy->source) : specs.end();
      if (it == specs.end())
        break;
      root = &it->second;
    }
    auto *origin = std::get_if<CheckpointOrigin>(&root->origin);
    if (!origin)
      return spec.trainable && spec.dtype == DType::BF16 ? DType::F32
                                                         : spec.dtype;
    std::optional<DType> type =
        files.open(origin->file)->get(origin->key).dtype;
    // Parameters do not have the type f16; f32 holds its values.
    if (type == DType::F16)
      return DType::F32;
    return type.value_or(spec.dtype);
  }

private:
  const Specs &specs;
  SafetensorsFolder files;
};

//===----------------------------------------------------------------------===//
// The tensors to write
//===----------------------------------------------------------------------===//

struct OutputTensor {
  std::string key;
  std::vector<int64_t> shape;
  DType dtype = DType::F32;
  /// The parameters that it is made of, and their rows in it.
  std::vector<std::pair<std::string, std::optional<RowSelection>>> parts = {};
  /// The one number of a tensor that no parameter is in.
  double constant = 0;

  int64_t bytes() const { return *byteSizeOf(shape, sizeOf(dtype)); }
};

const TensorLocation &locationToWrite(const ParameterLayout &parameter,
                                      MixtureForm form) {
  if (form == MixtureForm::Mixtral)
    for (const TensorLocation &location : parameter.locations)
      if (location.form == KeyForm::Mixtral)
        return location;
  return parameter.locations.front();
}

/// The tensors to write, in the order of the model. The parts of one tensor get
/// one type.
std::vector<OutputTensor>
tensorsToWrite(const ModelConfig &config,
               const std::vector<ParameterLayout> &layout, Specs &specs) {
  std::vector<OutputTensor> tensors;
  std::map<std::string, size_t> indexOf;
  for (const ParameterLayout &parameter : layout) {
    const TensorLocation &location = locationToWrite(parameter, config.mixture);
    DType type = specs.at(parameter.name).dtype;
    auto [it, isNew] = indexOf.try_emplace(location.key, tensors.size());
    if (isNew)
      tensors.push_back({location.key, location.shape, type, {}});
    OutputTensor &tensor = tensors[it->second];
    if (sizeOf(type) > sizeOf(tensor.dtype))
      tensor.dtype = type;
    tensor.parts.emplace_back(parameter.name, location.rows);
  }
  for (const OutputTensor &tensor : tensors)
    for (const auto &[name, rows] : tensor.parts)
      specs.at(name).dtype = tensor.dtype;
  for (const ConstantTensor &constant : constantsOf(config))
    tensors.push_back({.key = constant.key,
                       .shape = {},
                       .dtype = *config.dtype,
                       .constant = constant.value});
  return tensors;
}

/// Copies the parts of an interleaved tensor to their rows.
void writeInterleaved(const OutputTensor &tensor, const ParameterStore &store,
                      const SafetensorsWriter::Sink &sink) {
  Buffer whole(tensor.bytes(), "tensor '" + tensor.key + "'");
  int64_t row = tensor.shape.size() > 1 ? tensor.shape.back() : 1;
  row *= sizeOf(tensor.dtype);
  int64_t rows = tensor.bytes() / row;
  for (const auto &[name, selection] : tensor.parts) {
    const auto *source = static_cast<const std::byte *>(store.value(name));
    for (int64_t first = selection->offset; first < rows;
         first += selection->stride) {
      std::memcpy(whole.as<std::byte>() + first * row, source,
                  selection->block * row);
      source += selection->block * row;
    }
  }
  sink(whole.bytes());
}

void addTensor(const OutputTensor &tensor, const ParameterStore &store,
               SafetensorsWriter &writer) {
  if (tensor.parts.empty()) {
    writer.add(tensor.key, tensor.dtype, tensor.shape,
               [&](const SafetensorsWriter::Sink &sink) {
                 std::vector<std::byte> value(tensor.bytes());
                 convert(DType::F64, &tensor.constant, tensor.dtype,
                         value.data(), 1);
                 sink(value);
               });
    return;
  }
  const auto &[name, rows] = tensor.parts.front();
  if (rows) {
    writer.add(tensor.key, tensor.dtype, tensor.shape,
               [&](const SafetensorsWriter::Sink &sink) {
                 writeInterleaved(tensor, store, sink);
               });
    return;
  }
  writer.add(tensor.key, tensor.dtype, tensor.shape,
             {static_cast<const std::byte *>(store.value(name)),
              static_cast<size_t>(tensor.bytes())});
}

/// Divides the tensors, in their order, into files of at most `limit` bytes. A
/// larger tensor gets a file of its own.
std::vector<std::vector<const OutputTensor *>>
cutIntoShards(const std::vector<OutputTensor> &tensors, int64_t limit) {
  std::vector<std::vector<const OutputTensor *>> shards(1);
  int64_t size = 0;
  for (const OutputTensor &tensor : tensors) {
    if (!shards.back().empty() && size + tensor.bytes() > limit) {
      shards.emplace_back();
      size = 0;
    }
    size += tensor.bytes();
    shards.back().push_back(&tensor);
  }
  return shards;
}

void writeTensors(const std::vector<OutputTensor> &tensors,
                  const ParameterStore &store, const fs::path &folder,
                  int64_t maxShardBytes) {
  auto shards = cutIntoShards(tensors, maxShardBytes);
  nlohmann::ordered_json weightMap = nlohmann::ordered_json::object();
  int64_t total = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    char name[64];
    std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", i + 1,
                  shards.size());
    std::string file = shards.size() == 1 ? "model.safetensors" : name;
    SafetensorsWriter writer(folder / file, {{"format", "pt"}});
    for (const OutputTensor *tensor : shards[i]) {
      addTensor(*tensor, store, writer);
      weightMap[tensor->key] = file;
      total += tensor->bytes();
    }
    writer.finish();
  }
  if (shards.size() == 1)
    return;
  nlohmann::ordered_json index = {{"metadata", {{"total_size", total}}},
                                  {"weight_map", weightMap}};
  writeText(folder / "model.safetensors.index.json", index.dump(2) + "\n");
}

} // namespace

void polymoe::exportHuggingFace(const fs::path &source, const fs::path &output,
                                mlir::MLIRContext &context,
                                const ExportOptions &options) {
  registerModuleDialects(context);
  LoadedModule loaded = loadModule(source, context);
  if (fs::is_directory(source))
    useCheckpoints(source, options.warn, *loaded.module);
  ModelSource model = modelSource(*loaded.module);
  fs::path configFile = loaded.folder / model.config;
  auto json = readJsonObject<nlohmann::ordered_json>(configFile);

  ModelConfig config =
      exportedConfig(*loaded.module, parseConfig(json, configFile.string(),
                                                 model.ignoredConfig));
  std::vector<ParameterLayout> layout = layoutOf(config);
  Specs specs;
  for (ParameterSpec &spec : extractParameterSpecs(*loaded.module))
    specs[spec.name] = spec;
  dropUntrainedGates(*loaded.module, specs);
  checkParameters(layout, specs);
  if (options.replace)
    checkReplaced(output, loaded);

  StoredTypes types(specs, loaded.folder);
  std::map<std::string, DType> stored;
  for (auto &[name, spec] : specs)
    stored[name] = types.of(spec);
  for (auto &[name, spec] : specs) {
    spec.dtype = stored[name];
    spec.trainable = false;
  }
  std::vector<OutputTensor> tensors = tensorsToWrite(config, layout, specs);

  std::vector<ParameterSpec> list;
  list.reserve(layout.size());
  for (const ParameterLayout &parameter : layout)
    list.push_back(specs.at(parameter.name));
  ThreadPool pool;
  // A trained run no longer reads all keys of its base checkpoint.
  ParameterStore store(list, loaded.folder, pool,
                       {.requireAllKeys = false, .training = false});

  OutputFolder folder(output, options.replace);
  writeTensors(tensors, store, folder.path(), options.maxShardBytes);
  writeText(folder.path() / "config.json", toJson(config, json).dump(2) + "\n");
  copyTokenizer(configFile.parent_path(), folder.path());
  if (model.tokenizer)
    copyTokenizer((loaded.folder / *model.tokenizer).parent_path(),
                  folder.path());
  if (config.mixture == MixtureForm::Own)
    for (const ModelingFile &file : modelingFiles)
      writeText(folder.path() / file.name, file.text);
  folder.commit();
}
