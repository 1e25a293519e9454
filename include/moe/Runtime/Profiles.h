//===-- Profiles.h - what is measured of a model ----------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Profiles are plain JSON that `moe-run profile` measures and passes consume.
// All begin alike:
//
//   {"format": "polymoe-similarity", "version": 1,
//    "model": {"file", "base", "width", "experts": [E of each layer],
//    "values"}, "measured_on": {"data", "split", "sequence", "tokens"},
//    "languages": [{"code", "round", "tokens"}, ...],
//
// where "base" is a digest of the names and shapes of the parameters of the
// dense base, and the tokens of a language are those that were measured. Then a
// similarity has "layers": [[[s(a,b), ...], ...], ...], for each layer the
// matrix over its languages, and a routing "layers": [{"layer", "load":
// [[share of expert e, ...], ...], "entropy": [bits, ...]}, ...], for each
// layer with experts one list and one entropy for each language.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_RUNTIME_PROFILES_H
#define MOE_RUNTIME_PROFILES_H

#include "moe/Runtime/Data.h"
#include "moe/Runtime/Executor.h"

#include <nlohmann/json_fwd.hpp>

namespace polymoe {

class Progress;

/// What a profile says of the model that it was measured on.
struct ProfiledModel {
  std::string file; ///< for people; not compared
  std::string base; ///< digest of the dense base's parameters
  int64_t width = 0;
  std::vector<int64_t> experts; ///< of each layer, 1 for a dense one
  /// Digest of the values of all parameters as they ran, and of what ran them.
  std::string values = {};
};

/// What a profile of `kind` ("similarity") begins with.
nlohmann::ordered_json profileHeader(const std::string &kind,
                                     const ProfiledModel &model,
                                     nlohmann::ordered_json measuredOn);

struct ProfileOptions {
  std::string split = "train";
  /// Codes; all that have documents in the split when empty.
  std::vector<std::string> languages = {};
  int64_t tokens = 100'000; ///< of each language; all if it has fewer
  int64_t length = 512;     ///< tokens of context, at most
  int64_t rows = 8;         ///< in a batch
};

/// What a probe has summed over the tokens of one language, by its name.
struct LanguageSums {
  Language language;
  int64_t tokens = 0;
  std::map<std::string, std::vector<double>> sums;
};

/// Runs the first tokens of each language through the probe `what` and sums
/// what it returns over their rows. Languages that are done are kept in the
/// file `partial`, from which the same measurement goes on after Ctrl-C; who
/// has written the profile removes it. Returns nothing after Ctrl-C. Throws
/// Error: a language without documents, sums that are not finite.
std::optional<std::vector<LanguageSums>>
measureSums(Prober &prober, const std::string &what, const Corpus &corpus,
            const ProfiledModel &model, const ProfileOptions &options,
            const std::filesystem::path &partial, Progress *progress = nullptr);

/// The tokens that measureSums will measure, all languages together.
int64_t tokensToMeasure(const Corpus &corpus, const ProfileOptions &options);

/// The profile of sums of directions, and of loads, as JSON text.
std::string similarityToJson(const std::vector<LanguageSums> &measured,
                             const Corpus &corpus, const ProfiledModel &model,
                             const ProfileOptions &options);
std::string routingToJson(const std::vector<LanguageSums> &measured,
                          const Corpus &corpus, const ProfiledModel &model,
                          const ProfileOptions &options);

/// How alike the hidden states of languages are: the mean cosine over all pairs
/// of their tokens (LayerMoE, equation 2).
struct SimilarityProfile {
  ProfiledModel model;
  std::vector<Language> languages;
  /// [layer][a][b], symmetric.
  std::vector<std::vector<std::vector<double>>> layers;

  /// Reads what similarityToJson wrote. Throws Error, which names file and key.
  static SimilarityProfile read(const std::filesystem::path &file);

  /// For each layer, half the sum of the mean over pairs of languages of round
  /// `round` and the mean over pairs of one of them and one of an earlier
  /// round; with one language of that round the second mean alone. The last
  /// round by default. Throws Error without a language of that round, or of an
  /// earlier one.
  std::vector<double> ofLayers(std::optional<int32_t> round = {}) const;
};

/// How short trainings on each language alone change a model (DMoE, section
/// 3.1).
struct DeviationProfile {
  ProfiledModel model;
  std::vector<Language> languages;
  /// The norm of what training on a language changes in the FFN of a layer,
  /// [language][layer].
  std::vector<std::vector<double>> deviations;
  /// The cosine of what two languages change in the last layers,
  /// [language][language].
  std::vector<std::vector<double>> similarities;

  /// Throws Error, which names file and key.
  static DeviationProfile read(const std::filesystem::path &file);
};

} // namespace polymoe

#endif // MOE_RUNTIME_PROFILES_H
