//===-- GenerateTest.cpp --------------------------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/Generate.h"
#include "TestExecutor.h"
#include "TestFolder.h"

#include <cmath>
#include <set>

using namespace polymoe;
using Ints = std::vector<int32_t>;

/// The text of one prompt.
static Ints generateOne(Generator &model, const Ints &prompt,
                        int64_t vocabulary, const GenerateOptions &options) {
  const Prompt one{"prompt", prompt};
  return generate(model, std::span(&one, 1), vocabulary, options)[0].tokens;
}

TEST(Generate, WithAndWithoutCacheAlike) {
  SumModel model(97);
  const Ints prompt = {3, 1, 4};
  for (double temperature : {0.0, 1.0})
    for (int64_t padTo : {1, 8}) {
      GenerateOptions options{.maxTokens = 40, .temperature = temperature};
      const Ints cached = generateOne(model, prompt, 97, options);
      EXPECT_EQ(cached.size(), 40u);
      EXPECT_EQ(model.capacity, 43);
      EXPECT_FALSE(model.overran);
      RescoringGenerator uncached(model, padTo);
      EXPECT_EQ(generateOne(uncached, prompt, 97, options), cached);
    }
  EXPECT_EQ(generateOne(model, prompt, 97, {.maxTokens = 2}),
            (Ints{8 * 3 % 97, (8 + 24) * 4 % 97}));
}

static const std::vector<Prompt> manyPrompts = {
    {"a", {3, 1, 4}},  {"b", {5}},       {"c", {9, 2, 6, 5, 3, 5, 8}},
    {"d", {9, 7, 93}}, {"e", {2, 3, 8}}, {"f", {4, 6, 2, 6, 4}},
    {"g", {5}}};

TEST(Generate, SeveralTextsAreThoseOfEachAlone) {
  SumModel model(97);
  for (double temperature : {0.0, 1.0}) {
    GenerateOptions options{.maxTokens = 20,
                            .temperature = temperature,
                            .seed = 7,
                            .eos = {24, 50, 60, 61, 62, 63},
                            .context = 25};
    std::vector<Ints> alone;
    std::set<size_t> lengths;
    for (const Prompt &prompt : manyPrompts) {
      alone.push_back(generateOne(model, prompt.tokens, 97, options));
      lengths.insert(alone.back().size());
      ++options.seed;
    }
    EXPECT_GT(lengths.size(), 2u) << "some end early";
    // The same prompt draws another text.
    EXPECT_EQ(alone[1] == alone[6], temperature == 0);
    options.seed = 7;
    RescoringGenerator uncached(model);
    for (Generator *generator : {static_cast<Generator *>(&model),
                                 static_cast<Generator *>(&uncached)})
      for (int64_t batch : {1, 2, 3, 7, 100}) {
        options.batch = batch;
        std::vector<size_t> ended;
        std::vector<Ints> told(manyPrompts.size());
        const auto texts =
            generate(*generator, manyPrompts, 97, options,
                     {.onToken =
                          [&](size_t prompt, int32_t token) {
                            told[prompt].push_back(token);
                            return true;
                          },
                      .onEnd =
                          [&](size_t prompt, const GeneratedText &text) {
                            EXPECT_EQ(text.tokens, alone[prompt]);
                            ended.push_back(prompt);
                          }});
        ASSERT_EQ(texts.size(), alone.size());
        for (size_t i = 0; i < alone.size(); ++i)
          EXPECT_EQ(texts[i].tokens, alone[i]) << i << " in " << batch;
        EXPECT_EQ(told, alone);
        EXPECT_EQ(std::set(ended.begin(), ended.end()).size(), alone.size());
        EXPECT_FALSE(model.overran);
        // As long as the longest may get, whichever grow together.
        EXPECT_EQ(model.capacity, 25);
      }
  }
}

TEST(Generate, WhoEndsMakesRoomForTheNext) {
  SumModel model(97);
  const std::vector<Prompt> prompts = {{"a", {1}}, {"b", {2}}, {"c", {3}}};
  // The first ends at once, and the last does not wait for the second.
  generate(model, prompts, 97, {.maxTokens = 4, .batch = 2},
           {.onToken = [](size_t prompt, int32_t) { return prompt != 0; }});
  EXPECT_EQ(model.steps, 1 + 4);
}

