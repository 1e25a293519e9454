//===-- Rows.cpp - work on rows: embedding, rotary, caches, sums ----------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Rows.h"

#include "Elementwise.h"

#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"

using namespace mlir;
using namespace mlir::moe;

using Lane = KernelBuilder::Lane;

//===----------------------------------------------------------------------===//
// Shared with other families
//===----------------------------------------------------------------------===//

Value mlir::moe::maskedTo(KernelBuilder &k, Value value, Lane lane,
                          double fill) {
  if (!lane.mask)
    return value;
  return k.select(lane.mask, value, k.splat(fill));
}

Value mlir::moe::sumColumns(KernelBuilder &k, int64_t width,
                            function_ref<Value(Lane)> term) {
  return k.sum(k.columns(width, k.splat(0.0), [&](Lane lane, Value acc) {
    return k.addf(acc, maskedTo(k, term(lane), lane, 0));
  }));
}

SoftmaxSums::SoftmaxSums(KernelBuilder &k, Value x, Value row, int64_t width) {
  constexpr double lowest = -std::numeric_limits<double>::infinity();
  maximum =
      k.maximum(k.columns(width, k.splat(lowest), [&](Lane lane, Value acc) {
        Value v = maskedTo(k, k.load(x, row, lane), lane, lowest);
        return k.maxf(acc, v);
      }));
  Value shift = k.broadcast(maximum);
  sum = sumColumns(k, width, [&](Lane lane) {
    return math::ExpOp::create(k, k.subf(k.load(x, row, lane), shift));
  });
}

Value SoftmaxSums::probability(KernelBuilder &k, Value x) const {
  bool isVector = isa<VectorType>(x.getType());
  Value shift = isVector ? k.broadcast(maximum) : maximum;
  Value total = isVector ? k.broadcast(sum) : sum;
  return k.divf(math::ExpOp::create(k, k.subf(x, shift)), total);
}

Value SoftmaxSums::minusLogProbability(KernelBuilder &k, Value value) const {
  return k.subf(math::LogOp::create(k, sum), k.subf(value, maximum));
}

Value mlir::moe::crossEntropyGradient(KernelBuilder &k, Value x, Value row,
                                      int64_t width, Value target, Value factor,
                                      Value dx,
                                      function_ref<Value(Value)> slope) {
  SoftmaxSums sums(k, x, row, width);
  Value atTarget = k.loadScalar(x, {row, target});
  auto times = [&](Value gradient, Value logit) {
    return slope ? k.mulf(gradient, slope(logit)) : gradient;
  };
  k.columns(width, [&](Lane lane) {
    Value logit = k.load(x, row, lane);
    Value p = sums.probability(k, logit);
    k.store(times(k.mulf(k.broadcast(factor), p), logit), dx, row, lane);
  });
  Value p = sums.probability(k, atTarget);
  Value gradient = k.mulf(factor, k.subf(p, k.scalar(1.0)));
  k.storeScalar(times(gradient, atTarget), dx, {row, target});
  return sums.minusLogProbability(k, atTarget);
}

Value mlir::moe::loadOnly(KernelBuilder &k, Value outside) {
  return k.loadScalar(k.buffer(outside, {1}), k.idx(0));
}

void mlir::moe::sumTerms(KernelLowering &lowering, Operation *op, Value terms,
                         Value loss, Value weight) {
  int64_t count = cast<MemRefType>(terms.getType()).getNumElements();
  lowering.launch(op,
                  {.label = "total",
                   .workItems = 1,
                   .compute = Float64Type::get(op->getContext())},
                  [&](KernelBuilder &k) {
                    Value from = k.buffer(terms);
                    Value sum = sumColumns(k, count, [&](Lane lane) {
                      return k.load(from, {}, lane);
                    });
                    if (weight)
                      sum = k.mulf(loadOnly(k, lowering.buffer(weight)), sum);
                    k.storeScalar(sum, k.buffer(lowering.result(loss), {1}),
                                  k.idx(0));
                  });
}

