//===-- FreezeBackbone.cpp - says which parameters train
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Transforms/Passes.h"

#include "mlir/IR/BuiltinOps.h"
#include "llvm/ADT/SmallSet.h"

namespace mlir::moe {
#define GEN_PASS_DEF_FREEZEBACKBONE
#include "moe/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

struct FreezeBackbone
    : FailablePass<moe::impl::FreezeBackboneBase<FreezeBackbone>> {
  using FailablePass::FailablePass;

  LogicalResult run(ModuleOp module) override;
};

/// Gives a frozen copy of a parameter that trains the origin of its source.
LogicalResult fixCopy(ParameterOp copy, const SymbolTable &symbols) {
  bool changes = false;
  Attribute origin = copy.getOrigin();
  while (auto from = dyn_cast<CopyAttr>(origin)) {
    auto source = symbols.lookup<ParameterOp>(from.getSource().getValue());
    changes |= source.getTrainable();
    origin = source.getOrigin();
  }
  if (!changes)
    return success();
  if (!isa<CheckpointAttr>(origin))
    return copy.emitOpError()
           << "expected a frozen parameter, but it is a copy of one that "
              "trains and lies in no checkpoint";
  copy.setOriginAttr(origin);
  return success();
}

LogicalResult FreezeBackbone::run(ModuleOp module) {
  llvm::SmallSet<Role, 4> roles;
  for (const std::string &name : train) {
    std::optional<Role> role = symbolizeRole(name);
    if (role)
      roles.insert(*role);
    else if (name != "none" || train.size() > 1)
      return module.emitError() << "expected train to name backbone, expert, "
                                   "router or language_gate, but got '"
                                << name << "'";
  }
  if (train.empty()) {
    roles.insert(Role::Expert);
    roles.insert(Role::Router);
  }

  bool any = false;
  for (auto parameter : module.getOps<ParameterOp>()) {
    bool trainable = roles.contains(parameter.getRole());
    parameter.setTrainable(trainable);
    any |= trainable;
    ++(trainable ? numTrainable : numFrozen);
  }
  if (!any && !roles.empty()) {
    InFlightDiagnostic diag = module.emitError();
    diag << "expected a parameter to train, but there is none of role ";
    llvm::interleave(
        roles, [&](Role role) { diag << stringifyRole(role); },
        [&] { diag << " or "; });
    return diag;
  }
  SymbolTable symbols(module);
  for (auto parameter : module.getOps<ParameterOp>())
    if (!parameter.getTrainable() && failed(fixCopy(parameter, symbols)))
      return failure();
  return success();
}

} // namespace
