//===-- ProgramCache.cpp - programs compiled at first use -----------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "ProgramCache.h"

#include "moe/Runtime/Error.h"
#include "moe/Transforms/Pipelines.h"

#include "mlir/IR/Diagnostics.h"

using namespace polymoe;
using mlir::moe::CompiledProgram;

std::unique_ptr<CompiledProgram>
polymoe::makeProgram(const std::string &what, mlir::MLIRContext *context,
                     MakeCode make) {
  std::string diagnostics;
  mlir::ScopedDiagnosticHandler handler(
      context, [&](mlir::Diagnostic &diagnostic) {
        diagnostics += (diagnostics.empty() ? "" : "; ") + diagnostic.str();
        return mlir::success();
      });
  auto made = make();
  if (failed(made))
    fail(what, ": ", diagnostics);
  if ((*made)->program().entries.empty())
    fail(what, ": expected an entry point, but there is none");
  return std::move(*made);
}

void ProgramCache::buildPipeline(mlir::OpPassManager &pm,
                                 const ProgramUse &use) const {
  auto setShape = [&](auto &pipeline) {
    pipeline.embedModel = false;
    pipeline.rows = use.rows;
    pipeline.length = use.length;
  };
  switch (use.entry) {
  case ProgramUse::Entry::Step: {
    mlir::moe::TrainPipelineOptions pipeline;
    setShape(pipeline);
    pipeline.balance = objective.balance;
    pipeline.balanceForm = nameOf(objective.balanceForm);
    pipeline.languagePrior = objective.languagePrior;
    pipeline.languagePriorForm = nameOf(objective.languagePriorForm);
    pipeline.classifier = objective.classifier;
    pipeline.memoryBudget = options.memoryBudget;
    pipeline.chunk = options.chunk;
    return buildTrainPipeline(pm, pipeline);
  }
  case ProgramUse::Entry::Score: {
    mlir::moe::ScorePipelineOptions pipeline;
    setShape(pipeline);
    pipeline.logits = use.logits;
    return buildScorePipeline(pm, pipeline);
  }
  case ProgramUse::Entry::Extend: {
    mlir::moe::GeneratePipelineOptions pipeline;
    setShape(pipeline);
    pipeline.capacity = use.capacity;
    return buildGeneratePipeline(pm, pipeline);
  }
  }
}

const Program &ProgramCache::get(const ProgramUse &asked) {
  using mlir::moe::Gradients, mlir::moe::PackedOnce;
  ProgramUse use = asked;
  // A program for several micro-batches adds gradients up, however many.
  use.microBatches = std::min<int64_t>(use.microBatches, 2);
  std::unique_ptr<CompiledProgram> &program = programs[use];
  if (program)
    return program->program();
  mlir::moe::CompilerOptions compiler = options.compiler;
  if (use.entry == ProgramUse::Entry::Step) {
    // Parameters that train change at every step.
    compiler.packedOnce = PackedOnce::Frozen;
    compiler.gradients =
        use.microBatches > 1 ? Gradients::Added : Gradients::Written;
  }
  mlir::OwningOpRef<mlir::ModuleOp> copy = module.clone();
  auto compile = [&]() -> llvm::FailureOr<std::unique_ptr<CompiledProgram>> {
    mlir::PassManager pm(module.getContext());
    buildPipeline(pm, use);
    if (failed(pm.run(*copy)))
      return mlir::failure();
    return CompiledProgram::compile(*copy, compiler);
  };
  program = makeProgram(concat("compiling @", nameOf(use.entry), " of ",
                               use.rows, " rows of ", use.length, " tokens"),
                        module.getContext(), compile);
  return program->program();
}