/// `result[c] = sum over parts p, in order, of partials[p, c]`.
static void sumPartials(KernelLowering &lowering, Operation *op, Value partials,
                        Value result) {
  auto type = cast<MemRefType>(partials.getType());
  int64_t parts = type.getDimSize(0), width = type.getDimSize(1);
  constexpr int64_t columnsPerItem = 256;
  lowering.launch(
      op,
      {.label = "total",
       .workItems = llvm::divideCeilSigned(width, columnsPerItem),
       .compute = type.getElementType()},
      [&](KernelBuilder &k) {
        Value from = k.buffer(partials);
        Value to = k.buffer(result, {width});
        Value first = k.mul(k.workItem(), k.idx(columnsPerItem));
        Value last = k.min(k.add(first, k.idx(columnsPerItem)), k.idx(width));
        k.loop(first, last, k.lanes(), [&](Value column) {
          Lane lane{column, Value()};
          if (width % k.lanes() != 0)
            lane.mask = k.mask(k.sub(k.idx(width), column));
          Value sum = k.loop(k.idx(0), k.idx(parts), 1, k.splat(0.0),
                             [&](Value part, Value acc) {
                               return k.addf(acc, k.load(from, part, lane));
                             });
          k.store(sum, to, {}, lane);
        });
      });
}

void mlir::moe::sumOverRows(KernelLowering &lowering, Operation *op,
                            int64_t rows, Value result,
                            function_ref<RowTerm(KernelBuilder &)> term) {
  auto type = cast<RankedTensorType>(result.getType());
  int64_t width = type.getNumElements();
  int64_t perItem = rowsPerWorkItem(rows, width);
  int64_t workItems = llvm::divideCeilSigned(rows, perItem);
  Value partials =
      lowering.temporary({workItems, width}, type.getElementType());
  lowering.launch(op,
                  {.label = "partial",
                   .workItems = workItems,
                   .compute = type.getElementType()},
                  [&](KernelBuilder &k) {
                    Value to = k.buffer(partials);
                    RowTerm rowTerm = term(k);
                    k.zeroRow(to, k.workItem(), width);
                    k.rowsOfWorkItem(rows, perItem, [&](Value row) {
                      LaneTerm laneTerm = rowTerm(row);
                      k.columns(width, [&](Lane lane) {
                        Value sum = k.load(to, k.workItem(), lane);
                        k.store(k.addf(sum, laneTerm(lane)), to, k.workItem(),
                                lane);
                      });
                    });
                  });
  sumPartials(lowering, op, partials, lowering.result(result));
}

//===----------------------------------------------------------------------===//
// Embedding
//===----------------------------------------------------------------------===//

static void lowerEmbedding(EmbeddingOp op, KernelLowering &lowering) {
  int64_t rows = rowsOf(op.getResult()), width = widthOf(op.getResult());
  double scale = op.getScale().convertToDouble();
  Type element = elementOf(op.getTable());
  lowering.launchRows(
      op, computeTypeOf(op.getTable()), rows, width, [&](KernelBuilder &k) {
        Value tokens = k.buffer(lowering.buffer(op.getTokens()), {rows});
        Value table = k.buffer(lowering.buffer(op.getTable()));
        Value y = k.buffer(lowering.result(op.getResult()), {rows, width});
        Value factor = k.roundTo(k.splat(scale), element);
        k.rowsOfWorkItem([&](Value row) {
          Value token = k.loadIndex(tokens, row);
          k.columns(width, [&](Lane lane) {
            Value v = k.load(table, token, lane);
            k.store(scale == 1 ? v : k.mulf(v, factor), y, row, lane);
          });
        });
      });
}

