//===-- Routing.cpp - routes and what is summed over them -----------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// There are few experts, often an odd number, so loops over the experts of a
// token are scalar code.
//
//===----------------------------------------------------------------------===//

#include "Routing.h"
#include "RoutesView.h"
#include "Rows.h"

#include "mlir/Dialect/Math/IR/Math.h"

#include <cmath>

using namespace mlir;
using namespace mlir::moe;

using Lane = KernelBuilder::Lane;

//===----------------------------------------------------------------------===//
// Shared with the losses of routers
//===----------------------------------------------------------------------===//

Value mlir::moe::sumInOrder(KernelBuilder &k, int64_t count,
                            function_ref<Value(Value)> term) {
  return k.loop(k.idx(0), k.idx(count), 1, k.scalar(0.0),
                [&](Value e, Value acc) { return k.addf(acc, term(e)); });
}

Value mlir::moe::softmaxInto(KernelBuilder &k, function_ref<Value(Value)> x,
                             Value probabilities, int64_t experts) {
  Value maximum = k.loop(k.idx(1), k.idx(experts), 1, x(k.idx(0)),
                         [&](Value e, Value acc) { return k.maxf(acc, x(e)); });
  Value sum = sumInOrder(k, experts, [&](Value e) {
    Value power = math::ExpOp::create(k, k.subf(x(e), maximum));
    k.storeScalar(power, probabilities, e);
    return power;
  });
  k.loop(experts, [&](Value e) {
    k.storeScalar(k.divf(k.loadScalar(probabilities, e), sum), probabilities,
                  e);
  });
  return k.addf(math::LogOp::create(k, sum), maximum);
}

Value mlir::moe::softmaxInto(KernelBuilder &k, Value logits, Value row,
                             Value probabilities, int64_t experts) {
  auto logit = [&](Value e) { return k.loadScalar(logits, {row, e}); };
  return softmaxInto(k, logit, probabilities, experts);
}

void mlir::moe::softmaxGradient(KernelBuilder &k, Value probabilities,
                                Value gradient, int64_t experts,
                                function_ref<void(Value, Value)> store) {
  Value mean = sumInOrder(k, experts, [&](Value e) {
    return k.mulf(k.loadScalar(gradient, e), k.loadScalar(probabilities, e));
  });
  k.loop(experts, [&](Value e) {
    Value centred = k.subf(k.loadScalar(gradient, e), mean);
    store(e, k.mulf(k.loadScalar(probabilities, e), centred));
  });
}

//===----------------------------------------------------------------------===//
// Route
//===----------------------------------------------------------------------===//

/// Whether a language gate classifies a token as one of an old language.
static Value isGatedOld(KernelBuilder &k, Value gate, Value token) {
  return arith::CmpFOp::create(k, arith::CmpFPredicate::OGE,
                               k.loadScalar(gate, {token, k.idx(0)}),
                               k.loadScalar(gate, {token, k.idx(1)}));
}

