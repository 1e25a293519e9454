//===-- Eval.cpp - perplexity and bits per byte of languages --------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Commands.h"
#include "Model.h"

#include "moe/Runtime/Evaluate.h"
#include "moe/Runtime/Files.h"

#include <iostream>

using namespace polymoe;

namespace {
struct EvalOptions {
  MachineOptions machine;
  EvaluateOptions evaluation;
  std::string data, json;
};
} // namespace

/// Batches that the evaluation will take, for the progress bar.
static int64_t batchesOf(const Corpus &corpus, const EvaluateOptions &options) {
  std::vector<std::string> codes = options.languages;
  if (codes.empty())
    for (const Language &language : corpus.languages())
      codes.push_back(language.code);
  int64_t batches = 0;
  for (const std::string &code : codes)
    batches +=
        EvaluationPass(corpus, options.split, corpus.languageIndex(code),
                       options.length, options.rows, options.maxDocuments)
            .batches();
  return batches;
}

static int runEval(const EvalOptions &options) {
  Inference inference(options.machine);
  Scorer &scorer = *inference.executor.scorer;
  scorer.requireBatches(options.evaluation.rows, options.evaluation.length,
                        /*logits=*/false);
  Corpus corpus(options.data, inference.model.vocabulary());
  corpus.setGroups(inference.model.groups());
  if (!options.machine.otherTokenizer)
    checkTokenizer(inference.model, corpus);
  warnOfLength(inference.model, options.evaluation.length);
  Progress progress("evaluating", "batch",
                    batchesOf(corpus, options.evaluation), progressOptions());
  progress.start(0);
  std::vector<LanguageScore> scores =
      evaluate(scorer, corpus, options.evaluation, &progress);
  progress.finish();
  std::cout << toTable(scores);
  if (!options.json.empty())
    writeText(options.json, toJson(scores, options.evaluation));
  return 0;
}

void polymoe::addEvalCommand(CLI::App &app, Command &command) {
  auto options = std::make_shared<EvalOptions>();
  CLI::App *eval = app.add_subcommand(
      "eval", "Prints perplexity and bits per byte of each language.");
  eval->footer(
      "Each document is scored alone, in windows; all of its tokens but the "
      "first are predicted once. Bits per byte compare across tokenizers, "
      "perplexity does not.\n"
      "\n"
      "  moe-run eval run/ --data corpus/ --split=test --json=result.json");
  addMachineOptions(*eval, options->machine);
  addFrozenWeights(*eval, options->machine);
  addOtherTokenizer(*eval, options->machine);
  addRoutes(*eval, options->machine)->capture_default_str();
  EvaluateOptions &evaluation = options->evaluation;
  eval->add_option("--data", options->data, "corpus folder")->required();
  eval->add_option("--split", evaluation.split, "which documents")
      ->check(CLI::IsMember({"train", "valid", "test"}))
      ->capture_default_str();
  eval->add_option("--languages", evaluation.languages,
                   "codes, with commas (default: all of the corpus)")
      ->delimiter(',');
  eval->add_option("--sequence", evaluation.length, "tokens of context at most")
      ->check(CLI::Range(int64_t(1), int64_t(1) << 20))
      ->capture_default_str();
  eval->add_option("--batch", evaluation.rows, "rows run at a time")
      ->check(CLI::Range(int64_t(1), int64_t(1) << 20))
      ->capture_default_str();
  eval->add_option("--max-documents", evaluation.maxDocuments,
                   "documents of each language, the first ones; 0 for all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  eval->add_option("--json", options->json, "file for the figures as JSON");
  eval->callback([options, &command] {
    options->evaluation.byGroup = options->machine.routes == "group";
    command = [options] { return runEval(*options); };
  });
}