static void lowerEmbeddingGrad(EmbeddingGradOp op, KernelLowering &lowering) {
  int64_t rows = rowsOf(op.getDy()), width = widthOf(op.getDy());
  int64_t vocabulary = rowsOf(op.getDtable());
  double scale = op.getScale().convertToDouble();
  Type element = elementOf(op.getDy());
  // A work item owns a range of the vocabulary and searches all tokens for it,
  // which costs little beside zeroing the range.
  constexpr int64_t wantedItems = 64;
  int64_t perItem = llvm::divideCeilSigned(vocabulary, wantedItems);
  lowering.launch(
      op,
      {.workItems = llvm::divideCeilSigned(vocabulary, perItem),
       .compute = elementOf(op.getDtable())},
      [&](KernelBuilder &k) {
        Value tokens = k.buffer(lowering.buffer(op.getTokens()), {rows});
        Value dy = k.buffer(lowering.buffer(op.getDy()), {rows, width});
        Value dtable = k.buffer(lowering.result(op.getDtable()));
        Value factor = k.roundTo(k.splat(scale), element);
        k.rowsOfWorkItem(vocabulary, perItem,
                         [&](Value token) { k.zeroRow(dtable, token, width); });
        Value first = k.mul(k.workItem(), k.idx(perItem));
        Value last = k.add(first, k.idx(perItem));
        k.loop(rows, [&](Value row) {
          Value token = k.loadIndex(tokens, row);
          Value isMine = arith::AndIOp::create(
              k, k.less(token, last),
              arith::CmpIOp::create(k, arith::CmpIPredicate::sge, token,
                                    first));
          k.ifThen(isMine, [&] {
            k.columns(width, [&](Lane lane) {
              Value sum = k.load(dtable, token, lane);
              Value term = k.load(dy, row, lane);
              sum = scale == 1 ? k.addf(sum, term) : k.fma(term, factor, sum);
              k.store(sum, dtable, token, lane);
            });
          });
        });
      });
}

//===----------------------------------------------------------------------===//
// Rotary embedding
//===----------------------------------------------------------------------===//

static void lowerRotaryTable(RotaryTableOp op, KernelLowering &lowering) {
  ArrayRef<float> frequencies = op.getFrequencies();
  int64_t rows = rowsOf(op.getCos()), width = frequencies.size();
  // An element takes two calls of libm.
  double scale = op.getScale().convertToDouble();
  Type f32 = Float32Type::get(op.getContext());
  Type f64 = Float64Type::get(op.getContext());
  lowering.launchRows(op, f64, rows, 16 * width, [&](KernelBuilder &k) {
    Value positions = k.buffer(lowering.buffer(op.getPositions()), {rows});
    Value cosines = k.buffer(lowering.result(op.getCos()), {rows, width});
    Value sines = k.buffer(lowering.result(op.getSin()), {rows, width});
    // The frequencies are in a scratch buffer so that a loop reads them:
    // unrolled code would grow with their number.
    Value table = k.scratch({width}, f32);
    for (auto [i, frequency] : llvm::enumerate(frequencies))
      k.storeScalar(k.scalar(frequency), table, k.idx(i));
    k.rowsOfWorkItem([&](Value row) {
      // The angle is an f32 product, as in transformers; its cosine is
      // computed in f64.
      Value position = k.roundTo(k.toFloat(k.loadIndex(positions, row)), f32);
      k.loop(width, [&](Value i) {
        Value angle = k.roundTo(k.mulf(position, k.loadScalar(table, i)), f32);
        Value cosine = math::CosOp::create(k, angle);
        Value sine = math::SinOp::create(k, angle);
        k.storeScalar(k.mulf(cosine, k.scalar(scale)), cosines, {row, i});
        k.storeScalar(k.mulf(sine, k.scalar(scale)), sines, {row, i});
      });
    });
  });
}

/// `lane` from column `first + offset` on.
static Lane shifted(KernelBuilder &k, Lane lane, Value first,
                    int64_t offset = 0) {
  return {k.add(k.add(first, lane.column), k.idx(offset)), lane.mask};
}

/// The two vectors that hold the pairs of `lane`, one of the `half` pairs'
/// vectors, in a head whose elements begin at column `head`.
static std::pair<Lane, Lane> twoVectors(KernelBuilder &k, Value head, Lane lane,
                                        int64_t half) {
  Value first = k.add(head, k.add(lane.column, lane.column));
  Lane low{first, Value()}, high{k.add(first, k.idx(k.lanes())), Value()};
  if (lane.mask) {
    Value pairs = k.sub(k.idx(half), lane.column);
    Value left = k.add(pairs, pairs);
    low.mask = k.mask(left);
    high.mask = k.mask(k.sub(left, k.idx(k.lanes())));
  }
  return {low, high};
}

