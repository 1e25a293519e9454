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

TEST(Generate, WithAndWithoutCacheAlike) {
  SumModel model(97);
  const Ints prompt = {3, 1, 4};
  for (double temperature : {0.0, 1.0})
    for (int64_t padTo : {1, 8}) {
      GenerateOptions options{.maxTokens = 40, .temperature = temperature};
      const Ints cached = generate(model, prompt, 97, options);
      EXPECT_EQ(cached.size(), 40u);
      EXPECT_EQ(model.capacity, 43);
      EXPECT_FALSE(model.overran);
      options.cache = false;
      options.padTo = padTo;
      EXPECT_EQ(generate(model, prompt, 97, options), cached);
    }
  EXPECT_EQ(generate(model, prompt, 97, {.maxTokens = 2}),
            (Ints{8 * 3 % 97, (8 + 24) * 4 % 97}));
}

TEST(Generate, EndsWhereItShould) {
  SumModel model(97);
  const Ints prompt = {3, 1, 4};
  EXPECT_EQ(generate(model, prompt, 97, {.eos = {24}}), Ints{24});
  // Any of several.
  EXPECT_EQ(generate(model, prompt, 97, {.eos = {96, 24}}), Ints{24});
  EXPECT_EQ(generate(model, prompt, 97, {.maxTokens = 0}), Ints{});
  EXPECT_EQ(generate(model, prompt, 97, {.capacity = 5}).size(), 2u);
  int calls = 0;
  EXPECT_EQ(
      generate(model, prompt, 97, {}, [&](int32_t) { return ++calls < 3; })
          .size(),
      3u);
}

TEST(Generate, RefusesBadRequests) {
  SumModel model(97);
  const Ints prompt = {3, 1, 4};
  EXPECT_ERROR(generate(model, {}, 97, {}), "at least one token");
  EXPECT_ERROR(generate(model, prompt, 4, {}), "but got 4");
  EXPECT_ERROR(generate(model, prompt, 97, {.capacity = 3}),
               "fewer than 3 tokens, but got 3");
  EXPECT_ERROR(generate(model, prompt, 97, {.temperature = -1}), "temperature");
  EXPECT_ERROR(generate(model, prompt, 97, {.topP = 0}), "top-p");
  EXPECT_ERROR(generate(model, prompt, 97, {.temperature = NAN}),
               "temperature");
}

TEST(Generate, SamplesByProbability) {
  // Probabilities 1/2, 1/4, 1/8, 1/8.
  std::vector<float> logits = {std::log(4.0f), std::log(8.0f), std::log(2.0f),
                               std::log(2.0f)};
  std::vector<int> counts(4);
  for (int64_t i = 0; i < 8000; ++i)
    ++counts[size_t(sampleToken(logits, {.temperature = 1, .seed = 5}, i))];
  EXPECT_NEAR(counts[1], 4000, 200);
  EXPECT_NEAR(counts[0], 2000, 200);
  EXPECT_NEAR(counts[2], 1000, 150);
  EXPECT_NEAR(counts[3], 1000, 150);

  auto drawn = [&](GenerateOptions options) {
    std::set<int32_t> tokens;
    for (int64_t i = 0; i < 1000; ++i)
      tokens.insert(sampleToken(logits, options, i));
    return tokens;
  };
  using Set = std::set<int32_t>;
  EXPECT_EQ(drawn({.temperature = 1, .topP = 0.4}), Set{1});
  EXPECT_EQ(drawn({.temperature = 1, .topP = 0.7}), (Set{0, 1}));
  EXPECT_EQ(drawn({.temperature = 1, .topP = 0.8}), (Set{0, 1, 2}));
  EXPECT_EQ(drawn({.temperature = 0.01}), Set{1});
  EXPECT_EQ(drawn({.temperature = 0}), Set{1});

  std::vector<float> tie = {1, 2, 2};
  EXPECT_EQ(sampleToken(tie, {}, 0), 1);
  tie[0] = NAN;
  EXPECT_ERROR(sampleToken(tie, {}, 0), "but got nan for token 0");
}
