//===-- Allocation.cpp - how many experts a layer gets
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Transforms/Allocation.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/Sequence.h"
#include "llvm/ADT/SmallVectorExtras.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

using namespace mlir;

SmallVector<int64_t> mlir::moe::allocateByInverse(ArrayRef<double> similarity,
                                                  double delta) {
  double sum = 0;
  for (double s : similarity)
    sum += 1 / s;
  // In the order of the released code, since the ceiling sees every bit. More
  // experts than any layer can have are as good as infinitely many.
  constexpr double most = 1 << 20;
  return llvm::map_to_vector(similarity, [&](double s) {
    return static_cast<int64_t>(
        std::clamp(std::ceil(1 / s / sum * delta), 1.0, most));
  });
}

double mlir::moe::largestDelta(ArrayRef<double> similarity, int64_t budget) {
  auto fits = [&](double delta) {
    int64_t added = 0;
    for (int64_t count : allocateByInverse(similarity, delta))
      added += count - 1;
    return added <= budget;
  };
  // Each N_i, and so the sum, is a monotone function of delta in floating point
  // too. Just above zero every layer has its FFN alone.
  double low = std::numeric_limits<double>::min();
  double high = static_cast<double>(budget) + similarity.size() + 1;
  while (true) {
    double middle = low + (high - low) / 2;
    if (middle <= low || middle >= high)
      return low;
    (fits(middle) ? low : high) = middle;
  }
}

SmallVector<int64_t> mlir::moe::mostSimilarLayers(ArrayRef<double> similarity,
                                                  int64_t count) {
  auto layers = llvm::to_vector(llvm::seq<int64_t>(0, similarity.size()));
  llvm::sort(layers, [&](int64_t a, int64_t b) {
    return std::pair(-similarity[a], a) < std::pair(-similarity[b], b);
  });
  layers.truncate(count);
  llvm::sort(layers);
  return layers;
}