/// The even and the odd elements of two vectors that follow each other.
static std::pair<Value, Value> unzipped(KernelBuilder &k, Value low,
                                        Value high) {
  SmallVector<int64_t> even, odd;
  for (int64_t i = 0; i < k.lanes(); ++i) {
    even.push_back(2 * i);
    odd.push_back(2 * i + 1);
  }
  return {vector::ShuffleOp::create(k, low, high, even),
          vector::ShuffleOp::create(k, low, high, odd)};
}

/// The reverse of `unzipped`.
static std::pair<Value, Value> zipped(KernelBuilder &k, Value even, Value odd) {
  SmallVector<int64_t> order;
  for (int64_t i = 0; i < k.lanes(); ++i)
    order.append({i, k.lanes() + i});
  ArrayRef<int64_t> both = order;
  return {vector::ShuffleOp::create(k, even, odd, both.take_front(k.lanes())),
          vector::ShuffleOp::create(k, even, odd, both.drop_front(k.lanes()))};
}

static void lowerRotary(RotaryOp op, KernelLowering &lowering) {
  int64_t rows = rowsOf(op.getInput()), width = widthOf(op.getInput());
  int64_t half = widthOf(op.getCos());
  int64_t headWidth = op.headWidth(), turning = op.rotatedWidth();
  Type element = elementOf(op.getInput());
  bool inverse = op.getInverse(), interleaved = op.getInterleaved();
  lowering.launchRows(
      op, computeTypeOf(op.getInput()), rows, width, [&](KernelBuilder &k) {
        Value x = k.buffer(lowering.buffer(op.getInput()), {rows, width});
        Value y = k.buffer(lowering.result(op.getResult()), {rows, width});
        Value cosines = k.buffer(lowering.buffer(op.getCos()), {rows, half});
        Value sines = k.buffer(lowering.buffer(op.getSin()), {rows, half});
        k.rowsOfWorkItem([&](Value row) {
          k.loop(k.idx(0), k.idx(width), headWidth, [&](Value head) {
            k.columns(half, [&](Lane lane) {
              auto [first, second] =
                  interleaved ? twoVectors(k, head, lane, half)
                              : std::pair(shifted(k, lane, head),
                                          shifted(k, lane, head, half));
              Value c = k.roundTo(k.load(cosines, row, lane), element);
              Value s = k.roundTo(k.load(sines, row, lane), element);
              if (inverse)
                s = arith::NegFOp::create(k, s);
              Value x1 = k.load(x, row, first), x2 = k.load(x, row, second);
              if (interleaved)
                std::tie(x1, x2) = unzipped(k, x1, x2);
              Value y1 = k.subf(k.mulf(x1, c), k.mulf(x2, s));
              Value y2 = k.addf(k.mulf(x2, c), k.mulf(x1, s));
              if (interleaved)
                std::tie(y1, y2) = zipped(k, y1, y2);
              k.store(y1, y, row, first);
              k.store(y2, y, row, second);
            });
            if (turning == headWidth)
              return;
            k.columns(headWidth - turning, [&](Lane lane) {
              Lane passed = shifted(k, lane, head, turning);
              k.store(k.load(x, row, passed), y, row, passed);
            });
          });
        });
      });
}

//===----------------------------------------------------------------------===//
// Caches
//===----------------------------------------------------------------------===//

static void lowerCacheUpdate(CacheUpdateOp op, KernelLowering &lowering) {
  auto cacheType = cast<RankedTensorType>(op.getCache().getType());
  int64_t batch = cacheType.getDimSize(0), capacity = cacheType.getDimSize(1);
  int64_t rows = rowsOf(op.getRows()), width = widthOf(op.getRows());
  lowering.bind(op.getResult(), lowering.buffer(op.getCache()));
  lowering.launchRows(
      op, computeTypeOf(op.getRows()), rows, width, [&](KernelBuilder &k) {
        Value cache =
            k.buffer(lowering.buffer(op.getCache()), {batch * capacity, width});
        Value from = k.buffer(lowering.buffer(op.getRows()), {rows, width});
        Value slots = k.buffer(lowering.buffer(op.getSlots()), {rows});
        k.rowsOfWorkItem([&](Value row) {
          Value sequence = k.div(row, k.idx(rows / batch));
          Value to =
              k.add(k.mul(sequence, k.idx(capacity)), k.loadIndex(slots, row));
          k.columns(width, [&](Lane lane) {
            k.store(k.load(from, row, lane), cache, to, lane);
          });
        });
      });
}

