//===-- Norms.cpp - normalised rows and their gradients -------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Rows.h"

#include "mlir/Dialect/Math/IR/Math.h"

using namespace mlir;
using namespace mlir::moe;

using Lane = KernelBuilder::Lane;

//===----------------------------------------------------------------------===//
// Root mean square
//===----------------------------------------------------------------------===//

static void lowerRmsNorm(RmsNormOp op, KernelLowering &lowering) {
  // A group is normalised as a row of its own, as in QK-norm.
  int64_t width = widthOf(op.getWeight());
  int64_t rows = rowsOf(op.getInput()) * widthOf(op.getInput()) / width;
  Type element = elementOf(op.getInput());
  double epsilon = op.getEpsilon().convertToDouble();
  double offset = op.getOffset().convertToDouble();
  lowering.launchRows(
      op, computeTypeOf(op.getInput()), rows, width, [&](KernelBuilder &k) {
        Value x = k.buffer(lowering.buffer(op.getInput()), {rows, width});
        Value w = k.buffer(lowering.buffer(op.getWeight()));
        Value y = k.buffer(lowering.result(op.getResult()), {rows, width});
        k.rowsOfWorkItem([&](Value row) {
          Value scale = k.inverseRms(x, row, width, epsilon);
          k.columns(width, [&](Lane lane) {
            Value normed = k.mulf(k.load(x, row, lane), k.broadcast(scale));
            Value weight = k.load(w, {}, lane);
            if (offset == 0)
              normed = k.roundTo(normed, element);
            else
              weight = k.addf(weight, k.splat(offset));
            k.store(k.mulf(normed, weight), y, row, lane);
          });
        });
      });
}

static void lowerRmsNormGrad(RmsNormGradOp op, KernelLowering &lowering) {
  int64_t width = widthOf(op.getWeight());
  int64_t rows = rowsOf(op.getInput()) * widthOf(op.getInput()) / width;
  double epsilon = op.getEpsilon().convertToDouble();
  double offset = op.getOffset().convertToDouble();
  lowering.launchRows(
      op, computeTypeOf(op.getInput()), rows, width, [&](KernelBuilder &k) {
        Value dy = k.buffer(lowering.buffer(op.getDy()), {rows, width});
        Value x = k.buffer(lowering.buffer(op.getInput()), {rows, width});
        Value w = k.buffer(lowering.buffer(op.getWeight()));
        Value dx = k.buffer(lowering.result(op.getDx()), {rows, width});
        k.rowsOfWorkItem([&](Value row) {
          auto g = [&](Lane lane) {
            Value weight = k.load(w, {}, lane);
            if (offset != 0)
              weight = k.addf(weight, k.splat(offset));
            return k.mulf(k.load(dy, row, lane), weight);
          };
          Value r = k.inverseRms(x, row, width, epsilon);
          Value product = sumColumns(k, width, [&](Lane lane) {
            return k.mulf(g(lane), k.load(x, row, lane));
          });
          Value mean = k.divf(product, k.scalar(width));
          Value slope = k.broadcast(k.mulf(k.mulf(r, r), mean));
          Value factor = k.broadcast(r);
          k.columns(width, [&](Lane lane) {
            Value along = k.mulf(k.load(x, row, lane), slope);
            k.store(k.mulf(factor, k.subf(g(lane), along)), dx, row, lane);
          });
        });
      });
}

static void lowerRmsNormWeightGrad(RmsNormWeightGradOp op,
                                   KernelLowering &lowering) {
  int64_t width = widthOf(op.getDweight());
  int64_t rows = rowsOf(op.getInput()) * widthOf(op.getInput()) / width;
  double epsilon = op.getEpsilon().convertToDouble();
  sumOverRows(
      lowering, op, rows, op.getDweight(), [&](KernelBuilder &k) -> RowTerm {
        Value dy = k.buffer(lowering.buffer(op.getDy()), {rows, width});
        Value x = k.buffer(lowering.buffer(op.getInput()), {rows, width});
        return [&k, dy, x, width, epsilon](Value row) -> LaneTerm {
          Value r = k.broadcast(k.inverseRms(x, row, width, epsilon));
          return [&k, dy, x, row, r](Lane lane) {
            Value normed = k.mulf(k.load(x, row, lane), r);
            return k.mulf(k.load(dy, row, lane), normed);
          };
        };
      });
}

//===----------------------------------------------------------------------===//
// Layer norm
//===----------------------------------------------------------------------===//

namespace {

/// Mean and inverse standard deviation of a row, broadcast.
struct RowStatistics {
  Value mean, inverseDeviation;

