//===-- LanguageGroups.cpp - groups of languages from measurements
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Transforms/LanguageGroups.h"

#include <algorithm>
#include <cassert>
#include <limits>
#include <numeric>

using namespace mlir::moe;

using Indices = std::vector<int64_t>;

static constexpr double infinity = std::numeric_limits<double>::infinity();

static double between(const Similarities &similarities, int64_t a, int64_t b) {
  return similarities[std::min(a, b)][std::max(a, b)];
}

/// The smallest similarity of `language` to a language of `group`.
static double toGroup(const Similarities &similarities, const Indices &group,
                      int64_t language) {
  double smallest = infinity;
  for (int64_t other : group)
    smallest = std::min(smallest, between(similarities, language, other));
  return smallest;
}

std::vector<int64_t> mlir::moe::groupSizes(int64_t languages, int64_t groups) {
  assert(1 <= groups && groups <= languages && "no group is empty");
  Indices sizes(groups, languages / groups);
  for (int64_t i = 0; i < languages % groups; ++i)
    ++sizes[i];
  return sizes;
}

namespace {

/// Finds the set of `size` languages whose smallest similarity is the largest,
/// in lexicographic order, so that the first of several such sets is found.
class SetSearch {
public:
  SetSearch(const Similarities &similarities, const Indices &left, size_t size)
      : similarities(similarities), left(left), size(size) {}

  Indices run() {
    extend(0, infinity);
    return best;
  }

private:
  /// Tries all sets that begin with `chosen`, whose smallest similarity is
  /// `smallest`.
  void extend(size_t next, double smallest) {
    // More languages do not make it larger.
    if (!best.empty() && smallest <= bestSmallest)
      return;
    if (chosen.size() == size) {
      best = chosen;
      bestSmallest = smallest;
      return;
    }
    const size_t missing = size - chosen.size();
    for (size_t i = next; i + missing <= left.size(); ++i) {
      double with = std::min(smallest, toGroup(similarities, chosen, left[i]));
      chosen.push_back(left[i]);
      extend(i + 1, with);
      chosen.pop_back();
    }
  }

  const Similarities &similarities;
  const Indices &left;
  size_t size;
  Indices chosen, best;
  double bestSmallest = -infinity;
};

} // namespace

/// All languages, in their order.
static Indices allOf(const Similarities &similarities) {
  Indices all(similarities.size());
  std::iota(all.begin(), all.end(), 0);
  return all;
}

static void removeFrom(Indices &left, const Indices &group) {
  std::erase_if(left, [&](int64_t language) {
    return std::find(group.begin(), group.end(), language) != group.end();
  });
}

Grouping mlir::moe::groupExactly(const Similarities &similarities,
                                 int64_t groups) {
  Indices left = allOf(similarities);
  Grouping grouping;
  for (int64_t size : groupSizes(left.size(), groups)) {
    grouping.push_back(SetSearch(similarities, left, size).run());
    removeFrom(left, grouping.back());
  }
  return grouping;
}

Grouping mlir::moe::groupGreedily(const Similarities &similarities,
                                  int64_t groups) {
  Indices left = allOf(similarities);
  Grouping grouping;
  for (int64_t size : groupSizes(left.size(), groups)) {
    Indices group =
        SetSearch(similarities, left, std::min<int64_t>(size, 2)).run();
    removeFrom(left, group);
    while (static_cast<int64_t>(group.size()) < size) {
      // The first of the largest.
      auto added =
          std::max_element(left.begin(), left.end(), [&](int64_t a, int64_t b) {
            return toGroup(similarities, group, a) <
                   toGroup(similarities, group, b);
          });
      group.push_back(*added);
      left.erase(added);
    }
    std::sort(group.begin(), group.end());
    grouping.push_back(std::move(group));
  }
  return grouping;
}

Grouping mlir::moe::groupLanguages(const Similarities &similarities,
                                   int64_t groups) {
  return static_cast<int64_t>(similarities.size()) <= maxExactLanguages
             ? groupExactly(similarities, groups)
             : groupGreedily(similarities, groups);
}

std::vector<double> mlir::moe::normalisedDeviations(
    const std::vector<std::vector<double>> &deviations) {
  std::vector<double> means(deviations.front().size());
  for (const std::vector<double> &ofLanguage : deviations)
    for (size_t layer = 0; layer < means.size(); ++layer)
      means[layer] +=
          ofLanguage[layer] / static_cast<double>(deviations.size());
  auto [least, most] = std::minmax_element(means.begin(), means.end());
  const double low = *least, span = *most - *least;
  for (double &mean : means)
    mean = span > 0 ? (mean - low) / span : 1;
  return means;
}

std::vector<int64_t>
mlir::moe::layersFrom(const std::vector<double> &deviations, double epsilon) {
  Indices layers;
  for (size_t layer = 0; layer < deviations.size(); ++layer)
    if (deviations[layer] >= epsilon)
      layers.push_back(static_cast<int64_t>(layer));
  return layers;
}

std::vector<int64_t> mlir::moe::topLayers(const std::vector<double> &deviations,
                                          int64_t count) {
  Indices layers(deviations.size());
  std::iota(layers.begin(), layers.end(), 0);
  std::sort(layers.begin(), layers.end(), [&](int64_t a, int64_t b) {
    return deviations[a] != deviations[b] ? deviations[a] > deviations[b]
                                          : a < b;
  });
  layers.resize(std::min<size_t>(layers.size(), count));
  std::sort(layers.begin(), layers.end());
  return layers;
}
