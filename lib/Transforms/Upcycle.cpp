//===-- Upcycle.cpp - turns FFNs into mixtures of copies
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "EntryPoint.h"

#include "moe/Transforms/Passes.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/IRMapping.h"

#include <map>
#include <set>

namespace mlir::moe {
#define GEN_PASS_DEF_UPCYCLE
#include "moe/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

/// One layer: a call of a layer function, and the FFN in that function.
struct Layer {
  func::CallOp call;
  func::FuncOp function;
  FfnOp ffn;
  /// The arguments of the function that are the FFN's weights, and the type of
  /// its input; the FFN itself goes when the first of its layers is expanded.
  SmallVector<unsigned> weightArguments;
  RankedTensorType input;
  int64_t experts = 1;
};

struct Upcycle : moe::impl::UpcycleBase<Upcycle> {
  using UpcycleBase::UpcycleBase;

  void runOnOperation() override {
    if (failed(run(getOperation())))
      signalPassFailure();
  }

  LogicalResult run(ModuleOp module);
  FailureOr<SmallVector<Layer>> findLayers(func::FuncOp forward,
                                           SymbolTable &symbols);
  LogicalResult chooseCounts(ModuleOp module, MutableArrayRef<Layer> layers);
  func::FuncOp expandFunction(Layer &layer, bool clone, SymbolTable &symbols);
  FailureOr<SmallVector<Value>> makeParameters(Layer &layer,
                                               SymbolTable &symbols);
};

/// The one FFN of a function, null if there is none.
FailureOr<FfnOp> findFfn(func::FuncOp function) {
  SmallVector<FfnOp> found(function.getOps<FfnOp>());
  if (found.empty())
    return FfnOp();
  if (found.size() > 1) {
    InFlightDiagnostic diag = function.emitOpError()
                              << "expected one moe.ffn in a layer, but got "
                              << found.size();
    diag.attachNote(found[1].getLoc()) << "another one is here";
    return diag;
  }
  if (found[0].getPreactivation())
    return found[0].emitOpError()
           << "expected no pre-activation before differentiation";
  for (Value weight : found[0].getWeights())
    if (!isa<BlockArgument>(weight))
      return found[0].emitOpError()
             << "expected the weights to be arguments of the layer";
  return found[0];
}

/// The layers in the order in which tokens pass them.
FailureOr<SmallVector<Layer>> Upcycle::findLayers(func::FuncOp forward,
                                                  SymbolTable &symbols) {
  SmallVector<Layer> layers;
  for (Operation &op : forward.getBody().front()) {
    if (isa<FfnOp>(op))
      return op.emitOpError()
             << "expected to be in a function of its own layer, but it is in "
                "@forward";
    auto call = dyn_cast<func::CallOp>(op);
    if (!call)
      continue;
    auto function = symbols.lookup<func::FuncOp>(call.getCallee());
    if (function.isExternal())
      continue;
    FailureOr<FfnOp> ffn = findFfn(function);
    if (failed(ffn))
      return failure();
    if (!*ffn)
      continue;
    Layer &layer = layers.emplace_back();
    layer.call = call;
    layer.function = function;
    layer.ffn = *ffn;
    layer.input = cast<RankedTensorType>(ffn->getInput().getType());
    for (Value weight : ffn->getWeights())
      layer.weightArguments.push_back(
          cast<BlockArgument>(weight).getArgNumber());
  }
  if (layers.empty())
    return forward.emitOpError() << "expected calls of layers with a moe.ffn, "
                                    "but there is none";
  return layers;
}

LogicalResult Upcycle::chooseCounts(ModuleOp module,
                                    MutableArrayRef<Layer> layers) {
  if (topK < 1)
    return module.emitError()
           << "expected top-k of at least 1, but got " << topK.getValue();
  if (!counts.empty() && counts.size() != layers.size())
    return module.emitError()
           << "expected a count for each of " << layers.size()
           << " layers, but got " << counts.size();
  for (auto [i, layer] : llvm::enumerate(layers)) {
    layer.experts = counts.empty() ? experts : counts[i];
    if (layer.experts < 1)
      return module.emitError() << "expected at least 1 expert in layer " << i
                                << ", but got " << layer.experts;
  }
  return success();
}

/// Replaces the FFN of a layer function by a mixture, whose router and further
/// experts are new arguments; in a clone if other layers keep the original.
func::FuncOp Upcycle::expandFunction(Layer &layer, bool clone,
                                     SymbolTable &symbols) {
  func::FuncOp function = layer.function;
  FfnOp ffn = layer.ffn;
  if (clone) {
    IRMapping mapping;
    function = cast<func::FuncOp>(layer.function->clone(mapping));
    function.setSymName(
        (layer.function.getSymName() + ".experts" + Twine(layer.experts))
            .str());
    symbols.insert(function, std::next(Block::iterator(layer.function)));
    ffn = cast<FfnOp>(mapping.lookup(layer.ffn.getOperation()));
  }

  Location loc = ffn.getLoc();
  auto input = cast<RankedTensorType>(ffn.getInput().getType());
  auto precise = [&](int64_t width) {
    SmallVector<int64_t> shape(input.getShape());
    shape.back() = width;
    return RankedTensorType::get(shape, preciseType(input.getElementType()));
  };
  int64_t k = std::min<int64_t>(topK, layer.experts);
  Value router = addArgument(
      function, RankedTensorType::get({layer.experts, input.getDimSize(2)},
                                      input.getElementType()));
  SmallVector<Value> weights(ffn.getWeights());
  for (int64_t e = 1; e < layer.experts; ++e)
    for (Value original : ffn.getWeights())
      weights.push_back(addArgument(function, original.getType()));

  OpBuilder builder(ffn);
  Value logits = RouterOp::create(builder, loc, precise(layer.experts),
                                  ffn.getInput(), router);
  auto route = RouteOp::create(builder, loc, logits, /*gate=*/Value(), k);
  auto mixture =
      ExpertsOp::create(builder, loc, input, /*preactivation=*/Type(),
                        ffn.getInput(), route.getScores(), route.getRoutes(),
                        weights, ffn.getFormAttr(), ffn.getActivationAttr());
  ffn.getResult().replaceAllUsesWith(mixture.getResult());
  ffn.erase();
  return function;
}

/// The parameters of a layer's FFN, which the call hands over.
FailureOr<SmallVector<ParameterOp>> ffnParameters(Layer &layer,
                                                  SymbolTable &symbols) {
  SmallVector<ParameterOp> parameters;
  for (unsigned index : layer.weightArguments) {
    auto get = layer.call.getOperands()[index].getDefiningOp<GetParameterOp>();
    if (!get)
      return layer.call.emitOpError()
             << "expected operand " << index
             << ", a weight of an FFN, to be a moe.get_parameter";
    parameters.push_back(symbols.lookup<ParameterOp>(get.getName()));
  }
  return parameters;
}

/// What the names of an FFN's parameters have in common, up to a dot: `P.` of
/// `P.gate_proj.weight`, `P.up_proj.weight`, ...
StringRef commonPrefix(ArrayRef<ParameterOp> parameters) {
  StringRef prefix = ParameterOp(parameters.front()).getSymName();
  for (ParameterOp parameter : parameters) {
    StringRef name = parameter.getSymName();
    size_t same = 0;
    while (same < prefix.size() && same < name.size() &&
           prefix[same] == name[same])
      ++same;
    prefix = prefix.take_front(same);
  }
  // No dot: npos + 1 is 0, and nothing is in common.
  return prefix.take_front(prefix.rfind('.') + 1);
}

/// Declares the router and the new experts of a layer and reads them before
/// the call.
FailureOr<SmallVector<Value>> Upcycle::makeParameters(Layer &layer,
                                                      SymbolTable &symbols) {
  FailureOr<SmallVector<ParameterOp>> originals = ffnParameters(layer, symbols);
  if (failed(originals))
    return failure();
  StringRef prefix = commonPrefix(*originals);
  ParameterOp last = originals->back();
  OpBuilder declarations(&getContext());
  declarations.setInsertionPointAfter(last);
  OpBuilder reads(layer.call);

  SmallVector<Value> values;
  auto declare = [&](Role role, const Twine &name, RankedTensorType type,
                     Attribute origin) -> LogicalResult {
    std::string symbol = name.str();
    if (Operation *other = symbols.lookup(symbol)) {
      InFlightDiagnostic diag = last.emitOpError()
                                << "expected a new name for an expert or a "
                                   "router, but there is a @"
                                << symbol;
      diag.attachNote(other->getLoc()) << "it is here";
      return diag;
    }
    auto parameter =
        ParameterOp::create(declarations, last.getLoc(), /*trainable=*/true,
                            role, symbol, type, origin);
    symbols.insert(parameter);
    values.push_back(GetParameterOp::create(reads, layer.call.getLoc(), type,
                                            parameter.getSymName()));
    return success();
  };

  RankedTensorType input = layer.input;
  if (failed(declare(Role::Router, prefix + "gate.weight",
                     RankedTensorType::get({layer.experts, input.getDimSize(2)},
                                           input.getElementType()),
                     InitAttr::get(&getContext(), Initializer::XavierNormal,
                                   seed, FloatAttr()))))
    return failure();
  for (int64_t e = 1; e < layer.experts; ++e)
    for (ParameterOp original : *originals)
      if (failed(declare(
              Role::Expert,
              prefix + "experts." + Twine(e) + "." +
                  original.getSymName().drop_front(prefix.size()),
              cast<RankedTensorType>(original.getType()),
              CopyAttr::get(&getContext(), FlatSymbolRefAttr::get(original)))))
        return failure();
  numExperts += layer.experts - 1;
  return values;
}

LogicalResult Upcycle::run(ModuleOp module) {
  FailureOr<func::FuncOp> forward = lookupForward(module);
  if (failed(forward))
    return failure();
  SymbolTable symbols(module);
  FailureOr<SmallVector<Layer>> layers = findLayers(*forward, symbols);
  if (failed(layers) || failed(chooseCounts(module, *layers)))
    return failure();

  std::map<Operation *, std::set<int64_t>> countsOf;
  for (const Layer &layer : *layers)
    countsOf[layer.function].insert(layer.experts);

  // A function is rewritten in place only if all its layers become the same,
  // so what is cloned is always the original.
  std::map<std::pair<Operation *, int64_t>, func::FuncOp> expanded;
  for (Layer &layer : *layers) {
    if (layer.experts == 1)
      continue;
    FailureOr<SmallVector<Value>> parameters = makeParameters(layer, symbols);
    if (failed(parameters))
      return failure();
    func::FuncOp &function = expanded[{layer.function, layer.experts}];
    if (!function)
      function = expandFunction(
          layer, /*clone=*/countsOf[layer.function].size() > 1, symbols);
    replaceCall(layer.call, function, *parameters);
    ++numLayers;
  }
  for (auto &[function, counts] : countsOf)
    if (counts.size() > 1 && !counts.count(1))
      symbols.erase(function);
  return success();
}

} // namespace
