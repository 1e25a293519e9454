//===-- Profiles.cpp - what is measured of a model ------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/Profiles.h"
#include "moe/Runtime/Error.h"
#include "moe/Runtime/Files.h"
#include "moe/Runtime/Json.h"
#include "moe/Runtime/Progress.h"
#include "moe/Runtime/Trainer.h"

#include <algorithm>
#include <cmath>
#include <numeric>

using namespace polymoe;
using nlohmann::ordered_json;

namespace fs = std::filesystem;

//===----------------------------------------------------------------------===//
// Measuring
//===----------------------------------------------------------------------===//

static EvaluationWindows windowsOf(const ProfileOptions &options) {
  return {.length = options.length, .rows = options.rows};
}

/// The languages to measure, each with as many tokens as there are to measure.
static std::vector<std::pair<int32_t, int64_t>>
languagesToMeasure(const Corpus &corpus, const ProfileOptions &options) {
  std::vector<std::pair<int32_t, int64_t>> wanted;
  auto add = [&](int32_t language) {
    const std::string &code = corpus.languages()[size_t(language)].code;
    for (const auto &[other, tokens] : wanted)
      if (other == language)
        fail("--languages: expected each once, but got '", code, "' twice");
    EvaluationPass pass(corpus, options.split, language, windowsOf(options));
    const int64_t tokens = std::min(pass.predictedTokens(), options.tokens);
    if (tokens > 0)
      wanted.emplace_back(language, tokens);
    else if (!options.languages.empty())
      fail(corpus.folder(), ": split '", options.split,
           "' has no document in language '", code, "'");
  };
  for (const std::string &code : options.languages)
    add(corpus.languageIndex(code));
  if (options.languages.empty())
    for (size_t i = 0; i < corpus.languages().size(); ++i)
      add(int32_t(i));
  if (wanted.empty())
    fail(corpus.folder(), ": split '", options.split, "' has no document");
  return wanted;
}

int64_t polymoe::tokensToMeasure(const Corpus &corpus,
                                 const ProfileOptions &options) {
  int64_t tokens = 0;
  for (auto [language, count] : languagesToMeasure(corpus, options))
    tokens += count;
  return tokens;
}

ordered_json polymoe::profileHeader(const std::string &kind,
                                    const ProfiledModel &model,
                                    ordered_json measuredOn) {
  return {{"format", "polymoe-" + kind},
          {"version", 1},
          {"model",
           {{"file", model.file},
            {"base", model.base},
            {"width", model.width},
            {"experts", model.experts},
            {"values", model.values}}},
          {"measured_on", std::move(measuredOn)}};
}

static ordered_json headerOf(const std::string &kind, const Corpus &corpus,
                             const ProfiledModel &model,
                             const ProfileOptions &options) {
  return profileHeader(kind, model,
                       {{"data", corpus.folder().string()},
                        {"split", options.split},
                        {"sequence", options.length},
                        {"tokens", options.tokens}});
}

namespace {

/// The languages of a measurement that are done, on the disk. A file that is
/// damaged, or that another measurement has left, is of no use.
class PartialSums {
public:
  PartialSums(fs::path file, nlohmann::json measurement)
      : file(std::move(file)), measurement(std::move(measurement)) {
    if (!fs::exists(this->file))
      return;
    const std::optional<nlohmann::json> read =
        tryParseJson(readText(this->file));
    if (!read || !read->is_object() || !read->contains("measurement") ||
        !read->contains("languages"))
      return;
    if (read->at("measurement") == this->measurement &&
        read->at("languages").is_object())
      done = read->at("languages");
  }

  /// Fills in the sums of a language if all of its `tokens` are done.
  bool find(LanguageSums &language, int64_t tokens) const {
    auto found = done.find(language.language.code);
    if (found == done.end())
      return false;
    try {
      LanguageSums known = language;
      found->at("sums").get_to(known.sums);
      found->at("tokens").get_to(known.tokens);
      if (known.tokens != tokens)
        return false;
      language = std::move(known);
      return true;
    } catch (const nlohmann::json::exception &) {
      return false;
    }
  }

  void add(const LanguageSums &language) {
    done[language.language.code] = {{"tokens", language.tokens},
                                    {"sums", language.sums}};
    const nlohmann::json whole = {{"measurement", measurement},
                                  {"languages", done}};
    writeText(file, whole.dump());
  }

private:
  fs::path file;
  nlohmann::json measurement, done = nlohmann::json::object();
};

} // namespace

/// Leaves only the first `count` labels of a batch; returns how many it has.
static int64_t keepLabels(Batch &batch, int64_t count) {
  int64_t kept = 0;
  for (int32_t &label : batch.labels)
    if (label >= 0 && kept < count)
      ++kept;
    else
      label = -1;
  return kept;
}

