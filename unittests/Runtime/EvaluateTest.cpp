//===-- EvaluateTest.cpp --------------------------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/Evaluate.h"
#include "TestCorpus.h"
#include "TestExecutor.h"
#include "TestFolder.h"

#include <cmath>
#include <cstring>

using namespace polymoe;

namespace {
class Evaluation : public testing::Test {
protected:
  Evaluation() {
    TestCorpus made;
    made.languages.push_back({"tr", 1});
    made.add("en", "train", {4});
    made.add("en", "test", {10, 1, 30});
    made.add("el", "test", {7});
    made.write(folder / "corpus");
    corpus = std::make_unique<Corpus>(folder / "corpus", 1000);
  }
  TestFolder folder;
  std::unique_ptr<Corpus> corpus;
  SumModel model{1000};
};
} // namespace

TEST_F(Evaluation, CountsBitsAndBytes) {
  for (int64_t length : {1, 7, 64})
    for (int64_t rows : {1, 3}) {
      auto scores = evaluate(model, *corpus,
                             {.windows = {.length = length, .rows = rows}});
      ASSERT_EQ(scores.size(), 2u); // no text in tr
      EXPECT_EQ(scores[0].language.code, "en");
      EXPECT_EQ(scores[0].documents, 3);
      EXPECT_EQ(scores[0].tokens, 9 + 29);
      EXPECT_EQ(scores[0].bytes, 3 * 41);
      EXPECT_NEAR(scores[0].perplexity(), 4, 1e-5);
      EXPECT_NEAR(scores[0].bitsPerByte(), 2.0 * 38 / 123, 1e-6);
      EXPECT_NEAR(bitsPerByteByName(scores, "valid/").at("valid/el"),
                  2.0 * 6 / 21, 1e-6);
    }
}

TEST_F(Evaluation, RefusesLanguagesWithoutText) {
  EXPECT_ERROR(evaluate(model, *corpus, {.languages = {"tr"}}),
               "split 'test' has no document in language 'tr'");
  EXPECT_ERROR(evaluate(model, *corpus, {.languages = {"xx"}}),
               "unknown language 'xx'");
  EXPECT_ERROR(evaluate(model, *corpus, {.split = "valid"}), "no document");
}

TEST_F(Evaluation, Reports) {
  auto scores = evaluate(model, *corpus, {.languages = {"el"}});
  EXPECT_NE(toTable(scores).find("el            1          1          6"),
            std::string::npos)
      << toTable(scores);
  auto json = nlohmann::json::parse(toJson(scores, {.split = "test"}));
  EXPECT_EQ(json["languages"][0]["tokens"], 6);
}

TEST(Score, WritesLogprobsAndLogits) {
  TestFolder folder;
  std::vector<int32_t> tokens = {1, 2, 3, 4, 5, 6};
  SafetensorsWriter writer(folder / "t");
  writer.add("tokens", DType::I32, {3, 2}, std::as_bytes(std::span(tokens)));
  writer.finish();
  TokensFile file(folder / "t", 10, /*needsLanguages=*/false);
  SumModel model(10);
  for (bool logits : {false, true}) {
    scoreTokens(model, file, 10, folder / "s", {.rows = 2, .logits = logits});
    auto scores = SafetensorsFile::open(folder / "s");
    const TensorInfo &logprobs = scores->get("logprobs");
    EXPECT_EQ(logprobs.shape, (std::vector<int64_t>{3, 1}));
    for (size_t i = 0; i < 3; ++i) {
      float value;
      std::memcpy(&value, scores->data(logprobs).data() + 4 * i, 4);
      EXPECT_EQ(value, std::log(0.25f));
    }
    ASSERT_EQ(scores->find("logits") != nullptr, logits);
    if (!logits)
      continue;
    const TensorInfo &all = scores->get("logits");
    EXPECT_EQ(all.shape, (std::vector<int64_t>{3, 2, 10}));
    float value; // row 2, token 1: (5 + 6) * 2 mod 10 = 2 is the best
    std::memcpy(&value, scores->data(all).data() + 4 * (50 + 2), 4);
    EXPECT_EQ(value, 0);
  }
}
