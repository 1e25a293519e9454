//===-- Layers.cpp - the layers of a model and their mixtures
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Transforms/Layers.h"

#include "EntryPoint.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/IRMapping.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/raw_ostream.h"
#include "llvm/Support/xxhash.h"

using namespace mlir;
using namespace mlir::moe;

//===----------------------------------------------------------------------===//
// Finding layers
//===----------------------------------------------------------------------===//

int64_t Layer::experts() const {
  return route ? RouteOp(route).getRoutes().getType().getExperts() : 1;
}

Value mlir::moe::inputOf(const Layer &layer) {
  return layer.ffn ? FfnOp(layer.ffn).getInput()
                   : ExpertsOp(layer.mixture).getInput();
}

ValueRange mlir::moe::weightsOfExpert(const Layer &layer, int64_t expert) {
  if (layer.ffn)
    return FfnOp(layer.ffn).getWeights();
  ExpertsOp mixture = layer.mixture;
  ValueRange weights = mixture.getWeights();
  int64_t each =
      FfnLayout(mixture.getForm(), mixture.getActivation(), weights).each();
  return weights.slice(expert * each, each);
}

LogicalResult mlir::moe::checkExperts(ArrayRef<Layer> layers) {
  for (const Layer &layer : layers)
    if (RouteOp route = layer.route; route && !layer.mixture)
      return route.emitOpError() << "expected a moe.experts in its layer";
  return success();
}

SmallVector<Value> mlir::moe::routerParts(const Layer &layer) {
  auto router = layer.route
                    ? RouteOp(layer.route).getLogits().getDefiningOp<RouterOp>()
                    : RouterOp();
  if (!router)
    return {};
  if (auto concat = router.getWeight().getDefiningOp<ConcatRowsOp>())
    return SmallVector<Value>(concat.getInputs());
  return {router.getWeight()};
}

int64_t mlir::moe::widthOf(const Layer &layer) {
  return cast<RankedTensorType>(inputOf(layer).getType()).getDimSize(2);
}

/// The one op of a kind in a function, null if there is none.
template <typename Op> static FailureOr<Op> findOne(func::FuncOp function) {
  SmallVector<Op> found(function.getOps<Op>());
  if (found.size() <= 1)
    return found.empty() ? Op() : found.front();
  InFlightDiagnostic diag = function.emitOpError()
                            << "expected one " << Op::getOperationName()
                            << " in a layer, but got " << found.size();
  diag.attachNote(found[1].getLoc()) << "another one is here";
  return diag;
}

FailureOr<SmallVector<Layer>>
mlir::moe::findLayers(ModuleOp module, const SymbolTable &symbols) {
  FailureOr<func::FuncOp> forward = lookupForward(module);
  if (failed(forward))
    return failure();
  SmallVector<Layer> layers;
  for (Operation &op : forward->getBody().front()) {
    if (isa<FfnOp, RouteOp>(op))
      return op.emitOpError()
             << "expected to be in a function of its own layer, but it is in "
                "@forward";
    auto call = dyn_cast<func::CallOp>(op);
    auto function =
        call ? symbols.lookup<func::FuncOp>(call.getCallee()) : func::FuncOp();
    if (!function || function.isExternal())
      continue;
    FailureOr<FfnOp> ffn = findOne<FfnOp>(function);
    FailureOr<RouteOp> route = findOne<RouteOp>(function);
    FailureOr<ExpertsOp> mixture = findOne<ExpertsOp>(function);
    if (failed(ffn) || failed(route) || failed(mixture))
      return failure();
    if (*ffn || *route)
      layers.push_back({call, function, *ffn, *route, *mixture});
  }
  return layers;
}

ParameterOp mlir::moe::parameterOf(func::CallOp call, unsigned index,
                                   const SymbolTable &symbols) {
  auto get = call.getOperand(index).getDefiningOp<GetParameterOp>();
  return get ? symbols.lookup<ParameterOp>(get.getName()) : ParameterOp();
}