/// Adds the rows of what was measured to `sums`.
static void addRows(const Measured &measured, int64_t rows,
                    std::map<std::string, std::vector<double>> &sums,
                    const std::string &language) {
  for (const auto &[name, values] : measured) {
    std::vector<double> &sum = sums[name];
    const size_t width = values.size() / size_t(rows);
    sum.resize(width);
    for (size_t i = 0; i < values.size(); ++i)
      sum[i % width] += double(values[i]);
    if (!std::all_of(sum.begin(), sum.end(),
                     [](double value) { return std::isfinite(value); }))
      fail("language '", language, "', ", name,
           ": expected finite hidden states, but got NaN or infinity");
  }
}

std::optional<std::vector<LanguageSums>>
polymoe::measureSums(Prober &prober, const std::string &what,
                     const Corpus &corpus, const ProfiledModel &model,
                     const ProfileOptions &options, const fs::path &partial,
                     Progress *progress) {
  ordered_json measurement = headerOf(what, corpus, model, options);
  measurement["corpus"] = std::to_string(corpus.fingerprint(options.split));
  PartialSums done(partial, measurement);
  std::vector<LanguageSums> all;
  int64_t tokens = 0, measuredHere = 0;
  InterruptGuard guard;
  for (auto [index, count] : languagesToMeasure(corpus, options)) {
    LanguageSums own{corpus.languages()[size_t(index)], 0, {}};
    const bool isDone = done.find(own, count);
    if (!isDone) {
      EvaluationPass pass(corpus, options.split, index, windowsOf(options));
      while (std::optional<Batch> batch = pass.next()) {
        const int64_t kept = keepLabels(*batch, count - own.tokens);
        addRows(prober.probe(*batch, what), batch->rows, own.sums,
                own.language.code);
        own.tokens += kept;
        measuredHere += kept;
        if (progress)
          progress->update(tokens + own.tokens, measuredHere);
        if (InterruptGuard::requested())
          return std::nullopt;
        if (own.tokens == count)
          break;
      }
      done.add(own);
    }
    tokens += own.tokens;
    if (progress && isDone)
      progress->start(tokens);
    all.push_back(std::move(own));
  }
  return all;
}

//===----------------------------------------------------------------------===//
// Writing
//===----------------------------------------------------------------------===//

static ordered_json toJson(const std::vector<LanguageSums> &measured) {
  ordered_json languages = ordered_json::array();
  for (const LanguageSums &own : measured)
    languages.push_back({{"code", own.language.code},
                         {"round", own.language.round},
                         {"tokens", own.tokens}});
  return languages;
}

std::string polymoe::similarityToJson(const std::vector<LanguageSums> &measured,
                                      const Corpus &corpus,
                                      const ProfiledModel &model,
                                      const ProfileOptions &options) {
  ordered_json profile = headerOf("similarity", corpus, model, options);
  profile["languages"] = toJson(measured);
  ordered_json layers = ordered_json::array();
  for (size_t layer = 0; layer < model.experts.size(); ++layer) {
    const std::string name = concat("directions.", layer);
    ordered_json matrix = ordered_json::array();
    for (const LanguageSums &a : measured) {
      ordered_json row = ordered_json::array();
      for (const LanguageSums &b : measured) {
        const std::vector<double> &x = a.sums.at(name), &y = b.sums.at(name);
        if (x.size() != y.size())
          fail(name, ": expected as many sums for '", a.language.code,
               "' as for '", b.language.code, "', but got ", x.size(), " and ",
               y.size());
        const double product =
            std::inner_product(x.begin(), x.end(), y.begin(), 0.0);
        row.push_back(product / double(a.tokens) / double(b.tokens));
      }
      matrix.push_back(std::move(row));
    }
    layers.push_back(std::move(matrix));
  }
  profile["layers"] = std::move(layers);
  return profile.dump(1) + "\n";
}

std::string polymoe::routingToJson(const std::vector<LanguageSums> &measured,
                                   const Corpus &corpus,
                                   const ProfiledModel &model,
                                   const ProfileOptions &options) {
  ordered_json profile = headerOf("routing", corpus, model, options);
  profile["languages"] = toJson(measured);
  ordered_json layers = ordered_json::array();
  for (size_t layer = 0; layer < model.experts.size(); ++layer) {
    const std::string name = concat("loads.", layer);
    if (!measured.front().sums.contains(name))
      continue;
    ordered_json load = ordered_json::array(), entropy = ordered_json::array();
    for (const LanguageSums &own : measured) {
      std::vector<double> shares = own.sums.at(name);
      const double routes = std::accumulate(shares.begin(), shares.end(), 0.0);
      double bits = 0;
      for (double &share : shares) {
        share /= routes;
        bits -= share > 0 ? share * std::log2(share) : 0;
      }
      load.push_back(shares);
      entropy.push_back(bits);
    }
    layers.push_back({{"layer", layer},
                      {"load", std::move(load)},
                      {"entropy", std::move(entropy)}});
  }
  profile["layers"] = std::move(layers);
  return profile.dump(1) + "\n";
}

//===----------------------------------------------------------------------===//
// Reading
//===----------------------------------------------------------------------===//

