//===-- moe-opt.cpp - runs passes on modules --------------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Dialect/MoE.h"
#include "moe/Transforms/Passes.h"

#include "mlir/InitAllDialects.h"
#include "mlir/InitAllPasses.h"
#include "mlir/Tools/mlir-opt/MlirOptMain.h"

int main(int argc, char **argv) {
  mlir::DialectRegistry registry;
  mlir::registerAllDialects(registry);
  registry.insert<mlir::moe::MoEDialect>();
  mlir::registerAllPasses();
  mlir::moe::registerAddObjective();
  mlir::moe::registerAddScoring();
  mlir::moe::registerDifferentiate();
  mlir::moe::registerForceExpert();
  mlir::moe::registerFreezeBackbone();
  mlir::moe::registerFuseLoss();
  mlir::moe::registerFuseRoutedMatmuls();
  mlir::moe::registerInsertCache();
  mlir::moe::registerPlanActivations();
  mlir::moe::registerSpecializeShapes();
  mlir::moe::registerUpcycle();
  mlir::moe::registerVerifyLevel();

  return mlir::asMainReturnCode(
      mlir::MlirOptMain(argc, argv, "PolyMoE optimizer driver\n", registry));
}
