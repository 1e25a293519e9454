//===-- Score.cpp - log-probabilities of given tokens ---------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Commands.h"
#include "Model.h"

#include "moe/Runtime/Evaluate.h"

using namespace polymoe;

namespace {
struct ScoreCommandOptions {
  MachineOptions machine;
  ScoreOptions score;
  std::string tokens, out;
};
} // namespace

static int runScore(const ScoreCommandOptions &options) {
  Inference inference(options.machine);
  int64_t vocabulary = inference.model.vocabulary();
  TokensFile tokens(options.tokens, vocabulary, /*needsLanguages=*/false);
  ScoreOptions score = options.score;
  if (!inference.model.program())
    score.rows = std::min(score.rows, std::max<int64_t>(tokens.rows(), 1));
  Scorer &scorer = *inference.executor.scorer;
  scorer.requireBatches(score.rows, tokens.length(), score.logits);
  Progress progress("scoring", "row", tokens.rows(), progressOptions());
  progress.start(0);
  scoreTokens(scorer, tokens, vocabulary, options.out, score, &progress);
  progress.finish();
  return 0;
}

void polymoe::addScoreCommand(CLI::App &app, Command &command) {
  auto options = std::make_shared<ScoreCommandOptions>();
  CLI::App *score = app.add_subcommand(
      "score", "Writes the log-probability of every next token.");
  score->footer(
      "Reads `tokens` [N,S] and writes `logprobs` [N,S-1] and, with --logits, "
      "`logits` [N,S,V], all safetensors.\n"
      "\n"
      "  moe-run score run/ --tokens t.safetensors --out s.safetensors");
  addMachineOptions(*score, options->machine);
  addFrozenWeights(*score, options->machine);
  score->add_option("--tokens", options->tokens, "safetensors file to read")
      ->required();
  score->add_option("--out", options->out, "safetensors file to write")
      ->required();
  score->add_flag("--logits", options->score.logits, "write the logits too");
  score->add_option("--batch", options->score.rows, "rows run at a time")
      ->check(CLI::Range(int64_t(1), int64_t(1) << 20))
      ->capture_default_str();
  score->callback([options, &command] {
    command = [options] { return runScore(*options); };
  });
}
