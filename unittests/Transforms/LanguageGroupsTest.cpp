//===-- LanguageGroupsTest.cpp - groups against a search of all sets ------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Transforms/LanguageGroups.h"

#include <algorithm>
#include <gtest/gtest.h>
#include <limits>
#include <set>

using namespace mlir::moe;

namespace {

using Set = std::vector<int64_t>;

/// SplitMix64, as a generator for std::shuffle.
class Random {
public:
  using result_type = uint64_t;
  explicit Random(uint64_t seed) : state(seed) {}
  static constexpr uint64_t min() { return 0; }
  static constexpr uint64_t max() {
    return std::numeric_limits<uint64_t>::max();
  }
  uint64_t operator()() {
    uint64_t x = state += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
  }

private:
  uint64_t state;
};

/// Of few different numbers, so that there are many ties.
Similarities randomSimilarities(int64_t count, Random &random) {
  Similarities similarities(count, std::vector<double>(count, 1));
  for (int64_t i = 0; i < count; ++i)
    for (int64_t j = 0; j < i; ++j)
      similarities[i][j] = similarities[j][i] =
          static_cast<double>(random() % 9) / 4 - 1;
  return similarities;
}

double smallestIn(const Similarities &similarities, const Set &set) {
  double smallest = std::numeric_limits<double>::infinity();
  for (int64_t a : set)
    for (int64_t b : set)
      if (a != b)
        smallest = std::min(smallest, similarities[a][b]);
  return smallest;
}

/// All sets of `size` of `from`, in lexicographic order.
std::vector<Set> allSets(const Set &from, int64_t size) {
  if (size == 0)
    return {{}};
  std::vector<Set> sets;
  for (size_t first = 0; first < from.size(); ++first)
    for (Set rest :
         allSets(Set(from.begin() + first + 1, from.end()), size - 1)) {
      rest.insert(rest.begin(), from[first]);
      sets.push_back(rest);
    }
  return sets;
}

Set without(Set from, const Set &group) {
  for (int64_t language : group)
    from.erase(std::find(from.begin(), from.end(), language));
  return from;
}

/// The first set whose smallest similarity is the largest.
Set bestSet(const Similarities &similarities, const Set &left, int64_t size) {
  Set best;
  for (const Set &set : allSets(left, size))
    if (best.empty() ||
        smallestIn(similarities, set) > smallestIn(similarities, best))
      best = set;
  return best;
}

Set allOf(int64_t count) {
  Set all;
  for (int64_t i = 0; i < count; ++i)
    all.push_back(i);
  return all;
}

Grouping referenceExact(const Similarities &similarities, int64_t groups) {
  Set left = allOf(similarities.size());
  Grouping grouping;
  while (!left.empty()) {
    auto missing = groups - static_cast<int64_t>(grouping.size());
    // The larger groups come first: the mean of what is left, rounded up.
    int64_t size = (static_cast<int64_t>(left.size()) + missing - 1) / missing;
    grouping.push_back(bestSet(similarities, left, size));
    left = without(left, grouping.back());
  }
  return grouping;
}

Grouping referenceGreedy(const Similarities &similarities, int64_t groups) {
  Set left = allOf(similarities.size());
  Grouping grouping;
  while (!left.empty()) {
    auto missing = groups - static_cast<int64_t>(grouping.size());
    int64_t size = (static_cast<int64_t>(left.size()) + missing - 1) / missing;
    Set group = size == 1 ? Set{left.front()} : bestSet(similarities, left, 2);
    while (static_cast<int64_t>(group.size()) < size) {
      int64_t best = -1;
      double bestValue = 0;
      for (int64_t language : without(left, group)) {
        double value = std::numeric_limits<double>::infinity();
        for (int64_t other : group)
          value = std::min(value, similarities[language][other]);
        if (best < 0 || value > bestValue)
          best = language, bestValue = value;
      }
      group.push_back(best);
    }
    std::sort(group.begin(), group.end());
    left = without(left, group);
    grouping.push_back(group);
  }
  return grouping;
}

TEST(LanguageGroups, EqualASearchOfAllSets) {
  Random random(7);
  for (int i = 0; i < 200; ++i) {
    const auto count = static_cast<int64_t>(1 + random() % 10);
    const auto groups = static_cast<int64_t>(1 + random() % count);
    SCOPED_TRACE(std::to_string(count) + " in " + std::to_string(groups));
    Similarities similarities = randomSimilarities(count, random);
    EXPECT_EQ(groupExactly(similarities, groups),
              referenceExact(similarities, groups));
    EXPECT_EQ(groupGreedily(similarities, groups),
              referenceGreedy(similarities, groups));
    EXPECT_EQ(groupLanguages(similarities, groups),
              referenceExact(similarities, groups));
  }
}

TEST(LanguageGroups, ReadAboveTheDiagonalOnly) {
  Random random(3);
  Similarities similarities = randomSimilarities(9, random),
               upper = similarities;
  for (int64_t i = 0; i < 9; ++i)
    for (int64_t j = 0; j <= i; ++j)
      upper[i][j] = -5;
  EXPECT_EQ(groupExactly(upper, 3), groupExactly(similarities, 3));
  EXPECT_EQ(groupGreedily(upper, 3), groupGreedily(similarities, 3));
}

TEST(LanguageGroups, EqualOnesAreTakenInOrder) {
  Similarities equal(7, std::vector<double>(7, 0.5));
  EXPECT_EQ(groupExactly(equal, 3), (Grouping{{0, 1, 2}, {3, 4}, {5, 6}}));
  EXPECT_EQ(groupGreedily(equal, 3), (Grouping{{0, 1, 2}, {3, 4}, {5, 6}}));
  EXPECT_EQ(groupExactly(equal, 7).back(), Set{6});
  EXPECT_EQ(groupExactly(equal, 1), Grouping{allOf(7)});
}

TEST(LanguageGroups, SizesDifferByAtMostOne) {
  EXPECT_EQ(groupSizes(18, 6), Set(6, 3));
  EXPECT_EQ(groupSizes(20, 6), (Set{4, 4, 3, 3, 3, 3}));
  EXPECT_EQ(groupSizes(5, 5), Set(5, 1));
}

// A pair that is alike beyond all others does not pull a third language in:
// what counts in a group is its worst pair.
TEST(LanguageGroups, TheWorstPairDecides) {
  Similarities s(6, std::vector<double>(6, 0));
  auto set = [&](int64_t a, int64_t b, double value) {
    s[a][b] = s[b][a] = value;
  };
  set(0, 1, 1);
  set(0, 2, 0.1);
  set(1, 2, 0.1);
  for (int64_t a : {3, 4, 5})
    for (int64_t b : {3, 4, 5})
      if (a != b)
        set(a, b, 0.3);
  EXPECT_EQ(groupExactly(s, 2), (Grouping{{3, 4, 5}, {0, 1, 2}}));
  EXPECT_EQ(groupGreedily(s, 2), (Grouping{{0, 1, 2}, {3, 4, 5}}));
}

TEST(LanguageGroups, FamiliesOf128LanguagesAreFound) {
  constexpr int64_t count = 128, groups = 16;
  Random random(5);
  Set family;
  for (int64_t i = 0; i < count; ++i)
    family.push_back(i % groups);
  std::shuffle(family.begin(), family.end(), random);
  Similarities similarities(count, std::vector<double>(count));
  for (int64_t i = 0; i < count; ++i)
    for (int64_t j = 0; j < i; ++j)
      similarities[i][j] = similarities[j][i] =
          (family[i] == family[j] ? 0.8 : 0.2) +
          static_cast<double>(random() % 100) / 1000;
  std::set<int64_t> seen;
  for (const Set &group : groupLanguages(similarities, groups)) {
    EXPECT_EQ(group.size(), 8u);
    for (int64_t language : group) {
      EXPECT_EQ(family[language], family[group.front()]);
      EXPECT_TRUE(seen.insert(language).second);
    }
  }
  EXPECT_EQ(seen.size(), 128u);
}

// The largest square that is searched wholly.
TEST(LanguageGroups, TwentyLanguagesAreGroupedExactly) {
  Random random(9);
  Similarities similarities = randomSimilarities(maxExactLanguages, random);
  EXPECT_EQ(groupLanguages(similarities, 10), groupExactly(similarities, 10));
  Grouping halves = groupLanguages(similarities, 2);
  EXPECT_EQ(halves[0].size() + halves[1].size(), 20u);
}

TEST(LayerDeviations, AreMeansScaledOverTheLayers) {
  // Means 2, 4, 3 and 6.
  std::vector<double> deviations =
      normalisedDeviations({{1, 4, 2, 6}, {3, 4, 4, 6}});
  ASSERT_EQ(deviations.size(), 4u);
  const double expected[] = {0, 0.5, 0.25, 1};
  for (size_t i = 0; i < 4; ++i)
    EXPECT_DOUBLE_EQ(deviations[i], expected[i]);
  EXPECT_EQ(layersFrom(deviations, 0.5), (Set{1, 3}));
  EXPECT_EQ(layersFrom(deviations, 0.500001), Set{3});
  EXPECT_EQ(layersFrom(deviations, 0), allOf(4));
  EXPECT_EQ(normalisedDeviations({{2, 2}}), (std::vector<double>{1, 1}));
}

TEST(LayerDeviations, TopLayersAscend) {
  EXPECT_EQ(topLayers({0.1, 0.9, 0.5, 0.9, 0.5}, 3), (Set{1, 2, 3}));
  EXPECT_EQ(topLayers({0.1, 0.9}, 5), (Set{0, 1}));
  EXPECT_EQ(topLayers({0.5, 0.5, 0.5}, 2), (Set{0, 1}));
}

} // namespace
