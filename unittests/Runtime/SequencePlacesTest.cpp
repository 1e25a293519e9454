//===-- SequencePlacesTest.cpp --------------------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/SequencePlaces.h"

#include <gtest/gtest.h>

using namespace polymoe;

namespace {
class Places : public testing::Test {
protected:
  Places() { places.begin(5, 8); }

  /// The number that a place holds: two elements of 4 bytes each.
  int32_t *cacheOf(int64_t place) {
    return static_cast<int32_t *>(places.memoryOf(keys, place));
  }
  void write(int64_t sequence, int32_t number) {
    int32_t *cache = cacheOf(places.placeOf(sequence));
    cache[0] = cache[1] = number;
  }

  // Programs for any rows name the same cache.
  const Binding keys{Binding::Kind::State, "keys", DType::I32, {3, 2}};
  SequencePlaces places;
};
} // namespace

TEST_F(Places, AreTakenInOrder) {
  EXPECT_EQ(places.placeOf(3), 0);
  EXPECT_EQ(places.placeOf(1), 1);
  EXPECT_EQ(places.placeOf(3), 0);
  EXPECT_EQ(cacheOf(1), cacheOf(0) + 2);
  EXPECT_EQ(places.capacity(), 8);
}

TEST_F(Places, TheLastSequenceMovesIntoAFreePlace) {
  for (int32_t sequence : {3, 1, 4})
    write(sequence, 10 + sequence);
  places.length(4) = 6;
  places.clear(3);
  EXPECT_EQ(places.placeOf(4), 0);
  EXPECT_EQ(cacheOf(0)[0], 14);
  EXPECT_EQ(cacheOf(0)[1], 14);
  EXPECT_EQ(places.length(4), 6);
  EXPECT_EQ(places.placeOf(1), 1);
  EXPECT_EQ(cacheOf(1)[0], 11);
  // One without a place has none to give back; the last one needs no move.
  places.clear(0);
  places.clear(1);
  EXPECT_EQ(places.placeOf(2), 1);
  EXPECT_EQ(places.length(3), 0);
}

TEST_F(Places, RowsHalveAsSequencesEnd) {
  std::vector<int64_t> rows;
  for (int64_t sequence = 0; sequence < 5; ++sequence) {
    places.placeOf(sequence);
    rows.push_back(places.rowsOfStep());
  }
  EXPECT_EQ(rows, (std::vector<int64_t>{1, 2, 3, 5, 5}));
}

TEST_F(Places, RowsWriteBehindTheirLastToken) {
  places.placeOf(2);
  places.placeOf(0);
  places.length(2) = 3;
  places.length(0) = 8; // full
  EXPECT_EQ(places.nextSlots(3), (std::vector<int32_t>{3, 7, 0}));
}

TEST_F(Places, BeginningForgetsAllSequences) {
  places.placeOf(2);
  places.length(2) = 3;
  places.begin(2, 4);
  EXPECT_EQ(places.placeOf(1), 0);
  EXPECT_EQ(places.nextSlots(1), std::vector<int32_t>{0});
}