TEST(Generate, EndsWhereItShould) {
  SumModel model(97);
  const Ints prompt = {3, 1, 4};
  EXPECT_EQ(generateOne(model, prompt, 97, {.eos = {24}}), Ints{24});
  // Any of several.
  EXPECT_EQ(generateOne(model, prompt, 97, {.eos = {96, 24}}), Ints{24});
  EXPECT_EQ(generateOne(model, prompt, 97, {.maxTokens = 0}), Ints{});
  EXPECT_EQ(generateOne(model, prompt, 97, {.context = 5}).size(), 2u);

  int calls = 0;
  auto endOf = [&](const GenerateOptions &options) {
    calls = 0;
    const std::vector<Prompt> one = {{"one", prompt}};
    return std::string(nameOf(
        generate(model, one, 97, options,
                 {.onToken = [&](size_t, int32_t) { return ++calls < 3; }})[0]
            .end));
  };
  EXPECT_EQ(endOf({.eos = {24}}), "eos");
  EXPECT_EQ(endOf({.maxTokens = 2}), "max-tokens");
  EXPECT_EQ(endOf({.maxTokens = 2, .context = 5}), "max-tokens");
  EXPECT_EQ(endOf({.maxTokens = 3, .context = 5}), "context");
  EXPECT_EQ(endOf({}), "stopped");
  EXPECT_EQ(calls, 3);
  EXPECT_TRUE(generate(model, {}, 97, {}).empty());
}

TEST(Generate, RefusesBadRequests) {
  SumModel model(97);
  const Ints prompt = {3, 1, 4};
  EXPECT_ERROR(generateOne(model, {}, 97, {}), "at least one token");
  EXPECT_ERROR(generateOne(model, prompt, 4, {}), "but got 4");
  EXPECT_ERROR(generateOne(model, prompt, 97, {.context = 3}),
               "fewer than 3 tokens, the context of the model, but got 3");
  EXPECT_ERROR(generateOne(model, prompt, 97, {.temperature = -1}),
               "temperature");
  EXPECT_ERROR(generateOne(model, prompt, 97, {.topP = 0}), "top-p");
  EXPECT_ERROR(generateOne(model, prompt, 97, {.temperature = NAN}),
               "temperature");
  EXPECT_ERROR(generateOne(model, prompt, 97, {.batch = 0}),
               "but got 64 and 0");
  RescoringGenerator uncached(model);
  uncached.beginSequences(1, 2);
  std::vector<float> logits(97);
  std::vector<Continuation> all = {{0, prompt}};
  EXPECT_ERROR(uncached.extendSequences(all, logits),
               "expected from 1 to 2 further tokens of a sequence, but got 3");
  EXPECT_ERROR(generate(model, manyPrompts, 97, {.context = 7}), "c: expected");
  EXPECT_ERROR(generate(model, manyPrompts, 93, {}), "d: expected");
}

TEST(Generate, SamplesByProbability) {
  // Probabilities 1/2, 1/4, 1/8, 1/8.
  std::vector<float> logits = {std::log(4.0f), std::log(8.0f), std::log(2.0f),
                               std::log(2.0f)};
  std::vector<int> counts(4);
  for (int64_t i = 0; i < 8000; ++i)
    ++counts[size_t(sampleToken(logits, {.temperature = 1}, 5, i))];
  EXPECT_NEAR(counts[1], 4000, 200);
  EXPECT_NEAR(counts[0], 2000, 200);
  EXPECT_NEAR(counts[2], 1000, 150);
  EXPECT_NEAR(counts[3], 1000, 150);

  auto drawn = [&](GenerateOptions options) {
    std::set<int32_t> tokens;
    for (int64_t i = 0; i < 1000; ++i)
      tokens.insert(sampleToken(logits, options, 0, i));
    return tokens;
  };
  using Set = std::set<int32_t>;
  EXPECT_EQ(drawn({.temperature = 1, .topP = 0.4}), Set{1});
  EXPECT_EQ(drawn({.temperature = 1, .topP = 0.7}), (Set{0, 1}));
  EXPECT_EQ(drawn({.temperature = 1, .topP = 0.8}), (Set{0, 1, 2}));
  EXPECT_EQ(drawn({.temperature = 0.01}), Set{1});
  EXPECT_EQ(drawn({.temperature = 0}), Set{1});

  std::vector<float> tie = {1, 2, 2};
  EXPECT_EQ(sampleToken(tie, {}, 0, 0), 1);
  tie[0] = NAN;
  EXPECT_ERROR(sampleToken(tie, {}, 0, 0), "but got nan for token 0");
}