FailureOr<ParameterOp> mlir::moe::parameterOf(const Layer &layer, Value weight,
                                              StringRef what,
                                              const SymbolTable &symbols) {
  func::CallOp call = layer.call;
  auto argument = dyn_cast<BlockArgument>(weight);
  if (!argument)
    return weight.getDefiningOp()->emitOpError()
           << "expected " << what << " to be an argument of the layer";
  if (ParameterOp parameter =
          parameterOf(call, argument.getArgNumber(), symbols))
    return parameter;
  return call.emitOpError() << "expected operand " << argument.getArgNumber()
                            << ", " << what << ", to be a moe.get_parameter";
}

LanguageGateOp mlir::moe::languageGateOf(RouteOp route) {
  Value classes = route.getGate();
  if (auto pool = classes ? classes.getDefiningOp<PoolOp>() : PoolOp())
    classes = pool.getInput();
  return classes ? classes.getDefiningOp<LanguageGateOp>() : LanguageGateOp();
}

std::string mlir::moe::digestOfBase(ModuleOp module, ArrayRef<Layer> layers) {
  SymbolTable symbols(module);
  llvm::DenseSet<Operation *> added;
  for (const Layer &layer : layers) {
    SmallVector<Value> weights = routerParts(layer);
    for (int64_t e = 1; e < layer.experts(); ++e)
      llvm::append_range(weights, weightsOfExpert(layer, e));
    for (Value weight : weights)
      if (auto argument = dyn_cast<BlockArgument>(weight))
        added.insert(parameterOf(layer.call, argument.getArgNumber(), symbols));
  }
  std::string text;
  llvm::raw_string_ostream out(text);
  for (auto parameter : module.getOps<ParameterOp>()) {
    Role role = parameter.getRole();
    if (role == Role::LanguageGate || added.contains(parameter))
      continue;
    out << parameter.getSymName();
    for (int64_t size : cast<RankedTensorType>(parameter.getType()).getShape())
      out << ' ' << size;
    out << '\n';
  }
  return llvm::utohexstr(llvm::xxh3_64bits(text), /*LowerCase=*/true,
                         /*Width=*/16);
}

FailureOr<int64_t> mlir::moe::numGroups(ModuleOp module) {
  DictionaryAttr groups =
      MoEDialect::GroupsAttrHelper(module.getContext()).getAttr(module);
  if (!groups)
    return module.emitError() << "expected a model with groups of languages "
                                 "(moe.groups), but it has none; "
                                 "moe-group-languages makes them";
  int64_t count = 0;
  for (NamedAttribute group : groups)
    count = std::max(count, cast<IntegerAttr>(group.getValue()).getInt() + 1);
  WalkResult enough = module.walk([&](RouteOp route) -> WalkResult {
    int64_t experts = route.getRoutes().getType().getExperts();
    if (experts >= count)
      return WalkResult::advance();
    return route.emitOpError() << "expected an expert for each of " << count
                               << " groups of languages, but got " << experts;
  });
  if (enough.wasInterrupted())
    return failure();
  return count;
}

bool mlir::moe::isTrained(ParameterOp parameter) {
  return parameter.getTrainable() || !isa<InitAttr>(parameter.getOrigin());
}

//===----------------------------------------------------------------------===//
// Changing layers
//===----------------------------------------------------------------------===//

std::string mlir::moe::routerName(StringRef prefix) {
  return (prefix + "gate.weight").str();
}

std::string mlir::moe::expertName(StringRef prefix, int64_t expert,
                                  StringRef part) {
  return (prefix + "experts." + Twine(expert) + "." + part).str();
}

std::string mlir::moe::routerRowName(StringRef prefix, int64_t expert) {
  return (prefix + "gate." + Twine(expert) + ".weight").str();
}

std::string mlir::moe::languageGateName(StringRef router) {
  auto [prefix, last] = router.rsplit('.');
  // No dot: npos + 1 is 0, and there is no prefix.
  prefix = prefix.take_front(prefix.rfind('.') + 1);
  return (prefix + "language_gate." + last).str();
}

/// The type of `width` numbers for each token of `input`, in its precise type.
static RankedTensorType preciseTensor(Value input, int64_t width) {
  auto type = cast<RankedTensorType>(input.getType());
  SmallVector<int64_t> shape(type.getShape());
  shape.back() = width;
  return RankedTensorType::get(shape, preciseType(type.getElementType()));
}

