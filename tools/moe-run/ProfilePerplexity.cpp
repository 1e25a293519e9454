//===-- ProfilePerplexity.cpp - languages through each expert -------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Commands.h"
#include "Eval.h"
#include "Profile.h"

#include "moe/Runtime/Error.h"
#include "moe/Runtime/Files.h"
#include "moe/Runtime/Json.h"
#include "moe/Runtime/Trainer.h"
#include "moe/Transforms/Passes.h"

#include "mlir/Pass/PassManager.h"

#include <algorithm>
#include <cstdio>
#include <iostream>

using namespace polymoe;
using nlohmann::ordered_json;

/// The number of experts of the layers that have any. Throws Error if they
/// differ: then "expert 3" is not one model.
static int64_t expertsOf(const ProfiledModel &model) {
  int64_t experts = 1;
  for (int64_t count : model.experts) {
    if (count > 1 && experts > 1 && count != experts)
      fail(model.file,
           ": expected as many experts in every layer that has "
           "some, but got ",
           experts, " and ", count);
    experts = std::max(experts, count);
  }
  if (experts == 1)
    fail(model.file, ": expected a model with experts, but all layers are "
                     "dense");
  return experts;
}

/// Evaluates the model with every token sent to `expert`.
static std::vector<LanguageScore>
evaluateExpert(Inference &inference, const EvalOptions &options,
               const Corpus &corpus, int64_t expert, Progress &progress) {
  mlir::OwningOpRef<mlir::ModuleOp> forced = inference.module->clone();
  mlir::PassManager pm(forced->getContext());
  pm.addPass(mlir::moe::createForceExpert({expert}));
  diagnose(*forced->getContext(), [&] { return pm.run(*forced); });
  Executor executor = makeExecutor(options.machine, inference.model, *forced,
                                   *inference.store, inference.pool);
  return evaluate(*executor.scorer, corpus, options.evaluation, &progress);
}

/// One line for each language: its perplexity through every expert.
static void print(const ordered_json &experts) {
  const size_t languages = experts[0]["languages"].size();
  std::printf("%-8s", "language");
  for (size_t e = 0; e < experts.size(); ++e)
    std::printf("  %10s", concat("expert ", e).c_str());
  std::printf("      best\n");
  for (size_t i = 0; i < languages; ++i) {
    std::vector<double> perplexity;
    for (const ordered_json &expert : experts)
      perplexity.push_back(expert["languages"][i]["perplexity"]);
    const std::string code = experts[0]["languages"][i]["language"];
    std::printf("%-8s", code.c_str());
    for (double value : perplexity)
      std::printf("  %10.3f", value);
    std::printf("  %8td\n",
                std::ranges::min_element(perplexity) - perplexity.begin());
  }
}

/// All of the profile but what is measured.
static ordered_json headerOf(const ProfiledModel &model, const Corpus &corpus,
                             const EvaluateOptions &options) {
  return profileHeader(
      "perplexity", model,
      {{"data", corpus.folder().string()},
       {"corpus", std::to_string(corpus.fingerprint(options.split))},
       {"split", options.split},
       {"languages", options.languages},
       {"sequence", options.windows.length},
       {"stride", options.windows.stride},
       {"documents", options.maxDocuments}});
}

static int runProfilePerplexity(EvalOptions options) {
  Inference inference(options.machine);
  if (inference.model.program())
    fail(inference.model.file(), ": expected a module of the model level to "
                                 "profile, but this one is compiled");
  Corpus corpus = openCorpus(inference, options);
  const ProfiledModel model = describe(inference, options.machine);
  const int64_t count = expertsOf(model);
  ordered_json profile = headerOf(model, corpus, options.evaluation);
  // The experts that an interrupted measurement had done.
  const std::string partial = options.json + ".partial";
  ordered_json done = ordered_json::array();
  if (std::filesystem::exists(partial)) {
    auto before = readJsonObject<ordered_json>(partial);
    ordered_json experts = before.value("experts", done);
    before.erase("experts");
    if (before == profile && experts.is_array() &&
        int64_t(experts.size()) < count)
      done = std::move(experts);
  }
  for (auto expert = int64_t(done.size()); expert < count; ++expert) {
    Progress progress(concat("expert ", expert, " of ", count), "batch",
                      batchesOf(corpus, options.evaluation), progressOptions());
    progress.start(0);
    auto scores = evaluateExpert(inference, options, corpus, expert, progress);
    progress.finish();
    ordered_json figures =
        ordered_json::parse(toJson(scores, options.evaluation));
    done.push_back({{"expert", expert}, {"languages", figures["languages"]}});
    ordered_json sofar = profile;
    sofar["experts"] = done;
    writeText(partial, sofar.dump());
  }
  profile["experts"] = done;
  print(profile["experts"]);
  writeText(options.json, profile.dump(1) + "\n");
  std::filesystem::remove(partial);
  return 0;
}

void polymoe::addProfilePerplexityCommand(CLI::App &app, Command &command) {
  auto options = std::make_shared<EvalOptions>();
  CLI::App *profile = app.add_subcommand(
      "perplexity", "Measures languages through each expert alone.");
  profile->footer(
      "Every token goes to one expert with a score of 1, and each expert takes "
      "its turn. A new language begins best from the expert of the lowest "
      "perplexity (DMoE).\n"
      "\n"
      "  moe-run profile perplexity run/ --data corpus/ --split=valid -o "
      "p.json");
  addEvalOptions(*profile, *options);
  profile->add_option("-o,--out", options->json, "file for the profile, JSON")
      ->required();
  profile->callback([options, &command] {
    command = [options] { return runProfilePerplexity(*options); };
  });
}
