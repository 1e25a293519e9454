//===-- Profile.cpp - what is measured of a model on text -----------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Profile.h"

#include "Commands.h"

#include "moe/Runtime/Error.h"
#include "moe/Runtime/Files.h"
#include "moe/Runtime/Safetensors.h"
#include "moe/Transforms/Layers.h"

#include <iostream>

using namespace polymoe;

namespace {

/// A profile that a probe makes.
struct ProbedProfile {
  const char *name;
  const char *summary;
  const char *what; ///< of moe-add-probe
  decltype(&similarityToJson) toJson;
  const char *help;
};

constexpr ProbedProfile similarity = {
    "similarity", "Measures how alike languages are in each layer.",
    "directions", similarityToJson,
    "The mean cosine of what the FFNs read, over all pairs of tokens of two "
    "languages (LayerMoE). moe-allocate-experts and moe-insert-language-gates "
    "read it.\n"
    "\n"
    "  moe-run profile similarity model.mlir --data corpus/ -o sim.json\n"
    "  moe-opt model.mlir --moe-allocate-experts='profile=sim.json budget=48'"};

constexpr ProbedProfile routing = {
    "routing", "Measures which experts the tokens of each language get.",
    "loads", routingToJson,
    "The share of each expert in the routes of a language, layer by layer, and "
    "the entropy of these shares in bits.\n"
    "\n"
    "  moe-run profile routing run/ --data corpus/ --split=test -o load.json"};

struct ProfileCommandOptions {
  MachineOptions machine;
  ProfileOptions profile;
  std::string data, out;
};

} // namespace

ProfiledModel polymoe::describe(Model &model) {
  ProfiledModel described;
  described.file = model.file();
  mlir::ModuleOp module = model.module();
  diagnose(*module.getContext(), [&]() -> llvm::LogicalResult {
    auto layers = mlir::moe::findLayers(module, mlir::SymbolTable(module));
    if (failed(layers) || failed(mlir::moe::checkExperts(*layers)))
      return mlir::failure();
    if (layers->empty())
      return module.emitError() << "expected a model with layers";
    for (const mlir::moe::Layer &layer : *layers)
      described.experts.push_back(layer.experts());
    described.width = mlir::moe::widthOf(layers->front());
    described.base = mlir::moe::digestOfBase(module, *layers);
    return mlir::success();
  });
  return described;
}

std::string polymoe::digestOfValues(ParameterStore &store,
                                    const MachineOptions &machine) {
  std::string text = concat(machine.executor, " ", int(machine.frozenWeights),
                            " ", int(machine.bf16Products), "\n");
  for (const ParameterSpec &spec : store.specs()) {
    const auto bytes =
        size_t(byteSizeOf(spec.shape, sizeOf(spec.dtype)).value());
    const auto *first = static_cast<const std::byte *>(store.value(spec.name));
    text += concat(spec.name, " ", nameOf(spec.dtype), " ",
                   checksumOf(std::span(first, bytes)).digest, "\n");
  }
  return checksumOf(std::as_bytes(std::span(text))).digest;
}

ProfiledModel polymoe::describe(Inference &inference,
                                const MachineOptions &machine) {
  ProfiledModel described = describe(inference.model);
  described.values = digestOfValues(*inference.store, machine);
  return described;
}

static int runProfile(const ProbedProfile &kind,
                      const ProfileCommandOptions &options) {
  Inference inference(options.machine);
  if (!inference.executor.prober)
    fail("--executor: expected compiled code to profile, but got ",
         options.machine.executor);
  Prober &prober = *inference.executor.prober;
  const ProfileOptions &profile = options.profile;
  prober.requireBatches(profile.rows, profile.length, kind.what);
  const ProfiledModel model = describe(inference, options.machine);
  Corpus corpus(options.data, inference.model.vocabulary());
  corpus.setGroups(inference.model.groups());
  if (!options.machine.otherTokenizer)
    checkTokenizer(inference.model, corpus);
  warnOfLength(inference.model, profile.length);
  Progress progress("measuring", "token", tokensToMeasure(corpus, profile),
                    progressOptions());
  progress.start(0);
  const std::string partial = options.out + ".partial";
  auto measured = measureSums(prober, kind.what, corpus, model, profile,
                              partial, &progress);
  progress.finish();
  if (!measured) {
    std::cerr << "moe-run: interrupted; the languages that are done are kept, "
                 "to go on: the same command\n";
    return exitInterrupted;
  }
  writeText(options.out, kind.toJson(*measured, corpus, model, profile));
  std::filesystem::remove(partial);
  std::cerr << "moe-run: wrote " << options.out << "\n";
  return 0;
}

static void addProbed(CLI::App &app, const ProbedProfile &kind,
                      Command &command) {
  auto options = std::make_shared<ProfileCommandOptions>();
  CLI::App *profile = app.add_subcommand(kind.name, kind.summary);
  profile->footer(kind.help);
  addMachineOptions(*profile, options->machine);
  addFrozenWeights(*profile, options->machine);
  addOtherTokenizer(*profile, options->machine);
  ProfileOptions &measured = options->profile;
  profile->add_option("--data", options->data, "corpus folder")->required();
  profile->add_option("-o,--out", options->out, "file for the profile, JSON")
      ->required();
  profile->add_option("--split", measured.split, "which documents")
      ->check(CLI::IsMember({"train", "valid", "test"}))
      ->capture_default_str();
  profile
      ->add_option("--languages", measured.languages,
                   "codes, with commas (default: all of the corpus)")
      ->delimiter(',');
  auto counts = CLI::Range(int64_t(1), int64_t(1) << 20);
  profile
      ->add_option("--tokens", measured.tokens,
                   "tokens of each language, the first ones")
      ->check(CLI::Range(int64_t(1), int64_t(1) << 40))
      ->capture_default_str();
  profile
      ->add_option("--sequence", measured.length, "tokens of context at most")
      ->check(counts)
      ->capture_default_str();
  profile->add_option("--batch", measured.rows, "rows run at a time")
      ->check(counts)
      ->capture_default_str();
  profile->callback([options, &kind, &command] {
    command = [options, &kind] { return runProfile(kind, *options); };
  });
}

void polymoe::addProfileCommand(CLI::App &app, Command &command) {
  CLI::App *profile = app.add_subcommand(
      "profile", "Measures a model: time, similarity of languages, experts.");
  profile->require_subcommand(1);
  addProfileTimeCommand(*profile, command);
  addProbed(*profile, similarity, command);
  addProbed(*profile, routing, command);
  addProfilePerplexityCommand(*profile, command);
  addProfileDeviation(*profile, command);
}
