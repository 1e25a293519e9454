//===-- Base.cpp - the base that a run trains on --------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Import/Base.h"

#include "moe/Import/Module.h"
#include "moe/Runtime/Error.h"
#include "moe/Runtime/Json.h"
#include "moe/Runtime/RunFolder.h"
#include "moe/Runtime/ThreadPool.h"

#include <set>

#include <unistd.h>

using namespace polymoe;
namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

static const char *baseName = "base.json";

TensorIdentity polymoe::identityOf(const SafetensorsFile &file,
                                   const TensorInfo &tensor) {
  file.willRead(tensor);
  return {tensor.dtypeName, tensor.shape, checksumOf(file.data(tensor)).digest};
}

std::vector<TensorName>
polymoe::tensorsOf(const std::vector<ParameterSpec> &specs) {
  std::set<TensorName> tensors;
  for (const ParameterSpec &spec : specs)
    if (auto *origin = std::get_if<CheckpointOrigin>(&spec.origin))
      tensors.insert({origin->file, origin->key});
  return {tensors.begin(), tensors.end()};
}

Json polymoe::toJson(const BaseTensor &tensor) {
  return {{"file", tensor.name.file},
          {"key", tensor.name.key},
          {"dtype", tensor.identity.dtype},
          {"shape", tensor.identity.shape},
          {"xxh3", tensor.identity.digest}};
}

std::vector<BaseTensor> polymoe::readBaseTensors(const JsonReader &list) {
  std::vector<BaseTensor> tensors;
  for (const JsonReader &entry : list.elements()) {
    BaseTensor &tensor = tensors.emplace_back();
    tensor.name = {entry.text("file"), entry.text("key")};
    tensor.identity = {entry.text("dtype"), {}, entry.text("xxh3")};
    for (const JsonReader &extent : entry.at("shape").elements())
      tensor.identity.shape.push_back(extent.integer());
  }
  return tensors;
}

/// What of base.json identifies a file that nobody wrote to since.
static Json stateOf(const std::string &name, const fs::path &folder) {
  const FileState state = fileState(folder / name);
  return {{"file", name},
          {"bytes", state.bytes},
          {"modified", state.modified},
          {"changed", state.changed}};
}

/// The identities of tensors, computed side by side: the checksum of a large
/// base takes as long as the disk needs to read it.
static std::vector<TensorIdentity>
identitiesOf(const std::vector<TensorName> &names, SafetensorsFolder &files) {
  struct Read {
    const SafetensorsFile *file;
    const TensorInfo *tensor;
  };
  std::vector<Read> reads;
  for (const TensorName &name : names) {
    const SafetensorsFile &file = *files.open(name.file);
    reads.push_back({&file, &file.get(name.key)});
  }
  std::vector<TensorIdentity> identities(names.size());
  ThreadPool pool;
  parallelFor(pool, int64_t(names.size()), [&](int64_t i) {
    identities[size_t(i)] =
        identityOf(*reads[size_t(i)].file, *reads[size_t(i)].tensor);
  });
  return identities;
}

void polymoe::noteBase(mlir::ModuleOp module, const fs::path &folder) {
  SafetensorsFolder files(folder);
  std::vector<TensorName> names = tensorsOf(extractParameterSpecs(module));
  // What a run trained lies in its folder, with checksums of its own.
  std::erase_if(names, [&](const TensorName &name) {
    const fs::path path(name.file);
    return path.is_relative() && *path.begin() != ".." &&
           holdsTrained(*files.open(name.file));
  });
  Json base = {{"format", "polymoe-base"},
               {"version", 1},
               {"files", Json::array()},
               {"tensors", Json::array()}};
  // Exports take from it what the module does not say.
  if (hasModelSource(module)) {
    const std::string config = modelSource(module).config;
    if (fs::exists(folder / config))
      base["config"] = {{"file", config},
                        {"xxh3", checksumOf(folder / config).digest}};
  }
  // Before the content: of a file that changes meanwhile, the times are old.
  std::set<std::string> seen;
  for (const TensorName &name : names)
    if (seen.insert(name.file).second)
      base["files"].push_back(stateOf(name.file, folder));
  std::vector<TensorIdentity> identities = identitiesOf(names, files);
  for (size_t i = 0; i < names.size(); ++i)
    base["tensors"].push_back(toJson({names[i], identities[i]}));
  writeText(folder / baseName, base.dump(1) + "\n");
}

void polymoe::checkBase(const fs::path &folder) {
  const fs::path path = folder / baseName;
  if (!fs::exists(path))
    return;
  const nlohmann::json read = readJsonObject(path);
  const JsonReader base(read, path.string());
  if (base.text("format") != "polymoe-base" || base.integer("version") != 1)
    base.fail("expected format polymoe-base, version 1");
  if (base.isSet("config")) {
    const JsonReader config = base.at("config");
    const fs::path file = (folder / config.text("file")).lexically_normal();
    if (checksumOf(file).digest != config.text("xxh3"))
      fail(file, ": expected the configuration that ", folder,
           " began with, but got another; put it back, or begin another run");
  }
  std::set<std::string> touched;
  nlohmann::json states = nlohmann::json::array();
  for (const JsonReader &file : base.at("files").elements()) {
    states.push_back(nlohmann::json(stateOf(file.text("file"), folder)));
    if (states.back() != file.json())
      touched.insert(file.text("file"));
  }
  if (touched.empty())
    return;

  std::vector<BaseTensor> tensors = readBaseTensors(base.at("tensors"));
  std::erase_if(tensors, [&](const BaseTensor &tensor) {
    return !touched.contains(tensor.name.file);
  });
  std::vector<TensorName> names;
  names.reserve(tensors.size());
  for (const BaseTensor &tensor : tensors)
    names.push_back(tensor.name);
  SafetensorsFolder files(folder);
  std::vector<TensorIdentity> identities = identitiesOf(names, files);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const auto &[name, expected] = tensors[i];
    const TensorIdentity &got = identities[i];
    if (got != expected)
      fail((folder / name.file).lexically_normal(), ": key '", name.key,
           "': expected the ", expected.dtype, " ", toString(expected.shape),
           " that ", folder, " began with (checksum ", expected.digest,
           "), but got ", got.dtype, " ", toString(got.shape), " (", got.digest,
           "); put the base of the run back, or begin another run");
  }

  // The content is what it was: noted, lest every command reads all of it. In a
  // folder that cannot be written to they do.
  if (::access(folder.c_str(), W_OK) != 0)
    return;
  nlohmann::json noted = read;
  noted["files"] = states;
  writeText(path, noted.dump(1) + "\n");
}
