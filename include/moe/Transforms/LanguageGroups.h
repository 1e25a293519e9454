//===-- LanguageGroups.h - groups of languages from measurements -*- C++
//-*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Which languages share an expert, and which layers get experts (DMoE). Pure
// functions of numbers, without a model.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TRANSFORMS_LANGUAGEGROUPS_H
#define MOE_TRANSFORMS_LANGUAGEGROUPS_H

#include <cstdint>
#include <vector>

namespace mlir::moe {

/// How alike the languages i < j are: element [i][j] of a square.
using Similarities = std::vector<std::vector<double>>;
/// Each language, by its index, is in one group. The indices of a group ascend.
using Grouping = std::vector<std::vector<int64_t>>;

/// The sizes of `groups` groups of `languages` languages: the first
/// languages mod groups of them have one language more than the others.
std::vector<int64_t> groupSizes(int64_t languages, int64_t groups);

/// Makes one group after the other: of all sets of its size that are left, the
/// one whose smallest similarity is the largest; of several such sets the first
/// in the lexicographic order of indices. Takes time that grows with the number
/// of sets.
Grouping groupExactly(const Similarities &similarities, int64_t groups);

/// Makes one group after the other: begins with the most similar pair that is
/// left, then adds the language whose smallest similarity to the group is the
/// largest. Of several such pairs or languages the first is taken.
Grouping groupGreedily(const Similarities &similarities, int64_t groups);

/// The most languages that groupLanguages groups exactly.
inline constexpr int64_t maxExactLanguages = 20;

/// The one or the other, by the number of languages.
Grouping groupLanguages(const Similarities &similarities, int64_t groups);

/// The mean over languages of the deviation of each layer, scaled so that the
/// smallest is 0 and the largest 1; if all are equal, all are 1. `deviations`
/// has an element for each layer of each language.
std::vector<double>
normalisedDeviations(const std::vector<std::vector<double>> &deviations);

/// The layers whose deviation is at least `epsilon`, ascending.
std::vector<int64_t> layersFrom(const std::vector<double> &deviations,
                                double epsilon);
/// The `count` layers of largest deviation, ascending. The first of several
/// equal ones is taken.
std::vector<int64_t> topLayers(const std::vector<double> &deviations,
                               int64_t count);

} // namespace mlir::moe

#endif // MOE_TRANSFORMS_LANGUAGEGROUPS_H
