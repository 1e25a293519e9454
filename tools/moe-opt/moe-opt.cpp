//===-- moe-opt.cpp - runs passes on modules --------------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Target/CPU/Compiler.h"
#include "moe/Target/Passes.h"
#include "moe/Transforms/Passes.h"
#include "moe/Transforms/Pipelines.h"

#include "mlir/IR/MLIRContext.h"
#include "mlir/InitAllDialects.h"
#include "mlir/InitAllPasses.h"
#include "mlir/Tools/mlir-opt/MlirOptMain.h"
#include "llvm/Support/CommandLine.h"

int main(int argc, char **argv) {
  mlir::DialectRegistry registry;
  mlir::registerAllDialects(registry);
  mlir::moe::registerCompilerDialects(registry);
  mlir::registerAllPasses();
  mlir::moe::registerMoEPasses();
  mlir::moe::registerPipelines();
  mlir::moe::registerMoETargetPasses();
  mlir::moe::registerTargetPipelines();

  // By default an error has no note with the whole function, which would hide
  // it: the error names its location. --mlir-print-op-on-diagnostic adds it.
  mlir::registerMLIRContextCLOptions();
  llvm::cl::Option *notes =
      llvm::cl::getRegisteredOptions().lookup("mlir-print-op-on-diagnostic");
  static_cast<llvm::cl::opt<bool> *>(notes)->setValue(false);

  return mlir::asMainReturnCode(
      mlir::MlirOptMain(argc, argv, "PolyMoE optimizer driver\n", registry));
}
