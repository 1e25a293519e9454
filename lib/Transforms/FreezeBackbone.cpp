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

struct FreezeBackbone : moe::impl::FreezeBackboneBase<FreezeBackbone> {
  using FreezeBackboneBase::FreezeBackboneBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    llvm::SmallSet<Role, 4> roles;
    for (const std::string &name : train) {
      std::optional<Role> role = symbolizeRole(name);
      if (!role) {
        module.emitError() << "expected train to name backbone, expert, router "
                              "or language_gate, but got '"
                           << name << "'";
        return signalPassFailure();
      }
      roles.insert(*role);
    }
    if (roles.empty()) {
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
    if (!any) {
      InFlightDiagnostic diag = module.emitError();
      diag << "expected a parameter to train, but there is none of role ";
      llvm::interleave(
          roles, [&](Role role) { diag << stringifyRole(role); },
          [&] { diag << " or "; });
      return signalPassFailure();
    }
  }
};

} // namespace