  RowStatistics(KernelBuilder &k, Value x, Value row, int64_t width,
                double epsilon) {
    Value total =
        sumColumns(k, width, [&](Lane lane) { return k.load(x, row, lane); });
    mean = k.broadcast(k.divf(total, k.scalar(width)));
    // Two passes, since the difference of two large sums would lose the
    // variance.
    Value squares = sumColumns(k, width, [&](Lane lane) {
      Value centred = k.subf(k.load(x, row, lane), mean);
      return k.mulf(centred, centred);
    });
    Value variance = k.divf(squares, k.scalar(width));
    Value root = math::SqrtOp::create(k, k.addf(variance, k.scalar(epsilon)));
    inverseDeviation = k.broadcast(k.divf(k.scalar(1.0), root));
  }

  Value normalize(KernelBuilder &k, Value x) const {
    return k.mulf(k.subf(x, mean), inverseDeviation);
  }
};

} // namespace

static void lowerLayerNorm(LayerNormOp op, KernelLowering &lowering) {
  int64_t rows = rowsOf(op.getInput()), width = widthOf(op.getInput());
  double epsilon = op.getEpsilon().convertToDouble();
  lowering.launchRows(
      op, computeTypeOf(op.getInput()), rows, width, [&](KernelBuilder &k) {
        Value x = k.buffer(lowering.buffer(op.getInput()), {rows, width});
        Value y = k.buffer(lowering.result(op.getResult()), {rows, width});
        Value w = k.buffer(lowering.buffer(op.getWeight()));
        Value bias = k.buffer(lowering.buffer(op.getBias()));
        k.rowsOfWorkItem([&](Value row) {
          RowStatistics statistics(k, x, row, width, epsilon);
          k.columns(width, [&](Lane lane) {
            Value normed = statistics.normalize(k, k.load(x, row, lane));
            Value weight = k.load(w, {}, lane);
            Value result = bias ? k.fma(normed, weight, k.load(bias, {}, lane))
                                : k.mulf(normed, weight);
            k.store(result, y, row, lane);
          });
        });
      });
}

static void lowerLayerNormGrad(LayerNormGradOp op, KernelLowering &lowering) {
  int64_t rows = rowsOf(op.getInput()), width = widthOf(op.getInput());
  double epsilon = op.getEpsilon().convertToDouble();
  lowering.launchRows(
      op, computeTypeOf(op.getInput()), rows, width, [&](KernelBuilder &k) {
        Value dy = k.buffer(lowering.buffer(op.getDy()), {rows, width});
        Value x = k.buffer(lowering.buffer(op.getInput()), {rows, width});
        Value w = k.buffer(lowering.buffer(op.getWeight()));
        Value dx = k.buffer(lowering.result(op.getDx()), {rows, width});
        k.rowsOfWorkItem([&](Value row) {
          RowStatistics statistics(k, x, row, width, epsilon);
          auto g = [&](Lane lane) {
            return k.mulf(k.load(dy, row, lane), k.load(w, {}, lane));
          };
          auto normed = [&](Lane lane) {
            return statistics.normalize(k, k.load(x, row, lane));
          };
          auto mean = [&](Value sum) {
            return k.broadcast(k.divf(sum, k.scalar(width)));
          };
          Value meanG = mean(sumColumns(k, width, g));
          Value meanProduct = mean(sumColumns(k, width, [&](Lane lane) {
            return k.mulf(g(lane), normed(lane));
          }));
          k.columns(width, [&](Lane lane) {
            Value rest = k.subf(k.subf(g(lane), meanG),
                                k.mulf(normed(lane), meanProduct));
            k.store(k.mulf(statistics.inverseDeviation, rest), dx, row, lane);
          });
        });
      });
}

static void lowerLayerNormWeightGrad(LayerNormWeightGradOp op,
                                     KernelLowering &lowering) {
  int64_t rows = rowsOf(op.getInput()), width = widthOf(op.getInput());
  double epsilon = op.getEpsilon().convertToDouble();
  sumOverRows(
      lowering, op, rows, op.getDweight(), [&](KernelBuilder &k) -> RowTerm {
        Value dy = k.buffer(lowering.buffer(op.getDy()), {rows, width});
        Value x = k.buffer(lowering.buffer(op.getInput()), {rows, width});
        return [&k, dy, x, width, epsilon](Value row) -> LaneTerm {
          RowStatistics statistics(k, x, row, width, epsilon);
          return [&k, dy, x, row, statistics](Lane lane) {
            return k.mulf(k.load(dy, row, lane),
                          statistics.normalize(k, k.load(x, row, lane)));
          };
        };
      });
}

void mlir::moe::addNormLowerings(LoweringTable &table) {
  table.add(lowerRmsNorm, lowerRmsNormGrad, lowerRmsNormWeightGrad,
            lowerLayerNorm, lowerLayerNormGrad, lowerLayerNormWeightGrad);
}
