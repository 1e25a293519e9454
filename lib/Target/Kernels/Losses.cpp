//===-- Losses.cpp - losses and their gradients ---------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A loss is made in two launches: a term for every token, and the sum over the
// tokens in a fixed order. The sum is in f64, whose cost is negligible.
//
//===----------------------------------------------------------------------===//

#include "RoutesView.h"
#include "Routing.h"
#include "Rows.h"

using namespace mlir;
using namespace mlir::moe;

using Lane = KernelBuilder::Lane;

/// `dloss * weight`, the factor of all gradients of a loss.
template <typename OpT>
static Value gradientFactor(OpT op, KernelLowering &lowering,
                            KernelBuilder &k) {
  return k.mulf(loadOnly(k, lowering.buffer(op.getDloss())),
                loadOnly(k, lowering.buffer(op.getWeight())));
}

/// Whether a token is of an old language.
static Value isOld(KernelBuilder &k, Value old, Value token) {
  return arith::CmpIOp::create(k, arith::CmpIPredicate::ne,
                               k.loadIndex(old, token), k.idx(0));
}

//===----------------------------------------------------------------------===//
// The next token
//===----------------------------------------------------------------------===//

/// `to[t] = sign * -log p(label of t)`, or 0 without a label.
static void lowerLabelTerms(KernelLowering &lowering, Operation *op,
                            Value logits, Value labels, Value to, double sign) {
  int64_t rows = rowsOf(logits), width = widthOf(logits);
  lowering.launchRows(
      op, "terms", computeTypeOf(logits), rows, width, [&](KernelBuilder &k) {
        Value x = k.buffer(lowering.buffer(logits), {rows, width});
        Value label = k.buffer(lowering.buffer(labels), {rows});
        Value terms = k.buffer(to, {rows});
        k.rowsOfWorkItem([&](Value row) {
          Value target = k.loadIndex(label, row);
          k.ifThen(
              k.less(target, k.idx(0)),
              [&] { k.storeScalar(k.scalar(0.0), terms, row); },
              [&] {
                SoftmaxSums sums(k, x, row, width);
                Value term =
                    sums.minusLogProbability(k, k.loadScalar(x, {row, target}));
                if (sign < 0)
                  term = arith::NegFOp::create(k, term);
                k.storeScalar(term, terms, row);
              });
        });
      });
}

static void lowerCrossEntropy(CrossEntropyOp op, KernelLowering &lowering) {
  Value terms = lowering.temporary({rowsOf(op.getLogits())},
                                   computeTypeOf(op.getLogits()));
  lowerLabelTerms(lowering, op, op.getLogits(), op.getLabels(), terms, 1);
  sumTerms(lowering, op, terms, op.getLoss(), op.getWeight());
}

static void lowerTokenLogprobs(TokenLogprobsOp op, KernelLowering &lowering) {
  lowerLabelTerms(lowering, op, op.getLogits(), op.getLabels(),
                  lowering.result(op.getResult()), -1);
}

static void lowerCrossEntropyGrad(CrossEntropyGradOp op,
                                  KernelLowering &lowering) {
  int64_t rows = rowsOf(op.getLogits()), width = widthOf(op.getLogits());
  lowering.launchRows(
      op, computeTypeOf(op.getLogits()), rows, width, [&](KernelBuilder &k) {
        Value x = k.buffer(lowering.buffer(op.getLogits()), {rows, width});
        Value label = k.buffer(lowering.buffer(op.getLabels()), {rows});
        Value dx = k.buffer(lowering.result(op.getDlogits()), {rows, width});
        Value factor = gradientFactor(op, lowering, k);
        k.rowsOfWorkItem([&](Value row) {
          Value target = k.loadIndex(label, row);
          k.ifThen(
              k.less(target, k.idx(0)), [&] { k.zeroRow(dx, row, width); },
              [&] {
                crossEntropyGradient(k, x, row, width, target, factor, dx);
              });
        });
      });
}