static void lowerLastToken(LastTokenOp op, KernelLowering &lowering) {
  auto type = cast<RankedTensorType>(op.getInput().getType());
  int64_t batch = type.getDimSize(0), length = type.getDimSize(1);
  int64_t width = type.getDimSize(2);
  lowering.launch(
      op, {.workItems = batch, .compute = computeTypeOf(op.getInput())},
      [&](KernelBuilder &k) {
        Value x =
            k.buffer(lowering.buffer(op.getInput()), {batch * length, width});
        Value y = k.buffer(lowering.result(op.getResult()), {batch, width});
        Value last =
            k.add(k.mul(k.workItem(), k.idx(length)), k.idx(length - 1));
        k.columns(width, [&](Lane lane) {
          k.store(k.load(x, last, lane), y, k.workItem(), lane);
        });
      });
}

//===----------------------------------------------------------------------===//
// Some rows of matrices
//===----------------------------------------------------------------------===//

/// Copies `rows` rows, from row `first` of `from` to row `into` of `to`.
static void copyRows(Operation *op, KernelLowering &lowering, Value from,
                     int64_t first, Value to, int64_t into, int64_t rows) {
  int64_t width = cast<MemRefType>(to.getType()).getDimSize(1);
  Type element = elementOf(to);
  Type compute = element.isF64() ? element : Float32Type::get(op->getContext());
  lowering.launchRows(op, compute, rows, width, [&](KernelBuilder &k) {
    Value x = k.buffer(from), y = k.buffer(to);
    k.rowsOfWorkItem([&](Value row) {
      Value source = k.add(row, k.idx(first)), target = k.add(row, k.idx(into));
      k.columns(width, [&](Lane lane) {
        k.store(k.load(x, source, lane), y, target, lane);
      });
    });
  });
}

static void lowerConcatRows(ConcatRowsOp op, KernelLowering &lowering) {
  Value result = lowering.result(op.getResult());
  int64_t into = 0;
  for (Value input : op.getInputs()) {
    copyRows(op, lowering, lowering.buffer(input), 0, result, into,
             rowsOf(input));
    into += rowsOf(input);
  }
}

static void lowerTakeRows(TakeRowsOp op, KernelLowering &lowering) {
  copyRows(op, lowering, lowering.buffer(op.getDy()), op.getFirst(),
           lowering.result(op.getResult()), 0, rowsOf(op.getResult()));
}

//===----------------------------------------------------------------------===//
// Sums
//===----------------------------------------------------------------------===//

static void lowerAdd(AddOp op, KernelLowering &lowering) {
  launchAdd(lowering, op, /*label=*/{}, lowering.buffer(op.getLhs()),
            lowering.buffer(op.getRhs()), lowering.result(op.getResult()));
}

static void lowerColumnSum(ColumnSumOp op, KernelLowering &lowering) {
  int64_t rows = rowsOf(op.getDy()), width = widthOf(op.getDy());
  sumOverRows(
      lowering, op, rows, op.getResult(), [&](KernelBuilder &k) -> RowTerm {
        Value dy = k.buffer(lowering.buffer(op.getDy()), {rows, width});
        return [&k, dy](Value row) -> LaneTerm {
          return [&k, dy, row](Lane lane) { return k.load(dy, row, lane); };
        };
      });
}

void mlir::moe::addRowLowerings(LoweringTable &table) {
  table.add(lowerEmbedding, lowerEmbeddingGrad, lowerRotaryTable, lowerRotary,
            lowerCacheUpdate, lowerLastToken, lowerConcatRows, lowerTakeRows,
            lowerAdd, lowerColumnSum);
  addNormLowerings(table);
  addElementwiseLowerings(table);
}
