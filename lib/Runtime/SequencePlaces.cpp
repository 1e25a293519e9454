//===-- SequencePlaces.cpp - caches of growing texts ----------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/SequencePlaces.h"

#include <algorithm>
#include <cstring>

using namespace polymoe;

void SequencePlaces::begin(int64_t count, int64_t capacity) {
  sequences.assign(size_t(count), {});
  inPlaces.clear();
  capacity_ = capacity;
}

void SequencePlaces::clear(int64_t sequence) {
  const std::optional<int64_t> place =
      std::exchange(sequences[size_t(sequence)], {}).place;
  if (!place)
    return;
  const auto last = int64_t(inPlaces.size()) - 1;
  if (*place != last) {
    for (auto &[name, cache] : caches) {
      auto *memory = cache.memory.as<std::byte>();
      std::memcpy(memory + *place * cache.bytesOfPlace,
                  memory + last * cache.bytesOfPlace,
                  size_t(cache.bytesOfPlace));
    }
    inPlaces[size_t(*place)] = inPlaces.back();
    sequences[size_t(inPlaces.back())].place = place;
  }
  inPlaces.pop_back();
}

int64_t SequencePlaces::placeOf(int64_t sequence) {
  std::optional<int64_t> &place = sequences[size_t(sequence)].place;
  if (!place) {
    place = int64_t(inPlaces.size());
    inPlaces.push_back(sequence);
  }
  return *place;
}

int64_t SequencePlaces::rowsOfStep() const {
  const auto used = int64_t(inPlaces.size());
  auto rows = int64_t(sequences.size());
  while (rows > 1 && (rows + 1) / 2 >= used)
    rows = (rows + 1) / 2;
  return rows;
}

std::vector<int32_t> SequencePlaces::nextSlots(int64_t rows) const {
  std::vector<int32_t> slots(size_t(rows), 0);
  for (size_t place = 0; place < inPlaces.size(); ++place)
    slots[place] = int32_t(
        std::min(sequences[size_t(inPlaces[place])].length, capacity_ - 1));
  return slots;
}

void *SequencePlaces::memoryOf(const Binding &binding, int64_t firstPlace) {
  Cache &cache = caches[binding.name];
  cache.bytesOfPlace = binding.bytes() / binding.shape[0];
  const int64_t bytes = cache.bytesOfPlace * int64_t(sequences.size());
  if (cache.memory.size() != bytes)
    cache.memory = Buffer(bytes, binding.name);
  return cache.memory.as<std::byte>() + firstPlace * cache.bytesOfPlace;
}
