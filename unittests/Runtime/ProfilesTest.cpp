//===-- ProfilesTest.cpp --------------------------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/Profiles.h"
#include "TestCorpus.h"
#include "TestFolder.h"

#include "moe/Runtime/Files.h"

#include <cmath>
#include <csignal>

using namespace polymoe;

namespace {

/// Points tokens below 500 along the first axis, the others along the second.
class AxisModel : public Prober {
public:
  Measured probe(const Batch &batch, const std::string &what) override {
    EXPECT_EQ(what, "directions");
    ++batches;
    if (interruptAt == batches)
      std::raise(SIGINT);
    std::vector<float> sums(size_t(batch.rows) * 2);
    for (size_t i = 0; i < batch.tokens.size(); ++i)
      if (batch.labels[i] >= 0)
        ++sums[i / size_t(batch.length) * 2 + (batch.tokens[i] < 500 ? 0 : 1)];
    if (poison)
      sums[0] = NAN;
    return {{"directions.0", sums}};
  }
  int64_t batches = 0, interruptAt = 0;
  bool poison = false;
};

class Profiles : public testing::Test {
protected:
  Profiles() {
    TestCorpus made;
    made.languages.push_back({"tr", 1});
    made.add("en", "train", {40, 1, 30}, 1);
    made.add("el", "train", {50}, 600);
    made.add("tr", "train", {20, 20}, 1);
    made.write(folder / "corpus");
    corpus = std::make_unique<Corpus>(folder / "corpus", 1000);
  }
  std::optional<std::vector<LanguageSums>> measure() {
    return measureSums(model, "directions", *corpus, described, options,
                       folder / "partial");
  }
  std::string json() {
    std::string text =
        similarityToJson(*measure(), *corpus, described, options);
    std::filesystem::remove(folder / "partial");
    return text;
  }

  TestFolder folder;
  std::unique_ptr<Corpus> corpus;
  AxisModel model;
  ProfiledModel described = {"model.mlir", "0123", 2, {1}};
  ProfileOptions options = {.tokens = 25, .length = 7, .rows = 3};
};

} // namespace

TEST_F(Profiles, MeasureTheTokensAskedFor) {
  auto measured = *measure();
  ASSERT_EQ(measured.size(), 3u);
  for (const LanguageSums &own : measured) {
    EXPECT_EQ(own.tokens, 25);
    double tokens = 0;
    for (double sum : own.sums.at("directions.0"))
      tokens += sum;
    EXPECT_EQ(tokens, 25);
  }
  EXPECT_EQ(tokensToMeasure(*corpus, options), 75);
  // All tokens but the first of each document where fewer are there.
  options.tokens = 1000;
  EXPECT_EQ((*measure())[0].tokens, 39 + 29);
}

TEST_F(Profiles, GoOnAfterAnInterruption) {
  const std::string whole = json();
  const int64_t batches = model.batches;
  // In the middle of the second language.
  model.batches = 0;
  model.interruptAt = batches / 3 + 1;
  EXPECT_FALSE(measure());
  EXPECT_TRUE(std::filesystem::exists(folder / "partial"));
  model.batches = model.interruptAt = 0;
  EXPECT_EQ(json(), whole);
  EXPECT_LT(model.batches, batches);
  // Another model's, a damaged one, and one of fewer tokens are of no use.
  for (const char *left : {"{", "[]", "{\"measurement\": 1}"}) {
    writeText(folder / "partial", left);
    EXPECT_EQ(json(), whole);
  }
  measure();
  described.values = "other";
  model.batches = 0;
  measure();
  EXPECT_EQ(model.batches, batches);
}

TEST_F(Profiles, DoNotGoOnWithAnotherMeasurement) {
  model.interruptAt = 4;
  EXPECT_FALSE(measure());
  model.batches = model.interruptAt = 0;
  options.tokens = 20;
  const auto measured = *measure();
  for (const LanguageSums &own : measured)
    EXPECT_EQ(own.tokens, 20);
}

TEST_F(Profiles, SayHowAlikeLanguagesAre) {
  writeText(folder / "sim.json", json());
  auto profile = SimilarityProfile::read(folder / "sim.json");
  EXPECT_EQ(profile.model.base, "0123");
  ASSERT_EQ(profile.layers.size(), 1u);
  auto s = profile.layers[0];
  // en and tr point one way but for tokens of one kind, el the other way.
  EXPECT_NEAR(s[0][2], 1, 1e-12);
  EXPECT_LT(s[0][1], 0.1);
  // One pair of new languages, and two of a new and an old one.
  EXPECT_NEAR(profile.ofLayers()[0], (s[1][2] + (s[0][1] + s[0][2]) / 2) / 2,
              1e-12);
  // One new language: the old ones alone.
  options.languages = {"en", "el"};
  writeText(folder / "sim.json", json());
  profile = SimilarityProfile::read(folder / "sim.json");
  EXPECT_NEAR(profile.ofLayers()[0], profile.layers[0][0][1], 1e-12);
}

TEST_F(Profiles, TellRoundsApart) {
  SimilarityProfile profile;
  profile.languages = {{"en", 0}, {"el", 1}, {"bn", 2}, {"hi", 2}};
  profile.layers = {
      {{1, .1, .2, .3}, {.1, 1, .4, .5}, {.2, .4, 1, .6}, {.3, .5, .6, 1}}};
  EXPECT_NEAR(profile.ofLayers()[0], (.6 + (.2 + .3 + .4 + .5) / 4) / 2, 1e-12);
  EXPECT_NEAR(profile.ofLayers(1)[0], .1, 1e-12);
  EXPECT_ERROR(profile.ofLayers(0), "expected a language of round 0 and one of "
                                    "an earlier round");
  EXPECT_ERROR(profile.ofLayers(3), "expected a language of round 3");
}

TEST_F(Profiles, RefuseWhatIsWrong) {
  options.languages = {"xx"};
  EXPECT_ERROR(measure(), "unknown language 'xx'");
  options.languages = {"tr", "tr"};
  EXPECT_ERROR(measure(), "expected each once, but got 'tr' twice");
  options.languages = {"tr"};
  options.split = "test";
  EXPECT_ERROR(measure(), "split 'test' has no document in language 'tr'");
  options = {.tokens = 25, .length = 7, .rows = 3};
  model.poison = true;
  EXPECT_ERROR(measure(), "language 'en', directions.0: expected finite hidden "
                          "states");
  model.poison = false;

  const auto good = nlohmann::json::parse(json());
  auto expect = [&](const char *pointer, nlohmann::json value,
                    const std::string &message) {
    auto bad = good;
    bad[nlohmann::json::json_pointer(pointer)] = std::move(value);
    writeText(folder / "bad.json", bad.dump());
    EXPECT_ERROR(SimilarityProfile::read(folder / "bad.json"), message);
  };
  expect("/format", "polymoe-routing",
         "key 'format': expected "
         "'polymoe-similarity', which");
  expect("/version", 2, "key 'version': expected 1");
  expect("/layers/0/1", {1, 2}, "key 'layers[0][1]'");
  expect("/layers/0/0/0", "x", "key 'layers[0][0][0]'");
  expect("/layers/0/0/1", 0.5, "expected a symmetric matrix of cosines");
  expect("/layers/0/0/0", 2, "expected a symmetric matrix of cosines");
  expect("/model/experts", {1, 1}, "key 'layers': expected 2 layers");
  expect("/unknown", 1, "unknown");
}