//===----------------------------------------------------------------------===//
// The balance of experts
//===----------------------------------------------------------------------===//

/// `f_e - base` of moe.balance_loss, times K in the reference form. Integers
/// are subtracted, so the difference is exact.
static Value expertShare(KernelBuilder &k, const RoutesView &routes, Value e,
                         LossForm form, int64_t topK, int64_t base) {
  auto [begin, end] = routes.rowsOf(e);
  Value rows = k.mul(k.sub(end, begin), k.idx(routes.numExperts()));
  Value share = k.sub(rows, k.idx(base * routes.numRows()));
  double unit = form == LossForm::Reference ? topK : 1;
  return k.mulf(k.toFloat(share), k.scalar(unit / routes.numRows()));
}

static void lowerBalanceLoss(BalanceLossOp op, KernelLowering &lowering) {
  RoutesType type = op.getRoutes().getType();
  int64_t tokens = rowsOf(op.getLogits()), experts = type.getExperts();
  int64_t perItem = rowsPerWorkItem(tokens, routerWork(experts));
  int64_t workItems = llvm::divideCeilSigned(tokens, perItem);
  Type compute = elementOf(op.getLogits());
  Value partials = lowering.temporary({workItems, experts}, compute);
  lowering.launch(
      op, {.label = "partial", .workItems = workItems, .compute = compute},
      [&](KernelBuilder &k) {
        Value logits = k.matrix(lowering.buffer(op.getLogits()));
        Value sums = k.buffer(partials);
        Value p = k.scratch({experts}, k.compute());
        k.zeroRow(sums, k.workItem(), experts);
        k.rowsOfWorkItem(tokens, perItem, [&](Value token) {
          softmaxInto(k, logits, token, p, experts);
          k.loop(experts, [&](Value e) {
            Value sum = k.loadScalar(sums, {k.workItem(), e});
            k.storeScalar(k.addf(sum, k.loadScalar(p, e)), sums,
                          {k.workItem(), e});
          });
        });
      });
  lowering.launch(
      op,
      {.label = "total",
       .workItems = 1,
       .compute = Float64Type::get(op.getContext())},
      [&](KernelBuilder &k) {
        Value sums = k.buffer(partials);
        RoutesView routes(k, lowering.buffer(op.getRoutes()), type);
        Value total = sumInOrder(k, experts, [&](Value e) {
          Value sum = sumInOrder(k, workItems, [&](Value item) {
            return k.loadScalar(sums, {item, e});
          });
          Value mean = k.divf(sum, k.scalar(tokens));
          return k.mulf(
              expertShare(k, routes, e, op.getForm(), type.getTopK(), 0), mean);
        });
        k.storeScalar(
            k.mulf(loadOnly(k, lowering.buffer(op.getWeight())), total),
            k.buffer(lowering.result(op.getLoss()), {1}), k.idx(0));
      });
}

static void lowerBalanceLossGrad(BalanceLossGradOp op,
                                 KernelLowering &lowering) {
  RoutesType type = op.getRoutes().getType();
  int64_t tokens = rowsOf(op.getLogits()), experts = type.getExperts();
  lowering.launchRows(
      op, elementOf(op.getLogits()), tokens, routerWork(experts),
      [&](KernelBuilder &k) {
        Value logits = k.matrix(lowering.buffer(op.getLogits()));
        RoutesView routes(k, lowering.buffer(op.getRoutes()), type);
        Value dlogits = k.matrix(lowering.result(op.getDlogits()));
        Value factor =
            k.divf(gradientFactor(op, lowering, k), k.scalar(tokens));
        Value p = k.scratch({experts}, k.compute());
        Value dp = k.scratch({experts}, k.compute());
        k.loop(experts, [&](Value e) {
          // A constant in all dp does not change the gradient of a softmax.
          // Subtracting 1 from every f_e makes dp small where experts are
          // balanced, so that nothing cancels.
          Value share =
              expertShare(k, routes, e, op.getForm(), type.getTopK(), 1);
          k.storeScalar(k.mulf(factor, share), dp, e);
        });
        k.rowsOfWorkItem([&](Value token) {
          softmaxInto(k, logits, token, p, experts);
          softmaxGradient(k, p, dp, experts, [&](Value e, Value gradient) {
            k.storeScalar(gradient, dlogits, {token, e});
          });
        });
      });
}