/// Writes the expert and the score of every choice of every token. The expert
/// of a missing route is E.
static void lowerChoice(RouteOp op, Value chosen, KernelLowering &lowering) {
  RoutesType routes = op.getRoutes().getType();
  int64_t experts = routes.getExperts(), topK = routes.getTopK();
  int64_t rows = rowsOf(op.getLogits());
  bool renormalize = op.getRenormalize() && topK > 1;
  std::optional<uint64_t> forced = op.getForcedExpert();
  lowering.launchRows(
      op, "choose", elementOf(op.getLogits()), rows, routerWork(experts),
      [&](KernelBuilder &k) {
        Value logits = k.matrix(lowering.buffer(op.getLogits()));
        Value scores = k.buffer(lowering.result(op.getScores()), {rows, topK});
        Value expertOfChoice = k.buffer(chosen);
        Value gate = k.buffer(lowering.buffer(op.getGate()), {rows, 2});
        Value groups = k.buffer(lowering.buffer(op.getGroups()), {rows});
        auto choose = [&](Value row, int64_t choice, Value expert) {
          k.storeIndex(expert, expertOfChoice, {row, k.idx(choice)});
        };
        Value p = k.scratch({experts}, k.compute());
        auto only = [&](Value row, int64_t expert) {
          for (int64_t choice = 0; choice < topK; ++choice) {
            choose(row, choice, k.idx(choice ? experts : expert));
            k.storeScalar(k.scalar(choice ? 0.0 : 1.0), scores,
                          {row, k.idx(choice)});
          }
        };
        auto byGroup = [&](Value row) {
          Value group = k.loadIndex(groups, row);
          // A negative number is a very large one, too.
          Value isExpert = arith::CmpIOp::create(k, arith::CmpIPredicate::ult,
                                                 group, k.idx(experts));
          choose(row, 0, k.select(isExpert, group, k.idx(0)));
          k.storeScalar(k.select(isExpert, k.scalar(1.0), k.scalar(NAN)),
                        scores, {row, k.idx(0)});
        };
        auto follow = [&](Value row) {
          Value logSum = softmaxInto(k, logits, row, p, experts);
          Value isNan = arith::CmpFOp::create(k, arith::CmpFPredicate::UNO,
                                              logSum, logSum);
          SmallVector<Value> selected;
          for (int64_t choice = 0; choice < topK; ++choice) {
            // Only a larger probability replaces the best, so the lower index
            // wins ties. Experts that were selected before have -1.
            SmallVector<Value> best =
                k.loop(k.idx(0), k.idx(experts), 1, {k.scalar(-1.0), k.idx(0)},
                       [&](Value e, ValueRange state) {
                         Value candidate = k.loadScalar(p, e);
                         Value larger = arith::CmpFOp::create(
                             k, arith::CmpFPredicate::OGT, candidate, state[0]);
                         return SmallVector<Value>{
                             k.select(larger, candidate, state[0]),
                             k.select(larger, e, state[1])};
                       });
            k.storeScalar(k.scalar(-1.0), p, best[1]);
            choose(row, choice, best[1]);
            // No comparison finds a NaN, which the scores must not hide.
            selected.push_back(k.select(isNan, logSum, best[0]));
          }
          Value total = selected[0];
          for (int64_t choice = 1; choice < topK; ++choice)
            total = k.addf(total, selected[choice]);
          for (int64_t choice = 0; choice < topK; ++choice)
            k.storeScalar(renormalize ? k.divf(selected[choice], total)
                                      : selected[choice],
                          scores, {row, k.idx(choice)});
        };
        k.rowsOfWorkItem([&](Value row) {
          if (forced)
            only(row, *forced);
          else if (groups)
            byGroup(row);
          else if (gate)
            k.ifThen(
                isGatedOld(k, gate, row), [&] { only(row, 0); },
                [&] { follow(row); });
          else
            follow(row);
        });
      });
}

/// Groups routes by expert with a counting sort, which keeps the order of
/// tokens within an expert. Missing routes come last, as those of an expert E,
/// and their rows are not in use.
static void lowerGrouping(RouteOp op, Value chosen, KernelLowering &lowering) {
  RoutesType type = op.getRoutes().getType();
  int64_t experts = type.getExperts();
  int64_t rows = rowsOf(op.getLogits()) * type.getTopK();
  lowering.launch(
      op,
      {.label = "group", .workItems = 1, .compute = elementOf(op.getLogits())},
      [&](KernelBuilder &k) {
        Value expertOfRoute = k.buffer(chosen, {rows});
        RoutesView routes(k, lowering.result(op.getRoutes()), type);
        Value next = k.scratch({experts + 1}, k.getI32Type());
        k.loop(experts + 1, [&](Value e) { k.storeIndex(k.idx(0), next, e); });
        k.loop(rows, [&](Value route) {
          Value expert = k.loadIndex(expertOfRoute, route);
          Value count = k.loadIndex(next, expert);
          k.storeIndex(k.add(count, k.idx(1)), next, expert);
        });
        k.loop(k.idx(0), k.idx(experts + 1), 1, k.idx(0),
               [&](Value e, Value state) {
                 Value count = k.loadIndex(next, e);
                 k.storeIndex(state, next, e);
                 routes.setFirstRow(e, state);
                 return k.add(state, count);
               });
        k.loop(rows, [&](Value route) {
          Value expert = k.loadIndex(expertOfRoute, route);
          Value row = k.loadIndex(next, expert);
          k.storeIndex(k.add(row, k.idx(1)), next, expert);
          routes.setRow(row, route);
        });
      });
}

