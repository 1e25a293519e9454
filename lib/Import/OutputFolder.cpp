//===-- OutputFolder.cpp - folders that models are written to -------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "OutputFolder.h"

#include "moe/Dialect/MoE.h"
#include "moe/Runtime/Error.h"
#include "moe/Runtime/Safetensors.h"

#include <algorithm>
#include <set>

#include <unistd.h>

using namespace polymoe;
namespace fs = std::filesystem;

OutputFolder::OutputFolder(fs::path path, bool replace)
    : target(std::move(path)) {
  if (!target.has_filename())
    target = target.parent_path();
  bool there =
      fs::is_directory(target) ? !fs::is_empty(target) : fs::exists(target);
  if (there && !replace)
    fail(target, ": expected a folder that is not there yet (--force replaces "
                 "it)");
  temporary = target;
  temporary += concat(".tmp-", ::getpid());
  std::error_code error;
  fs::create_directories(temporary, error);
  if (error)
    fail(target, ": cannot be made: ", error.message());
}

OutputFolder::~OutputFolder() {
  // After commit() this is the folder that was replaced.
  std::error_code ignored;
  fs::remove_all(temporary, ignored);
}

void OutputFolder::commit() {
  syncFolder(temporary);
  renameDurably(temporary, target);
}

/// Whether `path` lies in `folder`. For a link, the link or its target may.
static bool liesIn(const fs::path &path, const fs::path &folder) {
  fs::path outer = fs::weakly_canonical(folder);
  for (const fs::path &inner :
       {fs::weakly_canonical(path),
        fs::weakly_canonical(path.parent_path()) / path.filename()}) {
    fs::path relative = inner.lexically_relative(outer);
    if (!relative.empty() && *relative.begin() != "..")
      return true;
  }
  return false;
}

void polymoe::checkReplaced(const fs::path &output, const LoadedModule &loaded,
                            const std::vector<fs::path> &others) {
  std::set<fs::path> sources(others.begin(), others.end());
  sources.insert(loaded.file);
  if (hasModelSource(*loaded.module))
    sources.insert(loaded.folder / modelSource(*loaded.module).config);
  for (const ParameterSpec &spec : extractParameterSpecs(*loaded.module))
    if (auto *origin = std::get_if<CheckpointOrigin>(&spec.origin))
      sources.insert(loaded.folder / origin->file);
  for (const fs::path &file : sources)
    if (liesIn(file, output))
      fail(output, ": expected a folder that the model does not need, but ",
           file, " lies in it");
}

void polymoe::copyTokenizer(const fs::path &from, const fs::path &to) {
  for (const char *name :
       {"tokenizer.json", "tokenizer_config.json", "tokenizer.model",
        "special_tokens_map.json", "added_tokens.json", "vocab.json",
        "merges.txt", "chat_template.jinja", "generation_config.json"})
    if (fs::is_regular_file(from / name))
      writeText(to / name, readText(from / name));
}

void polymoe::useCheckpoints(const fs::path &folder,
                             const RunFolder::Warn &warn,
                             mlir::ModuleOp module) {
  RunFolder run(folder, RunFolder::Access::Read, warn);
  auto latest = run.latestCheckpoint();
  if (!latest)
    return;
  std::set<std::string> found;
  std::vector<CheckpointInfo> checkpoints = run.checkpoints();
  std::reverse(checkpoints.begin(), checkpoints.end());
  for (const CheckpointInfo &checkpoint : checkpoints) {
    if (checkpoint.step > latest->step)
      continue;
    fs::path path = checkpoint.folder / "parameters.safetensors";
    auto file = SafetensorsFile::open(path);
    for (const TensorInfo &tensor : file->tensors())
      if (module.lookupSymbol<mlir::moe::ParameterOp>(tensor.name) &&
          found.insert(tensor.name).second)
        setOrigin(module, tensor.name,
                  {relativePath(path, folder), tensor.name, std::nullopt});
  }
}
