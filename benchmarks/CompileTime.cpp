//===-- CompileTime.cpp - how long a training step takes to compile -------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// usage: moe-compile-time MODULE.mlir ROWS LENGTH [BALANCE]
//
// Compiles the training step of a model-level module, from IR to machine code
// in memory, without its weights; prints seconds.
//
//===----------------------------------------------------------------------===//

#include "moe/Import/Module.h"
#include "moe/Target/CPU/Compiler.h"
#include "moe/Transforms/Pipelines.h"

#include <chrono>
#include <cstdio>
#include <string>

int main(int argc, char **argv) {
  if (argc < 4) {
    std::fprintf(stderr,
                 "usage: moe-compile-time MODULE.mlir ROWS LENGTH [BALANCE]\n");
    return 2;
  }
  try {
    mlir::MLIRContext context;
    polymoe::registerModuleDialects(context);
    polymoe::LoadedModule loaded = polymoe::loadModule(argv[1], context);
    using Clock = std::chrono::steady_clock;
    auto seconds = [begin = Clock::now()] {
      return std::chrono::duration<double>(Clock::now() - begin).count();
    };
    mlir::PassManager pm(&context);
    mlir::moe::TrainPipelineOptions options;
    options.rows = std::stoll(argv[2]);
    options.length = std::stoll(argv[3]);
    options.balance = argc > 4 ? std::stod(argv[4]) : 0;
    mlir::moe::buildTrainPipeline(pm, options);
    if (failed(pm.run(*loaded.module)))
      return 1;
    double passes = seconds();
    mlir::moe::CompilerOptions compiler;
    compiler.packedOnce = mlir::moe::PackedOnce::Frozen; // As in training.
    if (failed(mlir::moe::CompiledProgram::compile(*loaded.module, compiler)))
      return 1;
    std::printf("%.2f s: %.2f to the fused level, %.2f to machine code\n",
                seconds(), passes, seconds() - passes);
    return 0;
  } catch (const std::exception &error) {
    std::fprintf(stderr, "moe-compile-time: error: %s\n", error.what());
    return 1;
  }
}