static void lowerRoute(RouteOp op, KernelLowering &lowering) {
  Value chosen = lowering.temporary(
      {rowsOf(op.getLogits()), op.getRoutes().getType().getTopK()},
      IntegerType::get(op.getContext(), 32));
  lowerChoice(op, chosen, lowering);
  lowerGrouping(op, chosen, lowering);
}

static void lowerRouteGrad(RouteGradOp op, KernelLowering &lowering) {
  RoutesType type = op.getRoutes().getType();
  int64_t experts = type.getExperts(), topK = type.getTopK();
  int64_t tokens = rowsOf(op.getLogits());
  bool renormalize = op.getRenormalize() && topK > 1;
  lowering.launchRows(
      op, elementOf(op.getLogits()), tokens, routerWork(experts),
      [&](KernelBuilder &k) {
        Value dscores = k.matrix(lowering.buffer(op.getDscores()));
        Value logits = k.matrix(lowering.buffer(op.getLogits()));
        RoutesView routes(k, lowering.buffer(op.getRoutes()), type);
        Value dlogits = k.matrix(lowering.result(op.getDlogits()));
        Value gate = k.buffer(lowering.buffer(op.getGate()), {tokens, 2});
        Value p = k.scratch({experts}, k.compute());
        Value dp = k.scratch({experts}, k.compute());
        auto follow = [&](Value token) {
          softmaxInto(k, logits, token, p, experts);
          k.zeroRow(dp, {}, experts);
          SmallVector<Value> selected, ds, q;
          for (int64_t choice = 0; choice < topK; ++choice) {
            selected.push_back(routes.expertOf(routes.row(token, choice)));
            ds.push_back(k.loadScalar(dscores, {token, k.idx(choice)}));
            q.push_back(k.loadScalar(p, selected.back()));
          }
          Value total = q[0], product = k.mulf(ds[0], q[0]);
          for (int64_t choice = 1; choice < topK; ++choice) {
            total = k.addf(total, q[choice]);
            product = k.fma(ds[choice], q[choice], product);
          }
          Value mean = k.divf(product, total);
          for (int64_t choice = 0; choice < topK; ++choice)
            k.storeScalar(renormalize ? k.divf(k.subf(ds[choice], mean), total)
                                      : ds[choice],
                          dp, selected[choice]);
          softmaxGradient(k, p, dp, experts, [&](Value e, Value gradient) {
            k.storeScalar(gradient, dlogits, {token, e});
          });
        };
        k.rowsOfWorkItem([&](Value token) {
          if (!gate)
            return follow(token);
          k.ifThen(
              isGatedOld(k, gate, token),
              [&] { k.zeroRow(dlogits, token, experts); },
              [&] { follow(token); });
        });
      });
}

//===----------------------------------------------------------------------===//
// Pools of language gates
//===----------------------------------------------------------------------===//

// A row of a batch is a work item: a running sum of a few numbers per token.

static void lowerPool(PoolOp op, KernelLowering &lowering) {
  auto type = cast<RankedTensorType>(op.getInput().getType());
  int64_t batch = type.getDimSize(0), capacity = type.getDimSize(1);
  int64_t width = type.getDimSize(2);
  int64_t length = rowsOf(op.getResult()) / batch;
  bool looksAhead = op.getKind() == PoolKind::SequenceSum;
  lowering.launch(
      op, {.workItems = batch, .compute = elementOf(op.getInput())},
      [&](KernelBuilder &k) {
        Value x = k.buffer(lowering.buffer(op.getInput()));
        Value y = k.buffer(lowering.result(op.getResult()));
        Value slots = k.buffer(lowering.buffer(op.getSlots()));
        for (int64_t n = 0; n < width; ++n) {
          auto add = [&](Value sum, Value j) {
            return k.addf(sum, k.loadScalar(x, {k.workItem(), j, k.idx(n)}));
          };
          auto sumBefore = [&](Value end) {
            return k.loop(k.idx(0), end, 1, k.scalar(0.0),
                          [&](Value j, Value sum) { return add(sum, j); });
          };
          auto storeMean = [&](Value sum, Value s, Value slot) {
            Value count = k.toFloat(k.add(slot, k.idx(1)));
            k.storeScalar(k.divf(sum, count), y, {k.workItem(), s, k.idx(n)});
          };
          if (slots) {
            k.loop(length, [&](Value s) {
              Value slot = k.loadIndex(slots, {k.workItem(), s});
              storeMean(sumBefore(k.add(slot, k.idx(1))), s, slot);
            });
          } else if (looksAhead) {
            Value sum = sumBefore(k.idx(capacity));
            k.loop(length, [&](Value s) {
              k.storeScalar(sum, y, {k.workItem(), s, k.idx(n)});
            });
          } else {
            k.loop(k.idx(0), k.idx(length), 1, k.scalar(0.0),
                   [&](Value s, Value state) {
                     Value sum = add(state, s);
                     storeMean(sum, s, s);
                     return sum;
                   });
          }
        }
      });
}