Value mlir::moe::buildMixture(OpBuilder &builder, Location loc, Value input,
                              const MixtureWeights &weights, FfnForm form,
                              ActivationKind activation, int64_t topK) {
  int64_t experts =
      cast<RankedTensorType>(weights.router.getType()).getDimSize(0);
  Value logits = RouterOp::create(builder, loc, preciseTensor(input, experts),
                                  input, weights.router);
  Value gate;
  if (weights.gate)
    gate = buildLanguageGate(builder, loc, input, weights.gate, weights.pool);
  auto route =
      RouteOp::create(builder, loc, logits, gate, std::min(topK, experts));
  return ExpertsOp::create(builder, loc, input.getType(),
                           /*preactivation=*/Type(), input, route.getScores(),
                           route.getRoutes(), weights.experts, form, activation)
      .getResult();
}

Value mlir::moe::buildLanguageGate(OpBuilder &builder, Location loc,
                                   Value input, Value weight,
                                   PoolKindAttr pool) {
  Value classes = LanguageGateOp::create(builder, loc, preciseTensor(input, 2),
                                         input, weight);
  if (pool)
    classes = PoolOp::create(builder, loc, classes.getType(), classes,
                             /*slots=*/Value(), pool);
  return classes;
}

LogicalResult mlir::moe::routeToOne(RouteOp route) {
  // From now on a token has one score and one row. Another user of them, or a
  // saved pre-activation, would no longer fit.
  for (Operation *user : route->getUsers()) {
    auto mixture = dyn_cast<ExpertsOp>(user);
    if ((mixture && !mixture.getPreactivation()) || isa<BalanceLossOp>(user))
      continue;
    InFlightDiagnostic diag = route.emitOpError()
                              << "expected only moe.experts and "
                                 "moe.balance_loss to use the routes";
    diag.attachNote(user->getLoc()) << "used here";
    return diag;
  }
  RoutesType routes = route.getRoutes().getType();
  route.getGateMutable().clear();
  route.getGroupsMutable().clear();
  route.setRenormalize(false);
  route.getRoutes().setType(RoutesType::get(
      route.getContext(), routes.getTokens(), routes.getExperts(), 1));
  auto scores = cast<RankedTensorType>(route.getScores().getType());
  SmallVector<int64_t> shape(scores.getShape());
  shape.back() = 1;
  route.getScores().setType(scores.clone(shape));
  return success();
}

FailureOr<ParameterOp>
mlir::moe::declareParameter(ParameterOp neighbor, bool trainable, Role role,
                            StringRef name, RankedTensorType type,
                            Attribute origin, SymbolTable &symbols) {
  if (Operation *other = symbols.lookup(name)) {
    InFlightDiagnostic diag = neighbor.emitOpError()
                              << "expected a new name for a parameter of role "
                              << stringifyRole(role) << ", but there is a @"
                              << name;
    diag.attachNote(other->getLoc()) << "it is here";
    return diag;
  }
  OpBuilder builder(neighbor.getContext());
  builder.setInsertionPointAfter(neighbor);
  auto parameter = ParameterOp::create(builder, neighbor.getLoc(), trainable,
                                       role, name, type, origin);
  symbols.insert(parameter);
  return parameter;
}

void mlir::moe::cloneFunction(Layer &layer, const Twine &suffix,
                              SymbolTable &symbols) {
  IRMapping mapping;
  auto clone = cast<func::FuncOp>(layer.function->clone(mapping));
  clone.setSymName((layer.function.getSymName() + suffix).str());
  symbols.insert(clone, std::next(Block::iterator(layer.function)));
  layer.function = clone;
  if (layer.ffn)
    layer.ffn = cast<FfnOp>(mapping.lookup(layer.ffn.getOperation()));
  if (layer.route)
    layer.route = cast<RouteOp>(mapping.lookup(layer.route.getOperation()));
  if (layer.mixture)
    layer.mixture =
        cast<ExpertsOp>(mapping.lookup(layer.mixture.getOperation()));
}
