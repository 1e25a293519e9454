//===-- RoutesView.h - routes in memory -------------------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The layout of !moe.routes in memory, which only this header knows; RoutesType
// knows its size. With R = T * K rows it is one buffer of i32:
//
//   [0, R)          the route of each row, by its number token * K + choice
//   [R, 2R)         the row of each route
//   [2R, 2R + E]    where the rows of each expert begin; the last entry is how
//                   many rows are in use
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TARGET_KERNELS_ROUTESVIEW_H
#define MOE_TARGET_KERNELS_ROUTESVIEW_H

#include "moe/Target/KernelBuilder.h"

namespace mlir::moe {

/// The routes that a kernel reads or makes.
class RoutesView {
public:
  static MemRefType typeInMemory(RoutesType type) {
    return MemRefType::get({type.getNumIntegers()},
                           IntegerType::get(type.getContext(), 32));
  }

  /// `outside` is the buffer of the routes in the function that launches the
  /// kernel.
  RoutesView(KernelBuilder &k, Value outside, RoutesType type)
      : k(k), memory(k.buffer(outside)), experts(type.getExperts()),
        topK(type.getTopK()), rows(type.getRows()) {}

  int64_t numRows() const { return rows; }
  int64_t numExperts() const { return experts; }

  /// The number token * K + choice of the route that became `row`.
  Value route(Value row) const { return k.loadIndex(memory, row); }
  Value token(Value row) const {
    return topK == 1 ? route(row) : k.div(route(row), k.idx(topK));
  }
  Value rowOfRoute(Value route) const {
    return k.loadIndex(memory, k.add(route, k.idx(rows)));
  }
  Value row(Value token, int64_t choice) const {
    return rowOfRoute(k.add(k.mul(token, k.idx(topK)), k.idx(choice)));
  }
  /// The rows [begin, end) of an expert.
  std::pair<Value, Value> rowsOf(Value expert) const {
    return {firstRow(expert), firstRow(k.add(expert, k.idx(1)))};
  }
  Value rowsInUse() const { return firstRow(k.idx(experts)); }
  /// The expert of a row: the number of experts whose rows end before it.
  Value expertOf(Value row) const {
    return k.loop(k.idx(1), k.idx(experts), 1, k.idx(0),
                  [&](Value e, Value state) {
                    Value isBefore = k.less(row, firstRow(e));
                    Value one = k.select(isBefore, k.idx(0), k.idx(1));
                    return k.add(state, one);
                  });
  }

  void setRow(Value row, Value route) const {
    set(row, route);
    set(k.add(route, k.idx(rows)), row);
  }
  /// Sets the first row of `expert`, or for E the number of rows in use.
  void setFirstRow(Value expert, Value row) const {
    set(k.add(expert, k.idx(2 * rows)), row);
  }

private:
  Value firstRow(Value expert) const {
    return k.loadIndex(memory, k.add(expert, k.idx(2 * rows)));
  }
  void set(Value position, Value value) const {
    k.storeIndex(value, memory, position);
  }

  KernelBuilder &k;
  Value memory;
  int64_t experts, topK, rows;
};

} // namespace mlir::moe

#endif // MOE_TARGET_KERNELS_ROUTESVIEW_H
