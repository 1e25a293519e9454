//===-- Data.cpp - text as batches of tokens ------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/Data.h"
#include "moe/Runtime/Error.h"
#include "moe/Runtime/Files.h"
#include "moe/Runtime/Json.h"
#include "moe/Runtime/Memory.h"
#include "moe/Runtime/Safetensors.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>
#include <set>
#include <tuple>

using namespace polymoe;
using nlohmann::json;

/// A batch of zeros, one segment and positions 0 to S-1 in every row.
static Batch makeBatch(int64_t rows, int64_t length) {
  Batch batch;
  batch.rows = rows;
  batch.length = length;
  const size_t size = size_t(rows * length);
  for (auto *field :
       {&batch.tokens, &batch.labels, &batch.languages, &batch.old,
        &batch.groups, &batch.positions, &batch.segments})
    field->assign(size, 0);
  for (size_t i = 0; i < size; ++i)
    batch.positions[i] = int32_t(int64_t(i) % length);
  return batch;
}

const std::vector<int32_t> &Batch::knownGroups() const {
  if (std::any_of(groups.begin(), groups.end(),
                  [](int32_t group) { return group < 0; }))
    fail("expected a group for each token's language, which the model reads, "
         "but got a token without one");
  return groups;
}

/// Labels a row with the tokens that follow; the last has none.
static void labelRow(Batch &batch, int64_t row) {
  const size_t begin = size_t(row * batch.length);
  const size_t last = begin + size_t(batch.length) - 1;
  std::copy(batch.tokens.begin() + int64_t(begin) + 1,
            batch.tokens.begin() + int64_t(last) + 1,
            batch.labels.begin() + int64_t(begin));
  batch.labels[last] = -1;
}

void polymoe::setGroups(std::vector<Language> &languages,
                        const LanguageGroups &groups) {
  for (Language &language : languages) {
    auto group = groups.find(language.code);
    language.group = group == groups.end() ? -1 : group->second;
  }
}

void polymoe::requireGroup(const Language &language,
                           const std::filesystem::path &file) {
  if (language.group < 0)
    fail(file, ": expected languages that the model has a group for, but '",
         language.code, "' is in none (moe.groups)");
}

