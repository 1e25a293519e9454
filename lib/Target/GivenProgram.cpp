//===-- GivenProgram.cpp - programs that moe-opt compiled -----------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "GivenProgram.h"

#include "moe/Dialect/MoE.h"
#include "moe/Runtime/Error.h"
#include "moe/Target/Compiler.h"

#include "mlir/IR/BuiltinAttributes.h"

#include <algorithm>

using namespace polymoe;

void polymoe::checkTarget(mlir::ModuleOp module,
                          mlir::moe::Bf16Products products,
                          const std::string &file) {
  mlir::moe::MoEDialect::TargetAttrHelper targetAttr(module.getContext());
  mlir::DictionaryAttr target = targetAttr.getAttr(module);
  if (!target)
    fail(file, ": expected a module compiled by moe-cpu-pipeline, with the "
               "attribute moe.target = {abi, variant}");
  auto abi = target.getAs<mlir::IntegerAttr>("abi");
  auto variant = target.getAs<mlir::StringAttr>("variant");
  if (abi.getInt() != MOE_ABI_VERSION)
    fail(file, ": expected a module compiled for version ", MOE_ABI_VERSION,
         " of the ABI, but got ", abi.getInt());
  std::string host = mlir::moe::hostVariant(products);
  if (variant.getValue() != host)
    fail(file, ": expected a module compiled for this machine, ", host,
         ", but got one for ", variant.str());
}

void polymoe::checkParameters(const Program &program,
                              const ParameterStore &store,
                              const std::string &file) {
  for (const EntryPoint &entry : program.entries)
    for (const Binding &binding : entry.bindings) {
      if (binding.kind != Binding::Kind::Parameter)
        continue;
      auto isMeant = [&](const ParameterSpec &spec) {
        return spec.name == binding.name;
      };
      auto found =
          std::find_if(store.specs().begin(), store.specs().end(), isMeant);
      // Gates that nobody trained are taken out before anything runs.
      if (found == store.specs().end())
        fail(
            file, ": expected a parameter '", binding.name,
            "', which the module was compiled with, but the model runs without "
            "it (moe-drop-untrained-gates takes gates out)");
      const ParameterSpec &spec = *found;
      if (binding.dtype != spec.dtype || binding.shape != spec.shape)
        fail(file, ": expected '", binding.name, "' to be ", binding.dtype, " ",
             toString(binding.shape),
             ", as it was when the module was compiled, but got ", spec.dtype,
             " ", toString(spec.shape));
    }
}

void polymoe::checkUse(const EntryPoint &entry, const ProgramUse &use,
                       const std::string &file) {
  if (entry.name != use.entry)
    fail(file, ": expected a program @", use.entry,
         ", but the module was compiled to @", entry.name);
  bool hasTokens = false, hasLogits = false;
  for (const Binding &binding : entry.bindings) {
    hasLogits |=
        binding.kind == Binding::Kind::Output && binding.name == "logits";
    if (binding.kind != Binding::Kind::Input || binding.name != "tokens" ||
        binding.shape.size() != 2)
      continue;
    hasTokens = true;
    if (binding.shape[0] != use.rows || binding.shape[1] != use.length)
      fail(file, ": expected batches of ", binding.shape[0], " rows of ",
           binding.shape[1], " tokens, for which it was compiled, but got ",
           use.rows, " rows of ", use.length);
  }
  if (!hasTokens)
    fail(file, ": expected @", entry.name, " to read tokens [rows, length]");
  if (use.logits && !hasLogits)
    fail(file, ": expected a program that returns logits, but the module was "
               "compiled without (moe-score-pipeline=\"logits=true\")");
}

static void checkObjective(mlir::ModuleOp module, const Objective &objective,
                           const std::string &file) {
  mlir::moe::MoEDialect::ObjectiveAttrHelper objectiveAttr(module.getContext());
  mlir::DictionaryAttr noted = objectiveAttr.getAttr(module);
  if (!noted)
    fail(file, ": expected the attribute moe.objective, which "
               "moe-train-pipeline notes");
  auto check = [&](const std::string &name, double coefficient,
                   std::optional<LossForm> form) {
    auto number = noted.getAs<mlir::FloatAttr>(name);
    auto text = noted.getAs<mlir::StringAttr>(name + "_form");
    std::string option = "--" + name;
    std::replace(option.begin(), option.end(), '_', '-');
    if (number.getValueAsDouble() != coefficient)
      fail(option, ": expected ", number.getValueAsDouble(), ", with which ",
           file, " was compiled, but got ", coefficient);
    if (coefficient != 0 && form && text.getValue() != nameOf(*form))
      fail(option, "-form: expected ", text.str(), ", with which ", file,
           " was compiled, but got ", nameOf(*form));
  };
  check("balance", objective.balance, objective.balanceForm);
  check("language_prior", objective.languagePrior, objective.languagePriorForm);
  check("classifier", objective.classifier, std::nullopt);
}

static bool isGradient(const Binding &binding) {
  return binding.kind == Binding::Kind::Gradient ||
         binding.kind == Binding::Kind::StepGradient;
}

mlir::moe::Gradients polymoe::gradientsOf(const EntryPoint &entry,
                                          int64_t microBatches,
                                          const std::string &file) {
  bool isWritten = llvm::any_of(entry.bindings, [](const Binding &binding) {
    return binding.kind == Binding::Kind::StepGradient;
  });
  if (isWritten && microBatches != 1)
    fail(file,
         ": expected --accumulate=1, since the module was compiled with "
         "moe-cpu-pipeline=\"gradients=written\", but got ",
         microBatches);
  return isWritten ? mlir::moe::Gradients::Written
                   : mlir::moe::Gradients::Added;
}

void polymoe::checkTraining(mlir::ModuleOp module, const EntryPoint &entry,
                            const ParameterStore &store,
                            const Objective &objective,
                            const std::string &file) {
  size_t gradients = 0;
  for (const Binding &binding : entry.bindings) {
    if (!isGradient(binding))
      continue;
    ++gradients;
    if (!store.gradient(binding.name))
      fail(file, ": expected '", binding.name,
           "' to train, as it did when the module was compiled, but it is "
           "frozen");
  }
  if (gradients != store.trainables().size())
    fail(file, ": expected ", gradients,
         " trainable parameters, as when the module was compiled, but got ",
         store.trainables().size());
  checkObjective(module, objective, file);
}
