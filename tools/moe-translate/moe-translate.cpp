//===-- moe-translate.cpp - models in and out -------------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Import/Import.h"
#include "moe/Import/Module.h"
#include "moe/Runtime/Error.h"

#include "mlir/IR/MLIRContext.h"

#include <CLI/CLI.hpp>

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

int main(int argc, char **argv) {
  CLI::App app("Reads models into the moe dialect and writes them out.",
               "moe-translate");
  std::string importFolder, output;
  auto *import = app.add_option(
      "--import-hf", importFolder,
      "folder with config.json and safetensors to make a module of; the "
      "weights stay there");
  app.add_option("-o", output, "what to write")->required();
  import->required();
  CLI11_PARSE(app, argc, argv);
  try {
    importHf(importFolder, output);
  } catch (const std::exception &error) {
    std::cerr << "moe-translate: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
