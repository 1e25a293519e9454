//===-- Eval.cpp - perplexity and bits per byte of languages --------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Eval.h"

#include "Commands.h"

#include "moe/Runtime/Error.h"
#include "moe/Runtime/Files.h"

#include <iostream>

using namespace polymoe;

int64_t polymoe::batchesOf(const Corpus &corpus,
                           const EvaluateOptions &options) {
  std::vector<std::string> codes = options.languages;
  if (codes.empty())
    for (const Language &language : corpus.languages())
      codes.push_back(language.code);
  int64_t batches = 0;
  for (const std::string &code : codes)
    batches += EvaluationPass(corpus, options.split, corpus.languageIndex(code),
                              options.windows, options.maxDocuments)
                   .batches();
  return batches;
}

Corpus polymoe::openCorpus(Inference &inference, EvalOptions &options) {
  EvaluationWindows &windows = options.evaluation.windows;
  if (windows.stride > windows.length)
    fail("--stride: expected at most ", windows.length,
         ", the --sequence, so that no token is left out, but got ",
         windows.stride);
  inference.executor.scorer->requireBatches(windows.rows, windows.length,
                                            /*logits=*/false);
  windows.shapes = inference.model.program() ? 1 : 3;
  options.evaluation.byGroup = options.machine.routes == "group";
  Corpus corpus(options.data, inference.model.vocabulary());
  corpus.setGroups(inference.model.groups());
  if (!options.machine.otherTokenizer)
    checkTokenizer(inference.model, corpus);
  warnOfLength(inference.model, windows.length);
  return corpus;
}

static int runEval(EvalOptions options) {
  Inference inference(options.machine);
  Corpus corpus = openCorpus(inference, options);
  Progress progress("evaluating", "batch",
                    batchesOf(corpus, options.evaluation), progressOptions());
  progress.start(0);
  std::vector<LanguageScore> scores = evaluate(
      *inference.executor.scorer, corpus, options.evaluation, &progress);
  progress.finish();
  std::cout << toTable(scores);
  if (!options.json.empty())
    writeText(options.json, toJson(scores, options.evaluation));
  return 0;
}

void polymoe::addEvalOptions(CLI::App &app, EvalOptions &options) {
  addMachineOptions(app, options.machine);
  addFrozenWeights(app, options.machine);
  addOtherTokenizer(app, options.machine);
  EvaluateOptions &evaluation = options.evaluation;
  app.add_option("--data", options.data, "corpus folder")->required();
  app.add_option("--split", evaluation.split, "which documents")
      ->check(CLI::IsMember({"train", "valid", "test"}))
      ->capture_default_str();
  app.add_option("--languages", evaluation.languages,
                 "codes, with commas (default: all of the corpus)")
      ->delimiter(',');
  app.add_option("--sequence", evaluation.windows.length,
                 "tokens of context at most")
      ->check(CLI::Range(int64_t(1), int64_t(1) << 20))
      ->capture_default_str();
  app.add_option("--stride", evaluation.windows.stride,
                 "tokens from one window to the next, at most --sequence "
                 "(default: that)")
      ->check(CLI::Range(int64_t(1), int64_t(1) << 20));
  app.add_option("--batch", evaluation.windows.rows, "rows run at a time")
      ->check(CLI::Range(int64_t(1), int64_t(1) << 20))
      ->capture_default_str();
  app.add_option("--max-documents", evaluation.maxDocuments,
                 "documents of each language, the first ones; 0 for all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
}

void polymoe::addEvalCommand(CLI::App &app, Command &command) {
  auto options = std::make_shared<EvalOptions>();
  CLI::App *eval = app.add_subcommand(
      "eval", "Prints perplexity and bits per byte of each language.");
  eval->footer(
      "Each document is scored alone, in windows; all of its tokens but the "
      "first are predicted once. With a --stride below --sequence, windows "
      "overlap, and a token has more before it to be predicted from. Bits per "
      "byte compare across tokenizers, perplexity does not.\n"
      "\n"
      "  moe-run eval run/ --data corpus/ --split=test --json=result.json");
  addEvalOptions(*eval, *options);
  addRoutes(*eval, options->machine)->capture_default_str();
  eval->add_option("--json", options->json, "file for the figures as JSON");
  eval->callback([options, &command] {
    command = [options] { return runEval(*options); };
  });
}
