//===-- SequencePlaces.h - caches of growing texts --------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A text that is being generated has a place in every cache of the model from
// its first token on. The places in use are 0, 1, ... without a gap: when a
// text ends, the last one moves into its place, so that a program for fewer
// rows serves those that are left.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_RUNTIME_SEQUENCEPLACES_H
#define MOE_RUNTIME_SEQUENCEPLACES_H

#include "moe/Runtime/Memory.h"

#include <map>
#include <optional>
#include <string>
#include <vector>

namespace polymoe {

class SequencePlaces {
public:
  /// Forgets all sequences; there are `count` empty ones without a place.
  void begin(int64_t count, int64_t capacity);
  /// Makes a sequence empty, and gives its place back.
  void clear(int64_t sequence);
  /// The place of a sequence; the next free one if it has none.
  int64_t placeOf(int64_t sequence);

  /// Tokens of a sequence, and the most that it can have.
  int64_t &length(int64_t sequence) {
    return sequences[static_cast<size_t>(sequence)].length;
  }
  int64_t capacity() const { return capacity_; }

  /// Rows of the program for a step of all sequences that have a place: of few
  /// sizes, each half of the one before.
  int64_t rowsOfStep() const;
  /// The slot of each row for one more token. A row that takes no part writes
  /// behind its last token, what the next one replaces, or into a place that is
  /// free. Nothing goes on in a full one.
  std::vector<int32_t> nextSlots(int64_t rows) const;

  /// Memory of the cache that `binding`, a state, names, from a place on.
  void *memoryOf(const Binding &binding, int64_t firstPlace);

private:
  struct Sequence {
    std::optional<int64_t> place;
    int64_t length = 0;
  };
  struct Cache {
    Buffer memory;
    int64_t bytesOfPlace = 0;
  };
  std::vector<Sequence> sequences;
  std::vector<int64_t> inPlaces; ///< the sequences in places 0, 1, ...
  std::map<std::string, Cache> caches;
  int64_t capacity_ = 0;
};

} // namespace polymoe

#endif // MOE_RUNTIME_SEQUENCEPLACES_H
