//===-- Upcycle.cpp - turns FFNs into mixtures of copies
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Upcycle.h"

#include "EntryPoint.h"

#include "moe/Transforms/Passes.h"

#include "mlir/IR/Builders.h"

#include <map>
#include <set>

namespace mlir::moe {
#define GEN_PASS_DEF_UPCYCLE
#include "moe/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

/// Of a layer. Published mixtures have up to 512, and a module grows by all of
/// them.
static constexpr int64_t maxExperts = 1024;

namespace {

struct Upcycle : FailablePass<moe::impl::UpcycleBase<Upcycle>> {
  using FailablePass::FailablePass;

  LogicalResult run(ModuleOp module) override;
  FailureOr<SmallVector<Expansion>> plan(ModuleOp module,
                                         const SymbolTable &symbols);
};

FailureOr<SmallVector<Expansion>> Upcycle::plan(ModuleOp module,
                                                const SymbolTable &symbols) {
  FailureOr<SmallVector<Layer>> layers = findLayers(module, symbols);
  if (failed(layers))
    return failure();
  llvm::erase_if(*layers, [](const Layer &layer) { return !layer.ffn; });
  if (layers->empty())
    return module.lookupSymbol("forward")->emitOpError()
           << "expected calls of layers with a moe.ffn, but there is none";
  if (!counts.empty() && counts.size() != layers->size())
    return module.emitError()
           << "expected a count for each of " << layers->size()
           << " layers, but got " << counts.size();
  SmallVector<Expansion> expansions;
  for (auto [i, layer] : llvm::enumerate(*layers))
    expansions.push_back({layer, counts.empty() ? experts : counts[i]});
  return expansions;
}

LogicalResult Upcycle::run(ModuleOp module) {
  SymbolTable symbols(module);
  FailureOr<SmallVector<Expansion>> expansions = plan(module, symbols);
  if (failed(expansions))
    return failure();
  Expander expander(topK,
                    InitAttr::get(&getContext(), Initializer::XavierNormal,
                                  seed, FloatAttr()));
  LogicalResult expanded = expander.expand(module, *expansions, symbols);
  numLayers += expander.numLayers;
  numExperts += expander.numExperts;
  return expanded;
}

} // namespace

LogicalResult Expander::check(ModuleOp module,
                              ArrayRef<Expansion> expansions) const {
  if (topK < 1)
    return module.emitError()
           << "expected top-k of at least 1, but got " << topK;
  for (auto [i, expansion] : llvm::enumerate(expansions)) {
    FfnOp ffn = expansion.layer.ffn;
    if (ffn.getPreactivation())
      return ffn.emitOpError()
             << "expected no pre-activation before differentiation";
    int64_t wanted = expansion.experts;
    if (wanted < 1)
      return module.emitError() << "expected at least 1 expert in layer " << i
                                << ", but got " << wanted;
    if (wanted > maxExperts)
      return module.emitError()
             << "expected at most " << maxExperts << " experts in layer " << i
             << ", but got " << wanted;
  }
  return success();
}

/// Replaces the FFN of a layer function by a mixture, whose router and further
/// experts are new arguments.
void Expander::expandFunction(const Expansion &expansion, func::FuncOp function,
                              FfnOp ffn) const {
  MixtureWeights weights;
  llvm::append_range(weights.experts, ffn.getWeights());
  for (Value parameter : expansion.parameters) {
    Value argument = addArgument(function, parameter.getType());
    if (!weights.router)
      weights.router = argument;
    else
      weights.experts.push_back(argument);
  }
  OpBuilder builder(ffn);
  ffn.getResult().replaceAllUsesWith(
      buildMixture(builder, ffn.getLoc(), ffn.getInput(), weights,
                   ffn.getForm(), ffn.getActivation(), topK));
  ffn.erase();
}

/// The common prefix of the names of an FFN's parameters, up to a dot: `P.` of
/// `P.gate_proj.weight`, `P.up_proj.weight`, ...
static StringRef commonPrefix(ArrayRef<ParameterOp> parameters) {
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
LogicalResult Expander::makeParameters(Expansion &expansion,
                                       SymbolTable &symbols) {
  Layer &layer = expansion.layer;
  SmallVector<ParameterOp> originals;
  for (Value weight : layer.ffn.getWeights()) {
    FailureOr<ParameterOp> original =
        parameterOf(layer, weight, "a weight of an FFN", symbols);
    if (failed(original))
      return failure();
    originals.push_back(*original);
  }
  StringRef prefix = commonPrefix(originals);
  ParameterOp last = originals.back();
  OpBuilder reads(layer.call);
  MLIRContext *context = router.getContext();
  auto declare = [&](Role role, StringRef name, RankedTensorType type,
                     Attribute origin) -> LogicalResult {
    FailureOr<ParameterOp> parameter = declareParameter(
        last, /*trainable=*/true, role, name, type, origin, symbols);
    if (failed(parameter))
      return failure();
    last = *parameter;
    expansion.parameters.push_back(
        GetParameterOp::create(reads, layer.call.getLoc(), type, name));
    return success();
  };

  auto input = cast<RankedTensorType>(layer.ffn.getInput().getType());
  if (failed(declare(
          Role::Router, routerName(prefix),
          RankedTensorType::get({expansion.experts, input.getDimSize(2)},
                                input.getElementType()),
          router)))
    return failure();
  for (int64_t e = 1; e < expansion.experts; ++e)
    for (ParameterOp original : originals)
      if (failed(declare(
              Role::Expert,
              expertName(prefix, e,
                         original.getSymName().drop_front(prefix.size())),
              cast<RankedTensorType>(original.getType()),
              CopyAttr::get(context, FlatSymbolRefAttr::get(original)))))
        return failure();
  numExperts += expansion.experts - 1;
  return success();
}

LogicalResult Expander::expand(ModuleOp module,
                               MutableArrayRef<Expansion> expansions,
                               SymbolTable &symbols) {
  if (failed(check(module, expansions)))
    return failure();
  std::map<Operation *, std::set<int64_t>> countsOf;
  for (Expansion &expansion : expansions) {
    countsOf[expansion.layer.function].insert(expansion.experts);
    if (expansion.experts > 1 && failed(makeParameters(expansion, symbols)))
      return failure();
  }

  // A function is rewritten in place only if all layers that call it become the
  // same. Clones are therefore always made of the original.
  std::map<std::pair<Operation *, int64_t>, func::FuncOp> expanded;
  for (Expansion &expansion : expansions) {
    Layer &layer = expansion.layer;
    if (expansion.experts == 1)
      continue;
    func::FuncOp &function = expanded[{layer.function, expansion.experts}];
    if (!function) {
      if (countsOf[layer.function].size() > 1)
        cloneFunction(layer, ".experts" + Twine(expansion.experts), symbols);
      function = layer.function;
      expandFunction(expansion, function, layer.ffn);
    }
    replaceCall(layer.call, function, expansion.parameters);
    ++numLayers;
  }
  for (auto &[function, counts] : countsOf)
    if (counts.size() > 1 && !counts.count(1))
      symbols.erase(function);
  return success();
}
