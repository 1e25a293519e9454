//===-- Layers.h - the layers of a model and their mixtures -----*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What a layer is, which parameters it has, what they are called, and how a
// mixture is built in the place of an FFN. The passes that expand models,
// import and export all use this.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TRANSFORMS_LAYERS_H
#define MOE_TRANSFORMS_LAYERS_H

#include "moe/Dialect/MoE.h"

#include "mlir/IR/BuiltinOps.h"

namespace mlir::moe {

//===----------------------------------------------------------------------===//
// Finding layers
//===----------------------------------------------------------------------===//

/// A layer: a call, in @forward, of a function that holds an FFN or a mixture.
/// Layers that are alike call one function, with parameters of their own.
struct Layer {
  func::CallOp call;
  func::FuncOp function;
  FfnOp ffn;              ///< null in a layer of experts
  RouteOp route;          ///< null in a dense layer
  ExpertsOp mixture = {}; ///< null in a dense layer

  int64_t experts() const;
};

/// Fails if a layer has a route but no experts: then it has none of what the
/// functions below return.
LogicalResult checkExperts(ArrayRef<Layer> layers);

/// What the FFN or the mixture of a layer reads, [B,S,D]. The layer has one of
/// them.
Value inputOf(const Layer &layer);

/// The last dimension of that.
int64_t widthOf(const Layer &layer);

/// The weights of an expert as the layer's function reads them. The FFN of a
/// dense layer is its expert 0.
ValueRange weightsOfExpert(const Layer &layer, int64_t expert);

/// The values that a layer's router is made of, in the order of its rows: its
/// weight, or what moe.concat_rows joins. Empty without a router.
SmallVector<Value> routerParts(const Layer &layer);

/// The layers in the order in which tokens pass them.
FailureOr<SmallVector<Layer>> findLayers(ModuleOp module,
                                         const SymbolTable &symbols);

/// The parameter that `call` passes as operand `index`, null if it passes
/// something else.
ParameterOp parameterOf(func::CallOp call, unsigned index,
                        const SymbolTable &symbols);

/// The parameter that `weight`, an argument of the layer's function, stands
/// for. Errors call it `what`.
FailureOr<ParameterOp> parameterOf(const Layer &layer, Value weight,
                                   StringRef what, const SymbolTable &symbols);

/// The language gate that a route reads, perhaps through a pool; null if it
/// reads none.
LanguageGateOp languageGateOf(RouteOp route);

/// Changes with the names and the shapes of the parameters that the dense base
/// has: all but routers, language gates and the experts from 1 on. So it stays
/// the same however often a model is expanded.
std::string digestOfBase(ModuleOp module, ArrayRef<Layer> layers);

/// How many groups of languages the model has (moe.groups). Fails if it has
/// none, or if a route has fewer experts: group g goes to expert g.
FailureOr<int64_t> numGroups(ModuleOp module);

/// Whether the parameter trains or has trained. A frozen parameter whose origin
/// is an initialiser has not.
bool isTrained(ParameterOp parameter);

//===----------------------------------------------------------------------===//
// Changing layers
//===----------------------------------------------------------------------===//

/// The names of the parameters that a mixture adds to an FFN. `prefix` is what
/// the names of the FFN's parameters have in common: `P.` of
/// `P.gate_proj.weight`.
std::string routerName(StringRef prefix);
std::string expertName(StringRef prefix, int64_t expert, StringRef part);
/// The row of a router for an expert that came later, as one of its own.
std::string routerRowName(StringRef prefix, int64_t expert);
/// The language gate of the router `P.gate.weight` is `P.language_gate.weight`.
std::string languageGateName(StringRef router);

/// The values of a layer function that a mixture reads.
struct MixtureWeights {
  Value router;               ///< [E,D]
  SmallVector<Value> experts; ///< the weights of E FFNs
  Value gate;                 ///< [2,D], null without a language gate
  PoolKindAttr pool;          ///< null if the gate looks at the token alone
};

/// Builds a router, routes to `topK` experts (or to all if there are fewer) and
/// the experts. Returns their result.
Value buildMixture(OpBuilder &builder, Location loc, Value input,
                   const MixtureWeights &weights, FfnForm form,
                   ActivationKind activation, int64_t topK);

/// Builds a language gate, and its pool if `pool` is there. Returns the logits
/// that a route reads.
Value buildLanguageGate(OpBuilder &builder, Location loc, Value input,
                        Value weight, PoolKindAttr pool);

/// Makes `route` one to a single expert a token with a score of 1, which is for
/// the caller to name: its gate goes. Fails where anything but `moe.experts`
/// and `moe.balance_loss` uses the routes.
LogicalResult routeToOne(RouteOp route);

/// Declares a parameter after `neighbor`. Fails if its name is taken.
FailureOr<ParameterOp> declareParameter(ParameterOp neighbor, bool trainable,
                                        Role role, StringRef name,
                                        RankedTensorType type, Attribute origin,
                                        SymbolTable &symbols);

/// Gives `layer` its own copy of its function, so that changing the copy does
/// not affect other layers. Does not redirect the call: see replaceCall.
void cloneFunction(Layer &layer, const Twine &suffix, SymbolTable &symbols);

} // namespace mlir::moe

#endif // MOE_TRANSFORMS_LAYERS_H
