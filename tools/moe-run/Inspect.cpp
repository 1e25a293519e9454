//===-- Inspect.cpp - what a model consists of and costs ------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Commands.h"
#include "Facts.h"
#include "Model.h"

#include "moe/Runtime/Error.h"

#include <cmath>
#include <cstdio>

using namespace polymoe;

namespace {
struct InspectOptions {
  std::string model;
  int64_t length = 512;
  std::string optimizerStates = "fp32";
};
} // namespace

static std::string bytes(double amount) { return formatAmount(amount) + "B"; }

/// Experts of every layer, runs of equal ones as "24 x 6".
static std::string expertsText(const std::vector<LayerFacts> &layers) {
  std::string text;
  for (size_t i = 0; i < layers.size();) {
    size_t end = i;
    while (end < layers.size() && layers[end].experts == layers[i].experts &&
           layers[end].topK == layers[i].topK &&
           layers[end].isGated == layers[i].isGated &&
           layers[end].trainableExperts == layers[i].trainableExperts)
      ++end;
    const LayerFacts &layer = layers[i];
    text += text.empty() ? "" : ", ";
    text += concat(end - i, end - i == 1 ? " layer" : " layers");
    if (layer.experts == 1)
      text += " dense";
    else
      text += concat(" of ", layer.experts, " (top ", layer.topK, ", ",
                     layer.trainableExperts, " trainable",
                     layer.isGated ? ", gated)" : ")");
    i = end;
  }
  return text.empty() ? "none" : text;
}

/// As moe-group-languages takes them.
static std::string groupsText(const LanguageGroups &groups) {
  std::map<int32_t, std::string> codes;
  for (const auto &[code, group] : groups)
    codes[group] += (codes[group].empty() ? "" : "+") + code;
  std::string text;
  for (const auto &[group, joined] : codes)
    text += (text.empty() ? "" : ",") + joined;
  return text;
}

static void print(const char *label, const std::string &text) {
  std::printf("%-18s%s\n", label, text.c_str());
}

static int runInspect(const InspectOptions &options) {
  Model model(options.model);
  ModelFacts facts = factsOf(model.module(), options.length);
  RoleFacts total = facts.total();
  print("model", model.file().string());
  if (hasModelSource(model.module()))
    print("family", modelSource(model.module()).family);
  print("vocabulary", std::to_string(model.vocabulary()));

  std::printf("\n%-18s%8s  %14s  %14s  %10s\n", "parameters", "tensors",
              "elements", "trainable", "memory");
  auto line = [](const char *name, const RoleFacts &role) {
    if (role.tensors == 0)
      return;
    std::printf("%-18s%8lld  %14lld  %14lld  %10s\n", name,
                static_cast<long long>(role.tensors),
                static_cast<long long>(role.elements),
                static_cast<long long>(role.trainableElements),
                bytes(double(role.bytes)).c_str());
  };
  for (auto [i, role] : llvm::enumerate(facts.roles))
    line(mlir::moe::stringifyRole(static_cast<mlir::moe::Role>(i)).data(),
         role);
  line("all", total);

  double training = 0;
  for (const ParameterSpec &spec : extractParameterSpecs(model.module()))
    training += double(
        trainingBytesOf(spec, parseOptimizerStates(options.optimizerStates)));
  std::printf("\n");
  print("feed-forward", expertsText(facts.layers));
  if (const LanguageGroups groups = model.groups(); !groups.empty())
    print("language groups", groupsText(groups));
  print("training memory", bytes(training) + " for gradients, moments and "
                                             "masters, activations not "
                                             "counted");
  print("active per token",
        concat(formatAmount(facts.activeElements), " of ",
               formatAmount(double(total.elements)), " elements"));
  print("work per token",
        concat(formatAmount(facts.forwardFlops), "FLOP forward, ",
               formatAmount(facts.trainingFlops()),
               "FLOP forward and backward (rows of ", options.length,
               " tokens)"));
  return 0;
}

void polymoe::addInspectCommand(CLI::App &app, Command &command) {
  auto options = std::make_shared<InspectOptions>();
  CLI::App *inspect = app.add_subcommand(
      "inspect", "Prints parameters, trainable or frozen, experts per layer, "
                 "memory and FLOPs of a model.");
  inspect->add_option("model", options->model, "module (.mlir) or run folder")
      ->required()
      ->check(CLI::ExistingPath);
  inspect
      ->add_option("--sequence", options->length,
                   "tokens of a row, for the cost of attention")
      ->check(CLI::Range(int64_t(1), int64_t(1) << 20))
      ->capture_default_str();
  inspect
      ->add_option("--optimizer-states", options->optimizerStates,
                   "AdamW's moments, for the memory of training: fp32 or 8bit")
      ->check(CLI::IsMember({"fp32", "8bit"}))
      ->capture_default_str();
  inspect->callback([options, &command] {
    command = [options] { return runInspect(*options); };
  });
}
