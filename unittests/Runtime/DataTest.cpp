//===-- DataTest.cpp ------------------------------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/Data.h"
#include "TestCorpus.h"
#include "TestFolder.h"

#include <fstream>
#include <numeric>
#include <set>

using namespace polymoe;
using Ints = std::vector<int32_t>;

//===----------------------------------------------------------------------===//
// Tokens file
//===----------------------------------------------------------------------===//

namespace {
struct Tokens {
  std::vector<int64_t> tokens = {1, 2, 3, 4, 5, 6}, shape = {2, 3};
  std::vector<int32_t> languages = {1, 0};
  std::vector<int64_t> languageShape = {2};
  std::map<std::string, std::string> metadata = {{"languages", "en,el"},
                                                 {"rounds", "0,1"}};

  TokensFile open(const TestFolder &folder, bool needsLanguages = true) const {
    SafetensorsWriter writer(folder / "t.safetensors", metadata);
    writer.add("tokens", DType::I64, shape, std::as_bytes(std::span(tokens)));
    if (!languageShape.empty())
      writer.add("languages", DType::I32, languageShape,
                 std::as_bytes(std::span(languages)));
    writer.finish();
    return TokensFile(folder / "t.safetensors", 10, needsLanguages);
  }
};
} // namespace

TEST(TokensFile, GivesRowsInOrder) {
  TestFolder folder;
  TokensFile file = Tokens().open(folder);
  EXPECT_EQ(file.length(), 3);
  file.require(2);
  Batch batch = file.next(2);
  EXPECT_EQ(batch.tokens, (Ints{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(batch.labels, (Ints{2, 3, -1, 5, 6, -1}));
  EXPECT_EQ(batch.languages, (Ints{1, 1, 1, 0, 0, 0}));
  EXPECT_EQ(batch.old, (Ints{0, 0, 0, 1, 1, 1}));
  EXPECT_EQ(batch.positions, (Ints{0, 1, 2, 0, 1, 2}));
  EXPECT_EQ(batch.segments, (Ints{0, 0, 0, 0, 0, 0}));
  EXPECT_ERROR(file.next(1), "expected at least 3 rows, but got 2");
  TokensFile again = Tokens().open(folder);
  (void)again.next(1);
  file.seek(again.position());
  EXPECT_EQ(file.next(1).tokens, (Ints{4, 5, 6}));
  EXPECT_ERROR(file.seek("{}"), "saved data position");
  EXPECT_ERROR(file.seek("no json"), "saved data position");
  EXPECT_ERROR(file.require(5), "expected at least 7 rows, but got 2");
}

TEST(TokensFile, RefusesAPositionInOtherContent) {
  TestFolder folder;
  const std::string position = Tokens().open(folder).position();
  Tokens tokens;
  tokens.tokens[4] = 9;
  EXPECT_ERROR(tokens.open(folder).seek(position),
               "t.safetensors: expected the tokens and languages that the "
               "saved position was made with, but got others");
  Tokens languages;
  languages.languages[0] = 0;
  EXPECT_ERROR(languages.open(folder).seek(position), "but got others");
  Tokens rounds;
  rounds.metadata["rounds"] = "0,2";
  EXPECT_ERROR(rounds.open(folder).seek(position), "but got others");
  Tokens().open(folder).seek(position);
}

TEST(TokensFile, LanguagesPerToken) {
  TestFolder folder;
  Tokens tokens;
  tokens.languages = {0, 1, 1, 1, 0, 0};
  tokens.languageShape = {2, 3};
  EXPECT_EQ(tokens.open(folder).next(2).old, (Ints{1, 0, 0, 0, 1, 1}));
}

TEST(TokensFile, SaysTheGroupsOfItsLanguages) {
  TestFolder folder;
  TokensFile file = Tokens().open(folder);
  EXPECT_ERROR(file.requireGroups(),
               "t.safetensors: expected languages that the model has a group "
               "for, but 'el' is in none");
  file.setGroups({{"en", 2}, {"el", 0}});
  file.requireGroups();
  EXPECT_EQ(file.next(2).groups, (Ints{0, 0, 0, 2, 2, 2}));
}

TEST(TokensFile, LanguagesMayLackForScoring) {
  TestFolder folder;
  Tokens tokens;
  tokens.languageShape = {};
  tokens.metadata = {};
  EXPECT_EQ(tokens.open(folder, false).rows(), 2);
  EXPECT_ERROR(tokens.open(folder), "key 'languages' is missing");
  // Nor are those that are there read.
  tokens.languageShape = Tokens().languageShape;
  EXPECT_EQ(tokens.open(folder, false).rows(), 2);
  EXPECT_ERROR(tokens.open(folder), "expected metadata 'languages'");
}

TEST(TokensFile, RefusesBadNumbers) {
  TestFolder folder;
  auto change = [&](auto how, const char *message) {
    Tokens tokens;
    how(tokens);
    EXPECT_ERROR(tokens.open(folder), message);
    EXPECT_ERROR(tokens.open(folder), "t.safetensors");
  };
  change([](Tokens &t) { t.tokens[4] = 10; },
         "expected numbers in [0, 10), but got 10 at element 4");
  change([](Tokens &t) { t.tokens[0] = -1; }, "but got -1 at element 0");
  change([](Tokens &t) { t.tokens[0] = int64_t(1) << 32; },
         "but got 4294967296");
  change([](Tokens &t) { t.shape = {6}; }, "expected shape [N, S]");
  change([](Tokens &t) { t.languages[1] = 2; },
         "key 'languages': expected numbers in [0, 2), but got 2");
  change([](Tokens &t) { t.languageShape = {1, 2}; },
         "expected shape [2] or [2, 3], but got [1, 2]");
  change([](Tokens &t) { t.metadata.erase("rounds"); }, "metadata 'rounds'");
  change([](Tokens &t) { t.metadata["rounds"] = "0"; },
         "as many rounds as languages (2), but got 1");
  change([](Tokens &t) { t.metadata["rounds"] = "0,old"; }, "but got 'old'");
  change([](Tokens &t) { t.metadata["rounds"] = "0,-1"; }, "but got '-1'");
  change([](Tokens &t) { t.metadata["languages"] = "en,en"; },
         "'en' appears twice");
}

//===----------------------------------------------------------------------===//
// Corpus
//===----------------------------------------------------------------------===//

static TestCorpus smallCorpus() {
  TestCorpus corpus;
  corpus.add("en", "train", {5, 3, 9, 1, 7}, 1);
  corpus.add("el", "train", {4, 6, 8}, 100);
  corpus.add("el", "train", {11}, 200);
  corpus.add("el", "test", {10, 1, 2}, 300);
  corpus.add("en", "valid", {4}, 400);
  return corpus;
}

TEST(Corpus, ReadsDocuments) {
  TestFolder folder;
  smallCorpus().write(folder.path);
  Corpus corpus(folder.path, 1000);
  EXPECT_EQ(corpus.languages().size(), 2u);
  EXPECT_EQ(corpus.tokenizer(), "tokenizer.json");
  EXPECT_EQ(corpus.documents("train").size(), 9u);
  EXPECT_EQ(corpus.documents("valid").size(), 1u);
  Corpus::Document last = corpus.documents("train")[8];
  EXPECT_EQ(last.language, 1);
  EXPECT_EQ(last.length, 11);
  EXPECT_EQ(last.bytes, 33);
  Ints tokens(3);
  corpus.read(last, 8, 3, tokens.data());
  EXPECT_EQ(tokens, (Ints{209, 210, 0}));
}

TEST(Corpus, RefusesWhatIsWrong) {
  TestFolder folder;
  auto change = [&](auto how, const char *message, int64_t vocabulary = 1000) {
    TestCorpus corpus = smallCorpus();
    how(corpus);
    corpus.write(folder.path);
    EXPECT_ERROR(Corpus(folder.path, vocabulary), message);
    EXPECT_ERROR(Corpus(folder.path, vocabulary), folder.path.string());
  };
  change([](TestCorpus &c) { c.shards[1].tokens[3] = 999; },
         "document 0: expected EOS (0) at its end, but got 999");
  change([](TestCorpus &c) { c.shards[1].tokens[2] = 1000; },
         "train-1.safetensors: key 'tokens': expected numbers in [0, 1000), "
         "but got 1000 at element 2");
  change([](TestCorpus &c) { c.shards[1].tokens[2] = -7; }, "but got -7");
  change([](TestCorpus &c) { c.shards[0].documents[2] = 5; },
         "offsets that grow, but got 5 and 5");
  change([](TestCorpus &c) { c.shards[0].documents[1] = 1000000; },
         "offsets that grow");
  change([](TestCorpus &c) { c.shards[0].documents[0] = 1; },
         "offsets from 0 to 25, but got 1 to 25");
  change([](TestCorpus &c) { c.shards[0].documents.push_back(25); },
         "one offset in 'documents' more");
  change([](TestCorpus &c) { c.shards[0].bytes[0] = -1; },
         "no negative number");
  change([](TestCorpus &c) { c.shards[2] = {"el", "train", {}, {0}, {}}; },
         "empty shard");
  change([](TestCorpus &c) { c.shards[0].language = "xx"; },
         "corpus.json: unknown language 'xx'");
  change([](TestCorpus &c) { c.shards[0].split = "dev"; }, "but got \"dev\"");
  change([](TestCorpus &c) { c.languages.push_back({"en", 1}); },
         "'en' appears twice");
  change([](TestCorpus &c) { c.changes["version"] = 2; }, "version 1");
  change([](TestCorpus &c) { c.changes["eos"] = 1000; },
         "key 'eos': expected a whole number from 0 to ");
  change([](TestCorpus &c) { c.changes["eos"] = -1; },
         "key 'eos': expected a whole number");
  change([](TestCorpus &c) { c.changes["shards"] = 3; },
         "key 'shards': expected a list, but got 3");
  change([](TestCorpus &c) { c.changes["shards"] = {3}; },
         "key 'shards[0]': expected an object, but got 3");
  change([](TestCorpus &) {}, "key 'vocabulary': expected at most 999", 999);
  std::ofstream(folder / "corpus.json") << "{";
  EXPECT_ERROR(Corpus(folder.path, 1000),
               "corpus.json: expected JSON, but got");
}

/// The rows of `count` batches in one.
static Ints tokensOf(BatchSource &source, int64_t rows) {
  return source.next(rows).tokens;
}

namespace {
class Sampler : public testing::Test {
protected:
  Sampler() {
    smallCorpus().write(folder.path);
    corpus = std::make_unique<Corpus>(folder.path, 1000);
  }
  TestFolder folder;
  std::unique_ptr<Corpus> corpus;
};
} // namespace

TEST_F(Sampler, AnEpochHasEveryTokenOnce) {
  // 54 tokens of training text, nine rows of six.
  CorpusSampler sampler(*corpus, {.length = 6, .seed = 4});
  EXPECT_EQ(sampler.tokens(), 54);
  for (int epoch = 0; epoch < 3; ++epoch) {
    EXPECT_EQ(sampler.epoch(), epoch);
    std::multiset<int32_t> seen;
    for (int32_t token : tokensOf(sampler, 9))
      seen.insert(token);
    EXPECT_EQ(seen.count(0), 9u);
    for (const auto &shard : smallCorpus().shards)
      if (shard.split == "train")
        for (int32_t token : shard.tokens)
          EXPECT_EQ(seen.count(token), token == 0 ? 9u : 1u) << token;
  }
}

TEST_F(Sampler, OrderDependsOnSeedAndEpoch) {
  CorpusSampler a(*corpus, {.length = 54, .seed = 4});
  CorpusSampler b(*corpus, {.length = 54, .seed = 4});
  CorpusSampler c(*corpus, {.length = 54, .seed = 5});
  const Ints first = tokensOf(a, 1), second = tokensOf(a, 1);
  EXPECT_NE(first, second);
  EXPECT_EQ(first, tokensOf(b, 1));
  EXPECT_NE(first, tokensOf(c, 1));
}

TEST_F(Sampler, ResumesAnywhere) {
  for (bool segmentAware : {false, true}) {
    SamplerOptions options{
        .length = 7, .seed = 1, .segmentAware = segmentAware};
    CorpusSampler whole(*corpus, options);
    std::vector<Batch> expected;
    std::vector<std::string> positions;
    for (int i = 0; i < 40; ++i) {
      positions.push_back(whole.position());
      expected.push_back(whole.next(1));
    }
    for (size_t i = 0; i < 40; ++i) {
      CorpusSampler resumed(*corpus, options);
      resumed.seek(positions[i]);
      for (size_t j = i; j < 40; ++j) {
        Batch batch = resumed.next(1);
        ASSERT_EQ(batch.tokens, expected[j].tokens);
        ASSERT_EQ(batch.positions, expected[j].positions);
        ASSERT_EQ(batch.segments, expected[j].segments);
        ASSERT_EQ(batch.old, expected[j].old);
      }
    }
  }
}

TEST_F(Sampler, BatchesSayTheGroupsOfTheirLanguages) {
  CorpusSampler sampler(*corpus, {.length = 54});
  EXPECT_EQ(sampler.next(1).groups, Ints(54, -1));
  EXPECT_ERROR(sampler.requireGroups(),
               "corpus.json: expected languages that the model has a group "
               "for, but 'en' is in none");
  corpus->setGroups({{"en", 3}, {"tr", 1}});
  EXPECT_ERROR(sampler.requireGroups(), "'el' is in none");
  // What is not drawn needs no group.
  CorpusSampler(*corpus, {.languages = {"en"}}).requireGroups();
  corpus->setGroups({{"en", 3}, {"el", 0}});
  sampler.requireGroups();
  Batch batch = sampler.next(1);
  for (size_t i = 0; i < 54; ++i)
    EXPECT_EQ(batch.groups[i], batch.languages[i] == 0 ? 3 : 0);
  EvaluationPass pass(*corpus, "valid", 0, {.length = 3, .rows = 1});
  EXPECT_EQ(pass.next()->groups, Ints(3, 3));
}

TEST_F(Sampler, GroupsTakeTurns) {
  SamplerOptions options{.length = 7, .seed = 1};
  EXPECT_ERROR(GroupSampler(*corpus, options), "'en' is in none");
  corpus->setGroups({{"en", 1}, {"el", 0}});
  GroupSampler whole(*corpus, options);
  std::vector<Batch> expected;
  std::vector<std::string> positions;
  int64_t firsts = 0;
  for (int i = 0; i < 40; ++i) {
    positions.push_back(whole.position());
    expected.push_back(whole.next(2));
    const Batch &batch = expected.back();
    EXPECT_EQ(batch.groups, Ints(14, batch.groups[0]));
    if (i % 2) // both once in a round
      EXPECT_NE(batch.groups[0], expected[size_t(i) - 1].groups[0]);
    else
      firsts += batch.groups[0];
  }
  EXPECT_GT(firsts, 2);
  EXPECT_LT(firsts, 18);
  for (size_t i = 0; i < 40; ++i) {
    GroupSampler resumed(*corpus, options);
    resumed.seek(positions[i]);
    for (size_t j = i; j < 40; ++j)
      ASSERT_EQ(resumed.next(2).tokens, expected[j].tokens);
  }
  // Each draws as a sampler of its languages does.
  CorpusSampler greek(*corpus, {.length = 7, .seed = 1, .languages = {"el"}});
  for (const Batch &batch : expected)
    if (batch.groups[0] == 0)
      EXPECT_EQ(batch.tokens, greek.next(2).tokens);
  EXPECT_ERROR(whole.seek(greek.position()), "expected one in a corpus by");
  corpus->setGroups({{"en", 0}, {"el", 0}});
  EXPECT_ERROR(GroupSampler(*corpus, options).seek(positions[3]),
               "expected 2 groups of languages");
}

TEST(SamplerAlpha, MakesTextProportionalToAPowerOfBytes) {
  TestFolder folder;
  TestCorpus made;
  made.add("en", "train", std::vector<int64_t>(8000, 4));
  made.add("el", "train", std::vector<int64_t>(500, 4));
  made.write(folder.path);
  Corpus corpus(folder.path, 1000);
  for (double alpha : {1.0, 0.3, 0.0}) {
    CorpusSampler sampler(corpus, {.length = 4, .seed = 1, .alpha = alpha});
    Batch batch = sampler.next(8500);
    const auto greek =
        std::count(batch.languages.begin(), batch.languages.end(), 1);
    // An epoch is as long as the text.
    EXPECT_NEAR(double(sampler.epoch()), 1, alpha == 1 ? 0 : 1);
    EXPECT_NEAR(double(greek) / (4 * 8500),
                std::pow(500, alpha) /
                    (std::pow(500, alpha) + std::pow(8000, alpha)),
                0.01)
        << alpha;
  }
}

TEST_F(Sampler, RefusesAPositionOfAnotherRun) {
  CorpusSampler sampler(*corpus, {.length = 7, .seed = 1});
  CorpusSampler other(*corpus, {.length = 7, .seed = 2});
  EXPECT_ERROR(sampler.seek(other.position()), "seed, weights and row length");
  EXPECT_ERROR(sampler.seek(R"({"kind":"tokens file","row":1})"),
               "saved data position");
  nlohmann::json bad = nlohmann::json::parse(sampler.position());
  bad["document"] = 99;
  EXPECT_ERROR(sampler.seek(bad.dump()), "outside of the corpus");
  bad["document"] = -1;
  EXPECT_ERROR(sampler.seek(bad.dump()), "whole number");
  // A position that is refused changes nothing that matters.
  sampler.seek(CorpusSampler(*corpus, {.length = 7, .seed = 1}).position());
}

TEST_F(Sampler, RefusesAPositionInOtherText) {
  const SamplerOptions options{.length = 7, .seed = 1};
  const std::string position = CorpusSampler(*corpus, options).position();
  for (const char *split : {"test", "train"}) {
    TestFolder changed;
    TestCorpus other = smallCorpus();
    for (TestCorpus::Shard &shard : other.shards)
      if (shard.split == split)
        shard.tokens[0] += 1;
    other.write(changed.path);
    Corpus second(changed.path, 1000);
    CorpusSampler sampler(second, options);
    if (split == std::string("test"))
      sampler.seek(position); // nothing is drawn from there
    else
      EXPECT_ERROR(sampler.seek(position), "expected the documents");
  }
}

TEST_F(Sampler, ChoosesLanguagesAndRounds) {
  for (auto options :
       {SamplerOptions{.languages = {"el"}}, SamplerOptions{.rounds = {1}},
        SamplerOptions{.weights = {{"en", 0}}}}) {
    options.length = 29;
    CorpusSampler sampler(*corpus, options);
    EXPECT_EQ(sampler.documents(), 4);
    Batch batch = sampler.next(1);
    EXPECT_EQ(batch.languages, Ints(29, 1));
    EXPECT_EQ(batch.old, Ints(29, 0));
  }
  EXPECT_ERROR(CorpusSampler(*corpus, {.languages = {"tr"}}),
               "unknown language 'tr'");
  EXPECT_ERROR(CorpusSampler(*corpus, {.rounds = {2}}), "no document");
  EXPECT_ERROR(
      CorpusSampler(*corpus, {.weights = {{"en", 1e-12}, {"el", 1e-12}}}),
      "too small");
}

TEST_F(Sampler, SegmentsFollowDocuments) {
  CorpusSampler sampler(*corpus, {.length = 54, .segmentAware = true});
  Batch batch = sampler.next(1);
  for (size_t i = 1; i < 54; ++i) {
    const bool starts = batch.tokens[i - 1] == 0;
    EXPECT_EQ(batch.segments[i], batch.segments[i - 1] + starts);
    EXPECT_EQ(batch.positions[i], starts ? 0 : batch.positions[i - 1] + 1);
  }
  EXPECT_EQ(batch.labels[53], -1);
}

TEST(SamplerWeights, AreProbabilitiesOfDocuments) {
  TestFolder folder;
  TestCorpus made;
  made.add("en", "train", std::vector<int64_t>(2000, 2));
  made.add("el", "train", std::vector<int64_t>(2000, 2));
  made.write(folder.path);
  Corpus corpus(folder.path, 1000);
  CorpusSampler sampler(
      corpus, {.length = 2, .weights = parseWeights("en=1.5,el=0.1")});
  int64_t english = 0, greek = 0;
  while (sampler.epoch() == 0)
    (sampler.next(1).languages[0] == 0 ? english : greek) += 1;
  EXPECT_NEAR(double(english), 3000, 100);
  EXPECT_NEAR(double(greek), 200, 50);
}

TEST(SamplerWeights, Parse) {
  EXPECT_EQ(parseWeights("en=1,el=0.1"),
            (std::map<std::string, double>{{"en", 1}, {"el", 0.1}}));
  for (const char *bad : {"", "en", "en=", "=1", "en=x", "en=-1", "en=nan",
                          "en=inf", "en=1,", "en=1 ", "en=1e9"})
    EXPECT_ERROR(parseWeights(bad), "expected LANGUAGE=NUMBER");
  EXPECT_ERROR(parseWeights("en=1,en=2"), "appears twice");
}

//===----------------------------------------------------------------------===//
// Evaluation
//===----------------------------------------------------------------------===//

TEST(EvaluationPass, PredictsEveryTokenOnce) {
  TestFolder folder;
  smallCorpus().write(folder.path);
  Corpus corpus(folder.path, 1000);
  for (int64_t length : {1, 2, 3, 9, 20})
    for (int64_t rows : {1, 2, 5}) {
      EvaluationPass pass(corpus, "test", 1, {.length = length, .rows = rows});
      EXPECT_EQ(pass.predictedTokens(), 10);
      EXPECT_EQ(pass.bytes(), 39);
      Ints labels;
      int64_t batches = 0;
      while (std::optional<Batch> batch = pass.next()) {
        ++batches;
        EXPECT_EQ(batch->rows, rows);
        for (size_t i = 0; i < batch->labels.size(); ++i) {
          if (batch->labels[i] < 0)
            continue;
          labels.push_back(batch->labels[i]);
          // Tokens count up in this corpus.
          if (batch->labels[i] != 0) {
            EXPECT_EQ(batch->labels[i], batch->tokens[i] + 1);
          }
        }
      }
      EXPECT_EQ(batches, pass.batches());
      EXPECT_EQ(labels, (Ints{302, 303, 304, 305, 306, 307, 308, 309, 0, 0}));
    }
  EXPECT_FALSE(EvaluationPass(corpus, "test", 0, {4, 2}).next().has_value());
  EXPECT_EQ(EvaluationPass(corpus, "test", 1, {4, 2}, 1).documents(), 1);
}

TEST(EvaluationPass, WindowsOverlapByTheStride) {
  TestFolder folder;
  smallCorpus().write(folder.path);
  Corpus corpus(folder.path, 1000);
  for (int64_t stride : {1, 2, 3, 4}) {
    EvaluationPass pass(corpus, "test", 1, {4, 1, stride}, 1);
    Ints labels;
    int64_t windows = 0;
    while (std::optional<Batch> batch = pass.next()) {
      EXPECT_EQ(batch->tokens[0], 301 + windows * stride);
      for (size_t i = 0; i < 4; ++i)
        if (batch->labels[i] >= 0) {
          labels.push_back(batch->labels[i]);
          // All but the first window read so much before they predict.
          EXPECT_GE(int64_t(i), windows == 0 ? 0 : 4 - stride);
        }
      ++windows;
    }
    EXPECT_EQ(windows, pass.batches());
    EXPECT_EQ(labels, (Ints{302, 303, 304, 305, 306, 307, 308, 309, 0}));
  }
  EXPECT_ERROR(EvaluationPass(corpus, "test", 1, {4, 1, 5}),
               "expected a stride of 1 to 4");
}

TEST(EvaluationPass, ShortWindowsGetShortRows) {
  TestFolder folder;
  TestCorpus made;
  made.add("en", "test", {9, 2, 3, 3, 2, 5, 4, 2, 3});
  made.write(folder.path);
  Corpus corpus(folder.path, 1000);
  auto labelsOf = [&](const EvaluationWindows &options) {
    EvaluationPass pass(corpus, "test", 0, options);
    std::map<int64_t, int64_t> batches; // by the length of their rows
    std::multiset<int32_t> labels;
    while (std::optional<Batch> batch = pass.next()) {
      EXPECT_EQ(batch->rows * batch->length, options.rows * options.length);
      ++batches[batch->length];
      for (size_t i = 0; i < batch->labels.size(); ++i)
        if (batch->labels[i] >= 0) {
          labels.insert(batch->labels[i]);
          EXPECT_EQ(batch->labels[i] == 0 ? batch->tokens[i] + 1
                                          : batch->labels[i],
                    batch->tokens[i] + 1);
        }
    }
    return std::pair(batches, labels);
  };
  auto [whole, expected] = labelsOf({.length = 8, .rows = 1});
  EXPECT_EQ(whole, (std::map<int64_t, int64_t>{{8, 9}}));
  auto [batches, labels] = labelsOf({.length = 8, .rows = 1, .shapes = 3});
  EXPECT_EQ(labels, expected);
  // Of windows of 1 and 2 tokens four are a batch, and a half-full one stays;
  // those of 3 and 4 tokens are a pair.
  EXPECT_EQ(batches, (std::map<int64_t, int64_t>{{2, 2}, {4, 1}, {8, 1}}));
  // A row of 3 tokens has no half.
  auto [odd, same] = labelsOf({.length = 3, .rows = 2, .shapes = 3});
  EXPECT_EQ(same, expected);
  EXPECT_EQ(odd.size(), 1u);
}
