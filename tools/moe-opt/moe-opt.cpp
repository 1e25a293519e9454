//===-- moe-opt.cpp - runs passes on modules --------------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Dialect/MoE.h"
#include "moe/Target/Compiler.h"
#include "moe/Target/Passes.h"
#include "moe/Transforms/Passes.h"
#include "moe/Transforms/Pipelines.h"

#include "mlir/InitAllDialects.h"
#include "mlir/InitAllPasses.h"
#include "mlir/Tools/mlir-opt/MlirOptMain.h"

int main(int argc, char **argv) {
  mlir::DialectRegistry registry;
  mlir::registerAllDialects(registry);
  registry.insert<mlir::moe::MoEDialect>();
  mlir::registerAllPasses();
  mlir::moe::registerMoEPasses();
  mlir::moe::registerPipelines();
  mlir::moe::registerMoETargetPasses();
  mlir::moe::registerTargetPipelines();

  return mlir::asMainReturnCode(
      mlir::MlirOptMain(argc, argv, "PolyMoE optimizer driver\n", registry));
}
