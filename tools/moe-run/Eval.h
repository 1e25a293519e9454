//===-- Eval.h - what commands that score a corpus share --------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TOOLS_MOE_RUN_EVAL_H
#define MOE_TOOLS_MOE_RUN_EVAL_H

#include "Model.h"

#include "moe/Runtime/Evaluate.h"

namespace polymoe {

struct EvalOptions {
  MachineOptions machine;
  EvaluateOptions evaluation;
  std::string data, json;
};

/// Adds all of them but `json`.
void addEvalOptions(CLI::App &app, EvalOptions &options);

/// The corpus of the options, once it and they fit the model. Chooses how many
/// shapes batches may have: a program that is compiled already has one. Throws
/// Error.
Corpus openCorpus(Inference &inference, EvalOptions &options);

/// Batches that an evaluation will take, for the progress bar.
int64_t batchesOf(const Corpus &corpus, const EvaluateOptions &options);

} // namespace polymoe

#endif // MOE_TOOLS_MOE_RUN_EVAL_H
