//===-- Evaluate.cpp - how well a model predicts text ---------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/Evaluate.h"
#include "moe/Runtime/Error.h"
#include "moe/Runtime/Progress.h"
#include "moe/Runtime/Safetensors.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numbers>

using namespace polymoe;

double LanguageScore::perplexity() const {
  return tokens ? std::exp(negativeLogLikelihood / double(tokens)) : NAN;
}

double LanguageScore::bitsPerByte() const {
  return bytes ? negativeLogLikelihood / std::numbers::ln2 / double(bytes)
               : NAN;
}

std::vector<LanguageScore> polymoe::evaluate(Scorer &scorer,
                                             const Corpus &corpus,
                                             const EvaluateOptions &options,
                                             Progress *progress) {
  std::vector<int32_t> wanted;
  wanted.reserve(corpus.languages().size() + options.languages.size());
  for (const std::string &code : options.languages)
    wanted.push_back(corpus.languageIndex(code));
  if (options.languages.empty())
    for (size_t i = 0; i < corpus.languages().size(); ++i)
      wanted.push_back(int32_t(i));

  std::vector<LanguageScore> scores;
  std::vector<float> logprobs(
      size_t(options.windows.rows * options.windows.length));
  int64_t batches = 0, tokens = 0;
  for (int32_t language : wanted) {
    EvaluationPass pass(corpus, options.split, language, options.windows,
                        options.maxDocuments);
    const Language &named = corpus.languages()[size_t(language)];
    if (pass.documents() == 0) {
      if (options.languages.empty())
        continue;
      fail(corpus.folder(), ": split '", options.split,
           "' has no document in language '", named.code, "'");
    }
    if (options.byGroup)
      corpus.requireGroup(language);
    LanguageScore score{named, pass.documents(), pass.predictedTokens(),
                        pass.bytes(), 0};
    while (std::optional<Batch> batch = pass.next()) {
      logprobs.resize(batch->tokens.size());
      scorer.score(*batch, logprobs, {});
      for (size_t i = 0; i < logprobs.size(); ++i)
        if (batch->labels[i] >= 0) {
          score.negativeLogLikelihood -= double(logprobs[i]);
          ++tokens;
        }
      if (progress)
        progress->update(++batches, tokens);
    }
    scores.push_back(score);
  }
  if (scores.empty())
    fail(corpus.folder(), ": split '", options.split, "' has no document");
  return scores;
}

std::map<std::string, double>
polymoe::bitsPerByteByName(const std::vector<LanguageScore> &scores,
                           const std::string &prefix) {
  std::map<std::string, double> figures;
  for (const LanguageScore &score : scores)
    figures[prefix + score.language.code] = score.bitsPerByte();
  return figures;
}

std::string polymoe::toTable(const std::vector<LanguageScore> &scores) {
  std::string text = "language  round  documents     tokens      bytes  "
                     "perplexity  bits/byte\n";
  for (const LanguageScore &score : scores) {
    char line[256];
    std::snprintf(line, sizeof(line),
                  "%-8s  %5d  %9lld  %9lld  %9lld  %10.3f  %9.4f\n",
                  score.language.code.c_str(), score.language.round,
                  static_cast<long long>(score.documents),
                  static_cast<long long>(score.tokens),
                  static_cast<long long>(score.bytes), score.perplexity(),
                  score.bitsPerByte());
    text += line;
  }
  return text;
}

std::string polymoe::toJson(const std::vector<LanguageScore> &scores,
                            const EvaluateOptions &options) {
  nlohmann::json languages = nlohmann::json::array();
  for (const LanguageScore &score : scores)
    languages.push_back(
        {{"language", score.language.code},
         {"round", score.language.round},
         {"documents", score.documents},
         {"tokens", score.tokens},
         {"bytes", score.bytes},
         {"negative_log_likelihood", score.negativeLogLikelihood},
         {"perplexity", score.perplexity()},
         {"bits_per_byte", score.bitsPerByte()}});
  return nlohmann::json{{"split", options.split},
                        {"length", options.windows.length},
                        {"stride", options.windows.stride
                                       ? options.windows.stride
                                       : options.windows.length},
                        {"max_documents", options.maxDocuments},
                        {"languages", languages}}
             .dump(2) +
         "\n";
}

/// Repeats the first row until there are `rows`.
static Batch filled(Batch batch, int64_t rows) {
  const auto length = batch.length;
  for (auto *field : {&batch.tokens, &batch.labels, &batch.languages,
                      &batch.old, &batch.positions, &batch.segments})
    for (int64_t row = batch.rows; row < rows; ++row)
      for (int64_t i = 0; i < length; ++i)
        field->push_back((*field)[size_t(i)]);
  batch.rows = std::max(batch.rows, rows);
  return batch;
}

void polymoe::scoreTokens(Scorer &scorer, const TokensFile &tokens,
                          int64_t vocabulary, const std::filesystem::path &out,
                          const ScoreOptions &options, Progress *progress) {
  const int64_t n = tokens.rows(), length = tokens.length();
  std::vector<float> kept; // [N, S-1]
  kept.reserve(size_t(n * (length - 1)));
  auto forBatches = [&](const SafetensorsWriter::Sink *logitsSink) {
    std::vector<float> logprobs, logits;
    for (int64_t begin = 0; begin < n; begin += options.rows) {
      // One shape is one program. No row depends on another one.
      const int64_t count = std::min(options.rows, n - begin);
      const Batch batch = filled(tokens.batch(begin, count), options.rows);
      logprobs.resize(size_t(batch.rows * length));
      logits.resize(logitsSink ? size_t(batch.rows * length * vocabulary) : 0);
      scorer.score(batch, logprobs, logits);
      for (int64_t row = 0; row < count; ++row)
        kept.insert(kept.end(), logprobs.begin() + row * length,
                    logprobs.begin() + (row + 1) * length - 1);
      if (logitsSink)
        (*logitsSink)(std::as_bytes(
            std::span(logits).first(size_t(count * length * vocabulary))));
      if (progress)
        progress->update(begin + count, (begin + count) * length);
    }
  };
  SafetensorsWriter writer(out);
  // The logits come first in the file: writing them fills the logprobs.
  if (options.logits)
    writer.add("logits", DType::F32, {n, length, vocabulary},
               [&](const SafetensorsWriter::Sink &sink) { forBatches(&sink); });
  writer.add("logprobs", DType::F32, {n, length - 1},
             [&](const SafetensorsWriter::Sink &sink) {
               if (!options.logits)
                 forBatches(nullptr);
               sink(std::as_bytes(std::span(kept)));
             });
  writer.finish();
}