static void lowerPoolGrad(PoolGradOp op, KernelLowering &lowering) {
  auto type = cast<RankedTensorType>(op.getDy().getType());
  int64_t batch = type.getDimSize(0), length = type.getDimSize(1);
  int64_t width = type.getDimSize(2);
  bool looksAhead = op.getKind() == PoolKind::SequenceSum;
  lowering.launch(op, {.workItems = batch, .compute = elementOf(op.getDy())},
                  [&](KernelBuilder &k) {
                    Value dy = k.buffer(lowering.buffer(op.getDy()));
                    Value dx = k.buffer(lowering.result(op.getDx()));
                    for (int64_t n = 0; n < width; ++n) {
                      auto load = [&](Value s) {
                        return k.loadScalar(dy, {k.workItem(), s, k.idx(n)});
                      };
                      auto store = [&](Value value, Value s) {
                        k.storeScalar(value, dx, {k.workItem(), s, k.idx(n)});
                      };
                      if (looksAhead) {
                        Value sum = sumInOrder(k, length, load);
                        k.loop(length, [&](Value s) { store(sum, s); });
                      } else {
                        k.loop(k.idx(0), k.idx(length), 1, k.scalar(0.0),
                               [&](Value i, Value state) {
                                 Value s = k.sub(k.idx(length - 1), i);
                                 Value count = k.toFloat(k.add(s, k.idx(1)));
                                 Value sum =
                                     k.addf(state, k.divf(load(s), count));
                                 store(sum, s);
                                 return sum;
                               });
                      }
                    }
                  });
}

//===----------------------------------------------------------------------===//
// Combine
//===----------------------------------------------------------------------===//

static void lowerCombine(CombineOp op, KernelLowering &lowering) {
  RoutesType type = op.getRoutes().getType();
  int64_t topK = type.getTopK();
  int64_t tokens = rowsOf(op.getResult()), width = widthOf(op.getResult());
  lowering.launchRows(
      op, computeTypeOf(op.getResult()), tokens, width * topK,
      [&](KernelBuilder &k) {
        Value from = k.buffer(lowering.buffer(op.getRows()));
        RoutesView routes(k, lowering.buffer(op.getRoutes()), type);
        Value y = k.buffer(lowering.result(op.getResult()), {tokens, width});
        Value scores = k.matrix(lowering.buffer(op.getScores()));
        Value inUse = routes.rowsInUse();
        auto combine = [&](Value token, int64_t choices) {
          SmallVector<Value> sources, factors;
          for (int64_t choice = 0; choice < choices; ++choice) {
            sources.push_back(routes.row(token, choice));
            if (scores)
              factors.push_back(
                  k.broadcast(k.loadScalar(scores, {token, k.idx(choice)})));
          }
          k.columns(width, [&](Lane lane) {
            Value sum;
            for (int64_t choice = 0; choice < choices; ++choice) {
              Value row = k.load(from, sources[choice], lane);
              if (choice == 0)
                sum = scores ? k.mulf(factors[choice], row) : row;
              else
                sum = scores ? k.fma(factors[choice], row, sum)
                             : k.addf(sum, row);
            }
            k.store(sum, y, token, lane);
          });
        };
        k.rowsOfWorkItem([&](Value token) {
          if (topK == 1)
            return combine(token, 1);
          // A token has rows for all of its choices, or for the first alone.
          k.ifThen(
              k.less(routes.row(token, 1), inUse),
              [&] { combine(token, topK); }, [&] { combine(token, 1); });
        });
      });
}

void mlir::moe::addRoutingLowerings(LoweringTable &table) {
  table.add(lowerRoute, lowerRouteGrad, lowerPool, lowerPoolGrad, lowerCombine);
}
