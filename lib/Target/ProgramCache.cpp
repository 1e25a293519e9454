//===-- ProgramCache.cpp - programs compiled at first use -----------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "ProgramCache.h"

#include "moe/Dialect/MoE.h"
#include "moe/Runtime/Error.h"
#include "moe/Transforms/Pipelines.h"

#include "mlir/IR/Diagnostics.h"

using namespace polymoe;
using mlir::moe::CompiledProgram;

/// Calls `body` and throws an Error with its diagnostics if it fails.
static void diagnose(const std::string &what, mlir::MLIRContext *context,
                     llvm::function_ref<llvm::LogicalResult()> body) {
  std::string diagnostics;
  mlir::ScopedDiagnosticHandler handler(
      context, [&](mlir::Diagnostic &diagnostic) {
        diagnostics += (diagnostics.empty() ? "" : "; ") + diagnostic.str();
        return mlir::success();
      });
  if (failed(body()))
    fail(what, ": ", diagnostics);
}

std::unique_ptr<CompiledProgram>
polymoe::makeProgram(const std::string &what, mlir::MLIRContext *context,
                     MakeCode make) {
  llvm::FailureOr<std::unique_ptr<CompiledProgram>> made;
  diagnose(what, context, [&]() -> llvm::LogicalResult {
    made = make();
    return made;
  });
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
    pipeline.routerCrossEntropy = objective.routerCrossEntropy;
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
  case ProgramUse::Entry::Probe: {
    mlir::moe::ProbePipelineOptions pipeline;
    setShape(pipeline);
    pipeline.what = use.what;
    return buildProbePipeline(pm, pipeline);
  }
  }
}

mlir::moe::CompilerOptions
ProgramCache::compilerOptions(const ProgramUse &use) const {
  using mlir::moe::Gradients, mlir::moe::PackedOnce;
  mlir::moe::CompilerOptions compiler = options.compiler;
  if (use.entry == ProgramUse::Entry::Step) {
    // Parameters that train change at every step.
    compiler.packedOnce = PackedOnce::Frozen;
    compiler.gradients =
        use.microBatches > 1 ? Gradients::Added : Gradients::Written;
  }
  return compiler;
}

/// What a program is called in errors.
static std::string titleOf(const ProgramUse &use) {
  return concat("compiling @", nameOf(use.entry), " of ", use.rows, " rows of ",
                use.length, " tokens");
}

int64_t ProgramCache::bytesOf(const ProgramUse &use) {
  mlir::OwningOpRef<mlir::ModuleOp> copy = module.clone();
  mlir::PassManager pm(module.getContext());
  buildPipeline(pm, use);
  mlir::moe::buildCpuPlanPipeline(pm, compilerOptions(use));
  diagnose(titleOf(use), module.getContext(), [&] { return pm.run(*copy); });
  int64_t bytes = 0;
  auto entry = copy->lookupSymbol<mlir::func::FuncOp>(nameOf(use.entry));
  for (unsigned i = 0; i < entry.getNumArguments(); ++i) {
    auto binding = mlir::moe::BindingAttr::ofArgument(entry, i);
    if (binding && (binding.getKind() == mlir::moe::BindingKind::Arena ||
                    binding.getKind() == mlir::moe::BindingKind::Packed))
      bytes += mlir::moe::sizeInBytes(
          mlir::cast<mlir::ShapedType>(entry.getArgument(i).getType()));
  }
  return bytes;
}

const Program &ProgramCache::get(const ProgramUse &asked) {
  ProgramUse use = asked;
  // A program for several micro-batches adds gradients up, however many.
  use.microBatches = std::min<int64_t>(use.microBatches, 2);
  std::unique_ptr<CompiledProgram> &program = programs[use];
  if (program)
    return program->program();
  mlir::OwningOpRef<mlir::ModuleOp> copy = module.clone();
  auto compile = [&]() -> llvm::FailureOr<std::unique_ptr<CompiledProgram>> {
    mlir::PassManager pm(module.getContext());
    buildPipeline(pm, use);
    if (failed(pm.run(*copy)))
      return mlir::failure();
    return CompiledProgram::compile(*copy, compilerOptions(use));
  };
  program = makeProgram(titleOf(use), module.getContext(), compile);
  return program->program();
}
