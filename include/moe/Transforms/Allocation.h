//===-- Allocation.h - how many experts a layer gets ------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// LayerMoE (arXiv 2505.22582, section 3.2): where languages look alike, they
// can share an FFN, so a layer gets experts in inverse proportion to the
// similarity of its hidden states.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TRANSFORMS_ALLOCATION_H
#define MOE_TRANSFORMS_ALLOCATION_H

#include "mlir/Support/LLVM.h"
#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/SmallVector.h"

#include <cstdint>

namespace mlir::moe {

/// `N_i = ceil((1/S_i) / sum_j (1/S_j) * delta)`, the experts of each layer,
/// its FFN included. All S_i and delta are finite and positive.
SmallVector<int64_t> allocateByInverse(ArrayRef<double> similarity,
                                       double delta);

/// The largest `delta`, as a double, at which allocateByInverse gives no more
/// than `budget` new experts in all: the sum of all `N_i - 1`. `budget` is not
/// negative, and layers of equal similarity change together, so fewer may be
/// what the formula reaches.
double largestDelta(ArrayRef<double> similarity, int64_t budget);

/// The numbers of the `count` layers of the highest similarity, in ascending
/// order; of layers that are equally similar the lower one is taken.
SmallVector<int64_t> mostSimilarLayers(ArrayRef<double> similarity,
                                       int64_t count);

} // namespace mlir::moe

#endif // MOE_TRANSFORMS_ALLOCATION_H