//===----------------------------------------------------------------------===//
// Old languages stay with expert 0
//===----------------------------------------------------------------------===//

static void lowerLanguagePriorLoss(LanguagePriorLossOp op,
                                   KernelLowering &lowering) {
  int64_t tokens = rowsOf(op.getLogits()), experts = widthOf(op.getLogits());
  Type compute = elementOf(op.getLogits());
  Value terms = lowering.temporary({tokens}, compute);
  bool isReference = op.getForm() == LossForm::Reference;
  lowering.launchRows(
      op, "terms", compute, tokens, routerWork(experts), [&](KernelBuilder &k) {
        Value logits = k.matrix(lowering.buffer(op.getLogits()));
        Value old = k.buffer(lowering.buffer(op.getOld()), {tokens});
        Value to = k.buffer(terms);
        Value p = k.scratch({experts}, k.compute());
        Value unused = k.scratch({experts}, k.compute());
        k.rowsOfWorkItem([&](Value token) {
          k.ifThen(
              isOld(k, old, token),
              [&] {
                Value logSum = softmaxInto(k, logits, token, p, experts);
                Value first = k.loadScalar(logits, {token, k.idx(0)});
                if (isReference) {
                  auto probability = [&](Value e) {
                    return k.loadScalar(p, e);
                  };
                  logSum = softmaxInto(k, probability, unused, experts);
                  first = probability(k.idx(0));
                }
                k.storeScalar(k.subf(logSum, first), to, token);
              },
              [&] { k.storeScalar(k.scalar(0.0), to, token); });
        });
      });
  sumTerms(lowering, op, terms, op.getLoss(), op.getWeight());
}

static void lowerLanguagePriorLossGrad(LanguagePriorLossGradOp op,
                                       KernelLowering &lowering) {
  int64_t tokens = rowsOf(op.getLogits()), experts = widthOf(op.getLogits());
  bool isReference = op.getForm() == LossForm::Reference;
  lowering.launchRows(
      op, elementOf(op.getLogits()), tokens, routerWork(experts),
      [&](KernelBuilder &k) {
        Value logits = k.matrix(lowering.buffer(op.getLogits()));
        Value old = k.buffer(lowering.buffer(op.getOld()), {tokens});
        Value dlogits = k.matrix(lowering.result(op.getDlogits()));
        Value factor = gradientFactor(op, lowering, k);
        Value p = k.scratch({experts}, k.compute());
        Value dp = k.scratch({experts}, k.compute());
        auto store = [&](Value token, Value e, Value value) {
          k.storeScalar(k.mulf(factor, value), dlogits, {token, e});
        };
        // Subtracts the one-hot vector of expert 0 from a softmax, in place.
        auto subtractChoice = [&](Value probabilities) {
          Value first = k.loadScalar(probabilities, k.idx(0));
          k.storeScalar(k.subf(first, k.scalar(1.0)), probabilities, k.idx(0));
        };
        k.rowsOfWorkItem([&](Value token) {
          k.ifThen(
              isOld(k, old, token),
              [&] {
                softmaxInto(k, logits, token, p, experts);
                if (isReference) {
                  softmaxInto(
                      k, [&](Value e) { return k.loadScalar(p, e); }, dp,
                      experts);
                  subtractChoice(dp);
                  softmaxGradient(k, p, dp, experts, [&](Value e, Value value) {
                    store(token, e, value);
                  });
                } else {
                  subtractChoice(p);
                  k.loop(experts,
                         [&](Value e) { store(token, e, k.loadScalar(p, e)); });
                }
              },
              [&] { k.zeroRow(dlogits, token, experts); });
        });
      });
}

