//===-- Evaluate.h - how well a model predicts text -------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_RUNTIME_EVALUATE_H
#define MOE_RUNTIME_EVALUATE_H

#include "moe/Runtime/Data.h"
#include "moe/Runtime/Executor.h"

namespace polymoe {

class Progress;

/// The sums for one language, and the figures made of them. A document's first
/// token is not predicted; all of its bytes count.
struct LanguageScore {
  Language language;
  int64_t documents = 0;
  int64_t tokens = 0; ///< predicted
  int64_t bytes = 0;
  double negativeLogLikelihood = 0; ///< in nats

  double perplexity() const;
  double bitsPerByte() const;
};

struct EvaluateOptions {
  std::string split = "test";
  /// Codes; all that have documents in the split when empty.
  std::vector<std::string> languages = {};
  EvaluationWindows windows = {};
  int64_t maxDocuments = 0; ///< of each language; 0 for all
  bool byGroup = false;     ///< the model reads groups, so each has to have one
};

/// Scores each language's documents, each alone. Throws Error when a language
/// asked for has no document, or none has, or one lacks a group that needs one.
std::vector<LanguageScore> evaluate(Scorer &scorer, const Corpus &corpus,
                                    const EvaluateOptions &options,
                                    Progress *progress = nullptr);

/// "valid/el" -> bits per byte, as metrics take it.
std::map<std::string, double>
bitsPerByteByName(const std::vector<LanguageScore> &scores,
                  const std::string &prefix);

/// A table for people: language, round, documents, tokens, perplexity, bits
/// per byte.
std::string toTable(const std::vector<LanguageScore> &scores);
/// The same as JSON text.
std::string toJson(const std::vector<LanguageScore> &scores,
                   const EvaluateOptions &options);

struct ScoreOptions {
  int64_t rows = 8; ///< in a batch; the last one is filled up
  bool logits = false;
};

/// Writes `logprobs` [N,S-1] F32, the log-probability of every token after the
/// first of its row, and, when asked, `logits` [N,S,V] F32, of which only one
/// batch is in memory at a time. Throws Error.
void scoreTokens(Scorer &scorer, const TokensFile &tokens, int64_t vocabulary,
                 const std::filesystem::path &out, const ScoreOptions &options,
                 Progress *progress = nullptr);

} // namespace polymoe

#endif // MOE_RUNTIME_EVALUATE_H