/// A matrix of a row for each of `rows` languages and `columns` numbers in it.
static std::vector<std::vector<double>>
readMatrix(const JsonReader &matrix, size_t rows, size_t columns) {
  auto expectCount = [](const JsonReader &list, size_t count,
                        const char *what) {
    if (list.elements().size() != count)
      list.expected(concat(count, what),
                    std::to_string(list.elements().size()));
  };
  expectCount(matrix, rows, " rows, one for each language");
  std::vector<std::vector<double>> read;
  for (const JsonReader &row : matrix.elements()) {
    expectCount(row, columns, " numbers");
    std::vector<double> &numbers = read.emplace_back();
    for (const JsonReader &number : row.elements())
      numbers.push_back(number.number());
  }
  return read;
}

/// Checks that `profile` is of `kind` and reads what all profiles have.
static void readHeader(const JsonReader &profile, const std::string &kind,
                       ProfiledModel &model, std::vector<Language> &languages) {
  const std::string format = "polymoe-" + kind;
  if (profile.text("format") != format)
    profile.at("format").expected(
        concat("'", format, "', which moe-run profile ", kind, " writes"),
        "'" + profile.text("format") + "'");
  if (profile.integer("version") != 1)
    profile.at("version").expected("1");
  JsonReader of = profile.at("model");
  model = {of.text("file"), of.text("base"), of.integer("width"), {}};
  for (const JsonReader &count : of.at("experts").elements())
    model.experts.push_back(count.integer());
  for (const JsonReader &language : profile.at("languages").elements()) {
    const std::string code = language.text("code");
    if (std::any_of(languages.begin(), languages.end(),
                    [&](const Language &other) { return other.code == code; }))
      language.at("code").expected("each language once",
                                   "'" + code + "' twice");
    languages.push_back({code, language.at("round").integer<int32_t>()});
  }
  if (languages.empty())
    profile.at("languages").expected("languages", "none");
}

SimilarityProfile SimilarityProfile::read(const fs::path &file) {
  const nlohmann::json json = readJsonObject(file);
  JsonReader reader(json, file.string());
  reader.allow(
      {"format", "version", "model", "measured_on", "languages", "layers"});
  SimilarityProfile profile;
  readHeader(reader, "similarity", profile.model, profile.languages);
  const size_t count = profile.languages.size();
  for (const JsonReader &layer : reader.at("layers").elements()) {
    const auto &matrix =
        profile.layers.emplace_back(readMatrix(layer, count, count));
    for (size_t i = 0; i < count; ++i)
      for (size_t j = 0; j < count; ++j)
        // Sums of directions in f32 are a little off.
        if (std::abs(matrix[i][j]) > 1.001 || matrix[i][j] != matrix[j][i])
          layer.expected("a symmetric matrix of cosines",
                         concat(matrix[i][j], " at [", i, "][", j, "]"));
  }
  if (profile.layers.size() != profile.model.experts.size())
    reader.at("layers").expected(
        concat(profile.model.experts.size(), " layers, as model.experts has"),
        std::to_string(profile.layers.size()));
  return profile;
}

DeviationProfile DeviationProfile::read(const fs::path &file) {
  const nlohmann::json json = readJsonObject(file);
  JsonReader reader(json, file.string());
  reader.allow({"format", "version", "model", "measured_on", "languages",
                "layer_deviation", "similarity"});
  DeviationProfile profile;
  readHeader(reader, "deviation", profile.model, profile.languages);
  const size_t count = profile.languages.size();
  profile.deviations = readMatrix(reader.at("layer_deviation"), count,
                                  profile.model.experts.size());
  profile.similarities = readMatrix(reader.at("similarity"), count, count);
  for (size_t i = 0; i < count; ++i)
    for (size_t j = 0; j < i; ++j)
      if (profile.similarities[i][j] != profile.similarities[j][i])
        reader.at("similarity")
            .expected(concat("the same number at [", i, "][", j, "] and [", j,
                             "][", i, "]"),
                      "two");
  return profile;
}

std::vector<double>
SimilarityProfile::ofLayers(std::optional<int32_t> round) const {
  int32_t last = 0;
  for (const Language &language : languages)
    last = std::max(last, language.round);
  const int32_t wanted = round.value_or(last);
  auto isNew = [&](size_t i) { return languages[i].round == wanted; };
  auto isOld = [&](size_t i) { return languages[i].round < wanted; };
  std::vector<double> result;
  for (const auto &matrix : layers) {
    double newSum = 0, oldSum = 0;
    int64_t newPairs = 0, oldPairs = 0;
    for (size_t a = 0; a < languages.size(); ++a)
      for (size_t b = 0; b < languages.size(); ++b) {
        if (isNew(a) && isNew(b) && a < b)
          newSum += matrix[a][b], ++newPairs;
        if (isNew(a) && isOld(b))
          oldSum += matrix[a][b], ++oldPairs;
      }
    if (oldPairs == 0)
      fail("a similarity: expected a language of round ", wanted,
           " and one of an earlier round, but got none");
    const double withOld = oldSum / double(oldPairs);
    result.push_back(newPairs == 0 ? withOld
                                   : (newSum / double(newPairs) + withOld) / 2);
  }
  return result;
}
