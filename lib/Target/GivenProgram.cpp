//===-- GivenProgram.cpp - a program that moe-opt compiled ----------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "GivenProgram.h"

#include "ProgramCache.h"
#include "moe/Dialect/MoE.h"
#include "moe/Runtime/Error.h"

#include <algorithm>

using namespace polymoe;

GivenProgram::GivenProgram(const CompiledExecutorOptions &options,
                           mlir::ModuleOp model, const ParameterStore &store,
                           const Objective &given)
    : module(options.given), file(options.givenFile), store(store),
      objective(given) {
  checkTarget(options.compiler.bf16Products);
  mlir::OwningOpRef<mlir::ModuleOp> copy = module.clone();
  code = makeProgram(file, module.getContext(), [&] {
    return mlir::moe::CompiledProgram::load(*copy, options.compiler);
  });
  checkParameters();
  // A model without language gates has no classifier loss.
  auto isGate = [](mlir::moe::LanguageGateOp) {
    return mlir::WalkResult::interrupt();
  };
  if (!model.walk(isGate).wasInterrupted())
    objective.classifier = 0;
}

void GivenProgram::checkTarget(mlir::moe::Bf16Products products) const {
  mlir::moe::MoEDialect::TargetAttrHelper targetAttr(module->getContext());
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

void GivenProgram::checkParameters() const {
  for (const EntryPoint &entry : code->program().entries)
    for (const Binding &binding : entry.bindings) {
      if (binding.kind != Binding::Kind::Parameter)
        continue;
      auto isMeant = [&](const ParameterSpec &spec) {
        return spec.name == binding.name;
      };
      auto found =
          std::find_if(store.specs().begin(), store.specs().end(), isMeant);
      // Language gates that were not trained are dropped before a model runs.
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

void GivenProgram::require(const ProgramUse &use) {
  if (use.entry == ProgramUse::Entry::Extend)
    // A prompt needs programs of two lengths, with caches of its own capacity.
    fail(file, ": expected a module of the model level to generate with, but "
               "this one is compiled");
  if (use.entry == ProgramUse::Entry::Probe)
    fail(file,
         ": expected a module of the model level to profile, but this one "
         "is compiled");
  const EntryPoint &entry = code->program().entries.front();
  if (entry.name != nameOf(use.entry))
    fail(file, ": expected a program @", nameOf(use.entry),
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
  if (use.entry == ProgramUse::Entry::Step) {
    checkGradients(use.microBatches);
    checkObjective();
  }
}

void GivenProgram::checkGradients(int64_t microBatches) const {
  size_t gradients = 0;
  for (const Binding &binding : code->program().entries.front().bindings) {
    const bool isWritten = binding.kind == Binding::Kind::StepGradient;
    if (!isWritten && binding.kind != Binding::Kind::Gradient)
      continue;
    if (isWritten && microBatches != 1)
      fail(file,
           ": expected --accumulate=1, since the module was compiled with "
           "moe-cpu-pipeline=\"gradients=written\", but got ",
           microBatches);
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
}

void GivenProgram::checkObjective() const {
  mlir::moe::MoEDialect::ObjectiveAttrHelper objectiveAttr(
      module->getContext());
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
  check("router_cross_entropy", objective.routerCrossEntropy, std::nullopt);
}
