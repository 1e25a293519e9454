//===-- moe-translate.cpp - models in and out -------------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Import/Delta.h"
#include "moe/Import/Export.h"
#include "moe/Import/Import.h"
#include "moe/Import/Module.h"

#include "mlir/IR/MLIRContext.h"

#include <CLI/CLI.hpp>

#include <cstdio>
#include <iostream>
#include <map>

using namespace polymoe;
namespace fs = std::filesystem;

/// Says what the checkpoint holds beside the model: each tensor, or how many
/// begin alike where there are many.
static void noteIgnored(const std::vector<std::string> &keys) {
  constexpr size_t many = 8;
  std::map<std::string, std::vector<std::string>> groups;
  for (const std::string &key : keys)
    groups[keys.size() < many ? key : key.substr(0, key.find('.'))].push_back(
        key);
  for (const auto &[name, group] : groups)
    if (group.size() == 1)
      std::cerr << "moe-translate: note: tensor '" << group.front()
                << "' is not needed and ignored\n";
    else
      std::cerr << "moe-translate: note: " << group.size()
                << " tensors, the first '" << group.front()
                << "', are not needed and ignored\n";
}

static void importHf(const fs::path &folder, const fs::path &output,
                     const ImportOptions &options) {
  mlir::MLIRContext context;
  ImportedModel model =
      importHuggingFace(folder, output.parent_path(), context, options);
  for (const std::string &note : model.notes)
    std::cerr << "moe-translate: note: " << note << "\n";
  noteIgnored(model.ignored);
  saveModule(*model.module, output);
}

static int run(int argc, char **argv) {
  CLI::App app("Reads models into the moe dialect and writes them out.",
               "moe-translate");
  std::string importFrom, exportFrom, deltaFrom, delta, output;
  ImportOptions importOptions;
  ExportOptions options;
  DeltaOptions deltaOptions;
  CLI::Option *import = app.add_option(
      "--import-hf", importFrom,
      "Hugging Face folder (config.json and safetensors) to make a module of; "
      "the weights stay there");
  app.add_option("--ignore-config-key", importOptions.ignoredConfigKeys,
                 "import: key of config.json whose effect on the model is not "
                 "known, to be passed over (may be repeated)")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->needs(import);
  app.add_option("--context", importOptions.context,
                 "import: tokens of the longest sequence that the model will "
                 "see, which chooses the frequencies of dynamic and longrope "
                 "rotary embeddings (default: longrope's short factors; what "
                 "dynamic is configured for)")
      ->check(CLI::PositiveNumber)
      ->needs(import);
  CLI::Option *exportHf =
      app.add_option("--export-hf", exportFrom,
                     "run folder or module to write as a Hugging Face folder")
          ->excludes(import);
  CLI::Option *exportDeltaOf =
      app.add_option("--export-delta", deltaFrom,
                     "run folder or module of which to write what its base "
                     "lacks: new experts and routers, without optimiser state")
          ->excludes(import)
          ->excludes(exportHf);
  CLI::Option *merge =
      app.add_option("--merge-delta", delta,
                     "delta to join with --base to a model that every tool "
                     "takes")
          ->excludes(import)
          ->excludes(exportHf)
          ->excludes(exportDeltaOf);
  CLI::Option *base =
      app.add_option("--base", deltaOptions.base,
                     "Hugging Face folder, module or run folder: the base of "
                     "a delta (export: default all values that no run trained)")
          ->check(CLI::ExistingPath);
  merge->needs(base);
  app.add_flag("--self-contained", deltaOptions.selfContained,
               "merge: keep the base's files in the folder too (hard links "
               "where the disk allows) instead of naming them where they are")
      ->needs(merge);
  app.add_option("-o", output, "the module or the folder to write")->required();
  app.add_option("--max-shard-size", options.maxShardBytes,
                 "export: cut weights into files of at most this size "
                 "(default: 5GB)")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/true))
      ->check(CLI::PositiveNumber)
      ->needs(exportHf);
  app.add_flag("--force", options.replace,
               "export, merge: replace the folder if it is there")
      ->excludes(import);
  app.callback([&] {
    if (import->empty() && exportHf->empty() && exportDeltaOf->empty() &&
        merge->empty())
      throw CLI::RequiredError(
          "--import-hf, --export-hf, --export-delta or --merge-delta");
    if (!base->empty() && exportDeltaOf->empty() && merge->empty())
      throw CLI::ValidationError("--base", "belongs to --export-delta and "
                                           "--merge-delta");
  });
  CLI11_PARSE(app, argc, argv);

  if (!import->empty()) {
    importHf(importFrom, output, importOptions);
    return 0;
  }
  mlir::MLIRContext context;
  options.warn = [](const std::string &text) {
    std::cerr << "moe-translate: warning: " << text << "\n";
  };
  deltaOptions.warn = options.warn;
  deltaOptions.replace = options.replace;
  if (!exportDeltaOf->empty())
    exportDelta(deltaFrom, output, context, deltaOptions);
  else if (!merge->empty())
    mergeDelta(delta, output, context, deltaOptions);
  else
    exportHuggingFace(exportFrom, output, context, options);
  return 0;
}

int main(int argc, char **argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception &error) {
    std::fprintf(stderr, "moe-translate: error: %s\n", error.what());
    return 1;
  }
}