//===----------------------------------------------------------------------===//
// Language gates
//===----------------------------------------------------------------------===//

/// The class of a token: 0 where its language is old.
static Value classOf(KernelBuilder &k, Value old, Value token) {
  return k.select(isOld(k, old, token), k.idx(0), k.idx(1));
}

static void lowerClassifierLoss(ClassifierLossOp op, KernelLowering &lowering) {
  int64_t tokens = rowsOf(op.getLogits());
  Type compute = elementOf(op.getLogits());
  Value terms = lowering.temporary({tokens}, compute);
  lowering.launchRows(
      op, "terms", compute, tokens, routerWork(2), [&](KernelBuilder &k) {
        Value logits = k.buffer(lowering.buffer(op.getLogits()), {tokens, 2});
        Value old = k.buffer(lowering.buffer(op.getOld()), {tokens});
        Value to = k.buffer(terms);
        Value unused = k.scratch({2}, k.compute());
        k.rowsOfWorkItem([&](Value token) {
          Value logSum = softmaxInto(k, logits, token, unused, 2);
          Value right = k.loadScalar(logits, {token, classOf(k, old, token)});
          k.storeScalar(k.subf(logSum, right), to, token);
        });
      });
  sumTerms(lowering, op, terms, op.getLoss(), op.getWeight());
}

static void lowerClassifierLossGrad(ClassifierLossGradOp op,
                                    KernelLowering &lowering) {
  int64_t tokens = rowsOf(op.getLogits());
  lowering.launchRows(
      op, elementOf(op.getLogits()), tokens, routerWork(2),
      [&](KernelBuilder &k) {
        Value logits = k.buffer(lowering.buffer(op.getLogits()), {tokens, 2});
        Value old = k.buffer(lowering.buffer(op.getOld()), {tokens});
        Value dlogits = k.buffer(lowering.result(op.getDlogits()), {tokens, 2});
        Value factor = gradientFactor(op, lowering, k);
        Value p = k.scratch({2}, k.compute());
        k.rowsOfWorkItem([&](Value token) {
          softmaxInto(k, logits, token, p, 2);
          // With two classes, both gradients are the probability of the wrong
          // one, up to sign. It is precise also where it is small.
          Value right = classOf(k, old, token);
          Value wrong = k.sub(k.idx(1), right);
          Value step = k.mulf(factor, k.loadScalar(p, wrong));
          k.storeScalar(step, dlogits, {token, wrong});
          k.storeScalar(arith::NegFOp::create(k, step), dlogits,
                        {token, right});
        });
      });
}

//===----------------------------------------------------------------------===//
// Sums of losses
//===----------------------------------------------------------------------===//

static void lowerWeightedSum(WeightedSumOp op, KernelLowering &lowering) {
  lowering.launch(
      op, {.workItems = 1, .compute = elementOf(op.getResult())},
      [&](KernelBuilder &k) {
        Value sum;
        for (auto [coefficient, operand] :
             llvm::zip_equal(op.getCoefficients(), op.getTerms())) {
          Value term = k.mulf(k.scalar(coefficient),
                              loadOnly(k, lowering.buffer(operand)));
          sum = sum ? k.addf(sum, term) : term;
        }
        k.storeScalar(sum, k.buffer(lowering.result(op.getResult()), {1}),
                      k.idx(0));
      });
}

void mlir::moe::addLossLowerings(LoweringTable &table) {
  table.add(lowerCrossEntropy, lowerTokenLogprobs, lowerCrossEntropyGrad,
            lowerBalanceLoss, lowerBalanceLossGrad, lowerLanguagePriorLoss,
            lowerLanguagePriorLossGrad, lowerClassifierLoss,
            lowerClassifierLossGrad, lowerWeightedSum);
}