static std::vector<std::string> splitAtCommas(std::string_view text) {
  std::vector<std::string> pieces;
  for (size_t begin = 0; begin <= text.size();) {
    size_t end = std::min(text.find(',', begin), text.size());
    pieces.emplace_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return pieces;
}

static std::vector<int32_t> narrow(const std::vector<int64_t> &values) {
  return {values.begin(), values.end()};
}

static constexpr const char *positionName = "saved data position";

/// JSON text of a position; throws Error when it is not one of `kind`.
static json parsePosition(std::string_view text, const char *kind) {
  json position = parseJson(text, positionName);
  if (JsonReader reader(position, positionName); reader.text("kind") != kind)
    reader.expected(concat("one in a ", kind));
  return position;
}

//===----------------------------------------------------------------------===//
// Tokens file
//===----------------------------------------------------------------------===//

static std::vector<Language> parseLanguages(const SafetensorsFile &file) {
  const auto &metadata = file.metadata();
  for (const char *key : {"languages", "rounds"})
    if (!metadata.contains(key))
      fail(file.path(), ": expected metadata '", key, "'");
  std::vector<std::string> codes = splitAtCommas(metadata.at("languages"));
  std::vector<std::string> rounds = splitAtCommas(metadata.at("rounds"));
  if (codes.size() != rounds.size())
    fail(file.path(), ": expected as many rounds as languages (", codes.size(),
         "), but got ", rounds.size());
  std::vector<Language> languages;
  for (size_t i = 0; i < codes.size(); ++i) {
    Language language{codes[i], -1};
    const char *end = rounds[i].data() + rounds[i].size();
    auto parsed = std::from_chars(rounds[i].data(), end, language.round);
    if (parsed.ec != std::errc() || parsed.ptr != end || language.round < 0)
      fail(file.path(),
           ": metadata 'rounds': expected whole numbers, but got '", rounds[i],
           "'");
    if (language.code.empty())
      fail(file.path(), ": metadata 'languages': expected no empty code");
    for (const Language &other : languages)
      if (other.code == language.code)
        fail(file.path(), ": language '", language.code, "' appears twice");
    languages.push_back(language);
  }
  return languages;
}

static void checkRange(const std::vector<int64_t> &values, int64_t limit,
                       const std::filesystem::path &path, const char *key) {
  for (size_t i = 0; i < values.size(); ++i)
    if (values[i] < 0 || values[i] >= limit)
      fail(path, ": key '", key, "': expected numbers in [0, ", limit,
           "), but got ", values[i], " at element ", i);
}

TokensFile::TokensFile(const std::filesystem::path &path, int64_t vocabulary,
                       bool needsLanguages)
    : path(path) {
  auto file = SafetensorsFile::open(path);
  for (const TensorInfo &info : file->tensors())
    if (info.name != "tokens" && info.name != "languages")
      fail(path, ": unexpected key '", info.name,
           "', expected tokens and languages");
  const TensorInfo &info = file->get("tokens");
  if (info.shape.size() != 2 || info.shape[1] == 0)
    fail(path, ": key 'tokens': expected shape [N, S], but got ",
         toString(info.shape));
  fingerprint = checksumOf(file->data(info)).digest;
  rowCount = info.shape[0];
  rowLength = info.shape[1];
  std::vector<int64_t> values = file->integers(info);
  checkRange(values, vocabulary, path, "tokens");
  tokens = narrow(values);

  const TensorInfo *ids = file->find("languages");
  if (!needsLanguages) {
    known = {{"", 0}};
    languageIds.assign(tokens.size(), 0);
    return;
  }
  if (!ids)
    fail(path, ": key 'languages' is missing");
  known = parseLanguages(*file);
  fingerprint += checksumOf(file->data(*ids)).digest;
  for (const Language &language : known)
    fingerprint += concat(",", language.code, "=", language.round);
  const bool perRow = ids->shape == std::vector<int64_t>{rowCount};
  if (!perRow && ids->shape != info.shape)
    fail(path, ": key 'languages': expected shape [", rowCount, "] or ",
         toString(info.shape), ", but got ", toString(ids->shape));
  values = file->integers(*ids);
  checkRange(values, int64_t(known.size()), path, "languages");
  if (!perRow) {
    languageIds = narrow(values);
    return;
  }
  languageIds.reserve(tokens.size());
  for (int64_t value : values)
    languageIds.insert(languageIds.end(), size_t(rowLength), int32_t(value));
}

Batch TokensFile::batch(int64_t begin, int64_t count) const {
  if (begin < 0 || count < 0 || begin > rowCount - count)
    fail(path, ": expected at least ", begin + count, " rows, but got ",
         rowCount);
  Batch batch = makeBatch(count, rowLength);
  const int64_t first = begin * rowLength, size = count * rowLength;
  std::copy_n(tokens.begin() + first, size, batch.tokens.begin());
  std::copy_n(languageIds.begin() + first, size, batch.languages.begin());
  for (size_t i = 0; i < batch.old.size(); ++i) {
    const Language &language = known[size_t(batch.languages[i])];
    batch.old[i] = language.round == 0;
    batch.groups[i] = language.group;
  }
  for (int64_t row = 0; row < count; ++row)
    labelRow(batch, row);
  return batch;
}

Batch TokensFile::next(int64_t rows) {
  Batch result = batch(cursor, rows);
  cursor += rows;
  return result;
}

void TokensFile::require(int64_t rows) const {
  if (rows > rowCount - cursor)
    fail(path, ": expected at least ", cursor + rows, " rows, but got ",
         rowCount);
}

void TokensFile::requireGroups() const {
  for (int32_t language : languageIds)
    requireGroup(known[size_t(language)], path);
}

std::string TokensFile::position() const {
  return json{
      {"kind", "tokens file"}, {"row", cursor}, {"fingerprint", fingerprint}}
      .dump();
}

void TokensFile::seek(std::string_view text) {
  const json position = parsePosition(text, "tokens file");
  const JsonReader reader(position, positionName);
  const int64_t row = reader.integer("row");
  if (reader.text("fingerprint") != fingerprint)
    fail(path, ": expected the tokens and languages that the saved position "
               "was made with, but got others");
  if (row > rowCount)
    fail(path, ": expected at least ", row, " rows, but got ", rowCount);
  cursor = row;
}

//===----------------------------------------------------------------------===//
// Training on a corpus
//===----------------------------------------------------------------------===//

std::map<std::string, double> polymoe::parseWeights(std::string_view text) {
  std::map<std::string, double> weights;
  for (const std::string &piece : splitAtCommas(text)) {
    const size_t equals = piece.find('=');
    double weight = -1;
    const char *end = piece.data() + piece.size();
    if (equals != std::string::npos && equals > 0) {
      auto parsed = std::from_chars(piece.data() + equals + 1, end, weight);
      if (parsed.ec != std::errc() || parsed.ptr != end)
        weight = -1;
    }
    // The bound keeps an epoch's list of documents in memory.
    if (!(weight >= 0 && weight <= 1000))
      fail("weights: expected LANGUAGE=NUMBER with a number of at most 1000, "
           "but got '",
           piece, "'");
    if (!weights.emplace(piece.substr(0, equals), weight).second)
      fail("weights: language '", piece.substr(0, equals), "' appears twice");
  }
  return weights;
}

static std::vector<double> weightsOf(const Corpus &corpus,
                                     const SamplerOptions &options) {
  std::vector<double> weights(corpus.languages().size(), 1);
  for (const auto &[code, weight] : options.weights)
    weights[size_t(corpus.languageIndex(code))] = weight;
  return weights;
}

/// The documents to choose from.
static std::vector<Corpus::Document>
documentsOf(const Corpus &corpus, const SamplerOptions &options) {
  const std::vector<Language> &known = corpus.languages();
  const std::vector<double> weights = weightsOf(corpus, options);
  std::vector<bool> taken(known.size(), options.languages.empty());
  for (const std::string &code : options.languages)
    taken[size_t(corpus.languageIndex(code))] = true;
  for (size_t i = 0; i < known.size(); ++i)
    if (!options.rounds.empty() &&
        std::find(options.rounds.begin(), options.rounds.end(),
                  known[i].round) == options.rounds.end())
      taken[i] = false;
  std::vector<Corpus::Document> documents = corpus.documents(options.split);
  std::erase_if(documents, [&](const Corpus::Document &document) {
    const auto language = size_t(document.language);
    return !taken[language] || weights[language] <= 0;
  });
  if (documents.empty())
    fail(corpus.folder(), ": no document of split '", options.split,
         "' is left to train on by the languages, rounds and weights given");
  return documents;
}

/// Multiplies the weight of each language so that without the weights its text
/// would be proportional to bytes^alpha, and that of all as much as it is.
static void temper(std::vector<double> &weights, double alpha,
                   const std::vector<Corpus::Document> &documents) {
  std::vector<double> bytes(weights.size());
  for (const Corpus::Document &document : documents)
    bytes[size_t(document.language)] += double(document.bytes);
  double sum = 0, tempered = 0;
  for (double each : bytes) {
    sum += each;
    tempered += each > 0 ? std::pow(each, alpha) : 0;
  }
  for (size_t i = 0; i < weights.size(); ++i)
    if (bytes[i] > 0)
      weights[i] *= std::pow(bytes[i], alpha) / tempered * (sum / bytes[i]);
}

CorpusSampler::CorpusSampler(const Corpus &corpus, SamplerOptions given)
    : corpus(corpus), options(std::move(given)) {
  if (options.length <= 0)
    fail("expected rows of at least one token, but got ", options.length);
  all = documentsOf(corpus, options);
  weightOf = weightsOf(corpus, options);
  if (options.alpha != 1)
    temper(weightOf, options.alpha, all);
  shuffle();
}

void CorpusSampler::requireGroups() const {
  for (const Corpus::Document &document : all)
    corpus.requireGroup(document.language);
}

int64_t CorpusSampler::tokens() const {
  int64_t sum = 0;
  for (const Corpus::Document &document : all)
    sum += document.length;
  return sum;
}

/// Draws the documents of this epoch and their order.
void CorpusSampler::shuffle() {
  const uint64_t key = mix64(options.seed + mix64(uint64_t(epochNumber) + 1));
  std::vector<std::pair<uint64_t, uint32_t>> keyed;
  // Small weights may draw nothing: draw again, but not for ever.
  for (uint64_t attempt = 0; keyed.empty(); ++attempt) {
    if (attempt == 1000)
      fail(corpus.folder(), ": the weights are too small to draw a document");
    for (uint32_t i = 0; i < all.size(); ++i) {
      const uint64_t random = mix64(key + mix64(all[i].id + attempt));
      const double weight = weightOf[size_t(all[i].language)];
      auto copies = uint64_t(weight);
      if (uniform(randomBits(random, 0)) < weight - std::floor(weight))
        ++copies;
      for (uint64_t copy = 0; copy < copies; ++copy)
        keyed.emplace_back(randomBits(random, copy + 1), i);
    }
  }
  std::sort(keyed.begin(), keyed.end());
  order.clear();
  for (const auto &[random, index] : keyed)
    order.push_back(index);
}

Batch CorpusSampler::next(int64_t rows) {
  Batch batch = makeBatch(rows, options.length);
  for (int64_t row = 0; row < rows; ++row) {
    int32_t segment = 0;
    for (int64_t filled = 0; filled < options.length;) {
      const Corpus::Document &document = all[order[size_t(documentNumber)]];
      const int64_t count =
          std::min(options.length - filled, document.length - tokenNumber);
      const int64_t at = row * options.length + filled;
      corpus.read(document, tokenNumber, count, batch.tokens.data() + at);
      const Language &language = corpus.languages()[size_t(document.language)];
      std::fill_n(batch.languages.begin() + at, count, document.language);
      std::fill_n(batch.old.begin() + at, count, language.round == 0);
      std::fill_n(batch.groups.begin() + at, count, language.group);
      if (options.segmentAware) {
        std::fill_n(batch.segments.begin() + at, count, segment++);
        std::iota(batch.positions.begin() + at,
                  batch.positions.begin() + at + count, 0);
      }
      filled += count;
      tokenNumber += count;
      if (tokenNumber < document.length)
        continue;
      tokenNumber = 0;
      if (++documentNumber < int64_t(order.size()))
        continue;
      documentNumber = 0;
      ++epochNumber;
      shuffle();
    }
    labelRow(batch, row);
  }
  return batch;
}

/// What must be the same for a position to mean the same.
std::string CorpusSampler::fingerprint() const {
  uint64_t hash = mix64(options.seed + all.size());
  hash = mix64(hash + corpus.fingerprint(options.split));
  for (const Corpus::Document &document : all)
    hash = mix64(hash + document.id) + uint64_t(document.length);
  for (double weight : weightOf)
    hash = mix64(hash + uint64_t(std::llround(weight * 1e9)));
  return std::to_string(mix64(hash + uint64_t(options.length)));
}

std::string CorpusSampler::position() const {
  return json{{"kind", "corpus"},
              {"epoch", epochNumber},
              {"document", documentNumber},
              {"token", tokenNumber},
              {"fingerprint", fingerprint()}}
      .dump();
}

void CorpusSampler::seek(std::string_view text) {
  const json position = parsePosition(text, "corpus");
  const JsonReader reader(position, positionName);
  if (reader.text("fingerprint") != fingerprint())
    fail(corpus.folder(), ": expected the documents, seed, weights and row "
                          "length that the saved position was made with");
  epochNumber = reader.integer("epoch");
  documentNumber = reader.integer("document");
  tokenNumber = reader.integer("token");
  shuffle();
  if (documentNumber >= int64_t(order.size()) ||
      tokenNumber >= all[order[size_t(documentNumber)]].length)
    fail(corpus.folder(), ": the saved position lies outside of the corpus");
}

//===----------------------------------------------------------------------===//
// Training on one group of languages at a time
//===----------------------------------------------------------------------===//

GroupSampler::GroupSampler(const Corpus &corpus, const SamplerOptions &options)
    : corpus(corpus), rowLength(options.length), seed(options.seed) {
  std::map<int32_t, std::set<std::string>> codesOf;
  for (const Corpus::Document &document : documentsOf(corpus, options)) {
    corpus.requireGroup(document.language);
    const Language &language = corpus.languages()[size_t(document.language)];
    codesOf[language.group].insert(language.code);
  }
  for (const auto &[group, codes] : codesOf) {
    SamplerOptions ofGroup = options;
    ofGroup.languages.assign(codes.begin(), codes.end());
    samplers.emplace_back(corpus, ofGroup);
  }
}

Batch GroupSampler::next(int64_t rows) {
  const auto count = int64_t(samplers.size());
  const uint64_t round = mix64(mix64(seed) + uint64_t(batchNumber / count));
  std::vector<std::pair<uint64_t, size_t>> order;
  order.reserve(samplers.size());
  for (size_t group = 0; group < samplers.size(); ++group)
    order.emplace_back(randomBits(round, group), group);
  std::sort(order.begin(), order.end());
  return samplers[order[size_t(batchNumber++ % count)].second].next(rows);
}

std::string GroupSampler::position() const {
  json groups = json::array();
  for (const CorpusSampler &sampler : samplers)
    groups.push_back(sampler.position());
  return json{
      {"kind", "corpus by groups"}, {"batch", batchNumber}, {"groups", groups}}
      .dump();
}

void GroupSampler::seek(std::string_view text) {
  const json position = parsePosition(text, "corpus by groups");
  const JsonReader reader(position, positionName);
  const std::vector<JsonReader> groups = reader.at("groups").elements();
  if (groups.size() != samplers.size())
    fail(corpus.folder(), ": expected ", groups.size(),
         " groups of languages, with which the saved position was made, but "
         "got ",
         samplers.size());
  for (size_t i = 0; i < groups.size(); ++i)
    samplers[i].seek(groups[i].text());
  batchNumber = reader.integer("batch");
}

//===----------------------------------------------------------------------===//
// Evaluation
//===----------------------------------------------------------------------===//

EvaluationPass::EvaluationPass(const Corpus &corpus, std::string_view split,
                               int32_t language,
                               const EvaluationWindows &options,
                               int64_t maxDocuments)
    : corpus(corpus), length(options.length), rows(options.rows) {
  if (length <= 0 || rows <= 0)
    fail("expected batches of at least one row and one token, but got ", rows,
         " and ", length);
  if (options.stride < 0 || options.stride > length)
    fail("expected a stride of 1 to ", length,
         ", so that windows leave no token out, but got ", options.stride);
  for (const Corpus::Document &document : corpus.documents(split))
    if (document.language == language &&
        (maxDocuments == 0 || int64_t(all.size()) < maxDocuments))
      all.push_back(document);
  for (size_t document = 0; document < all.size(); ++document)
    cut(document, options);
  plan(options);
}

void EvaluationPass::cut(size_t document, const EvaluationWindows &options) {
  const int64_t tokens = all[document].length;
  const int64_t stride = options.stride == 0 ? length : options.stride;
  int64_t unpredicted = 1;
  for (int64_t begin = 0; unpredicted < tokens; begin += stride) {
    const int64_t count = std::min(length + 1, tokens - begin);
    int64_t shape = 0;
    while (shape + 1 < options.shapes && length % (int64_t(2) << shape) == 0 &&
           count - 1 <= length >> (shape + 1))
      ++shape;
    windows.push_back({document, begin, count, unpredicted, shape});
    unpredicted = begin + count;
  }
}

void EvaluationPass::plan(const EvaluationWindows &options) {
  // From the shortest shape on. Where its last batch would be less than half
  // full, its windows join those of the next shape.
  for (int64_t shape = options.shapes - 1; shape > 0; --shape) {
    std::vector<Window *> own;
    for (Window &window : windows)
      if (window.shape == shape)
        own.push_back(&window);
    const size_t inBatch = size_t(rows) << shape, left = own.size() % inBatch;
    if (2 * left < inBatch)
      for (Window *window : std::span(own).last(left))
        --window->shape;
  }
  auto orderOf = [](const Window &window) {
    return std::tuple(window.shape, window.document, window.begin);
  };
  std::sort(windows.begin(), windows.end(),
            [&](const Window &a, const Window &b) {
              return orderOf(a) < orderOf(b);
            });
  for (size_t first = 0; first < windows.size();) {
    PlannedBatch batch{first, 0, windows[first].shape};
    const auto most = size_t(rows) << batch.shape;
    while (batch.count < most && first < windows.size() &&
           windows[first].shape == batch.shape)
      ++batch.count, ++first;
    planned.push_back(batch);
  }
}

std::optional<Batch> EvaluationPass::next() {
  if (nextBatch == planned.size())
    return std::nullopt;
  const PlannedBatch &plan = planned[nextBatch++];
  const int64_t rowLength = length >> plan.shape;
  Batch batch = makeBatch(rows << plan.shape, rowLength);
  std::fill(batch.tokens.begin(), batch.tokens.end(), corpus.eos());
  std::fill(batch.labels.begin(), batch.labels.end(), -1);
  std::vector<int32_t> tokens(size_t(rowLength) + 1);
  int64_t at = 0;
  for (const Window &window :
       std::span(windows).subspan(plan.first, plan.count)) {
    const Corpus::Document &from = all[window.document];
    corpus.read(from, window.begin, window.count, tokens.data());
    std::copy_n(tokens.begin(), window.count - 1, batch.tokens.begin() + at);
    const int64_t first = window.unpredicted - window.begin;
    std::copy(tokens.begin() + first, tokens.begin() + window.count,
              batch.labels.begin() + at + first - 1);
    const Language &language = corpus.languages()[size_t(from.language)];
    std::fill_n(batch.languages.begin() + at, rowLength, from.language);
    std::fill_n(batch.old.begin() + at, rowLength, language.round == 0);
    std::fill_n(batch.groups.begin() + at, rowLength, language.group);
    at += rowLength;
  }
  return batch;
}

int64_t EvaluationPass::predictedTokens() const {
  int64_t sum = 0;
  for (const Corpus::Document &each : all)
    sum += std::max<int64_t>(0, each.length - 1);
  return sum;
}

int64_t EvaluationPass::bytes() const {
  int64_t sum = 0;
  for (const Corpus::Document &each : all)
    sum += each.bytes;
  return sum;
}
