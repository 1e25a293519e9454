//===-- moe-translate.cpp - models in and out -------------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Import/Export.h"
#include "moe/Import/Import.h"
#include "moe/Import/Module.h"

#include "mlir/IR/MLIRContext.h"

#include <CLI/CLI.hpp>

#include <cstdio>
#include <iostream>

using namespace polymoe;
namespace fs = std::filesystem;

static void importHf(const fs::path &folder, const fs::path &output) {
  mlir::MLIRContext context;
  ImportedModel model =
      importHuggingFace(folder, output.parent_path(), context);
  for (const std::string &key : model.ignored)
    std::cerr << "moe-translate: note: tensor '" << key
              << "' is not needed and ignored\n";
  saveModule(*model.module, output);
}

static int run(int argc, char **argv) {
  CLI::App app("Reads models into the moe dialect and writes them out.",
               "moe-translate");
  std::string importFrom, exportFrom, output;
  ExportOptions options;
  CLI::Option *import = app.add_option(
      "--import-hf", importFrom,
      "Hugging Face folder (config.json and safetensors) to make a module of; "
      "the weights stay there");
  CLI::Option *exportHf =
      app.add_option("--export-hf", exportFrom,
                     "run folder or module to write as a Hugging Face folder")
          ->excludes(import);
  app.add_option("-o", output, "the module or the folder to write")->required();
  app.add_option("--max-shard-size", options.maxShardBytes,
                 "export: cut weights into files of at most this size "
                 "(default: 5GB)")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/true))
      ->check(CLI::PositiveNumber)
      ->needs(exportHf);
  app.add_flag("--force", options.replace,
               "export: replace the folder if it is there")
      ->needs(exportHf);
  app.callback([&] {
    if (import->empty() && exportHf->empty())
      throw CLI::RequiredError("--import-hf or --export-hf");
  });
  CLI11_PARSE(app, argc, argv);

  if (!import->empty()) {
    importHf(importFrom, output);
    return 0;
  }
  mlir::MLIRContext context;
  options.warn = [](const std::string &text) {
    std::cerr << "moe-translate: warning: " << text << "\n";
  };
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
