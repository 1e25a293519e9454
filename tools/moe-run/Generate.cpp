//===-- Generate.cpp - continues text -------------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Commands.h"
#include "Model.h"

#include "moe/Import/Config.h"
#include "moe/Runtime/Error.h"
#include "moe/Runtime/Generate.h"
#include "moe/Tokenizer/Tokenizer.h"

#include <nlohmann/json.hpp>

#include <charconv>
#include <iostream>

using namespace polymoe;

namespace {
struct GenerateCommandOptions {
  MachineOptions machine;
  GenerateOptions generation;
  std::string prompt, promptTokens;
  bool noCache = false;
  bool ignoreEos = false;
};
} // namespace

/// "5,17,3".
static std::vector<int32_t> parseTokens(const std::string &text) {
  std::vector<int32_t> tokens;
  const char *at = text.data(), *end = at + text.size();
  while (true) {
    int32_t token;
    auto [next, error] = std::from_chars(at, end, token);
    if (error != std::errc() || (next != end && *next != ','))
      fail("--prompt-tokens: expected ids with commas between them, but got '",
           text, "'");
    tokens.push_back(token);
    if (next == end)
      return tokens;
    at = next + 1;
  }
}

/// The ids that end a text, as the model's configuration says.
static std::vector<int32_t> endOfText(Model &model) {
  if (!model.module()->hasAttr("moe.model"))
    return {};
  auto config =
      readJsonObject(model.folder() / modelSource(model.module()).config);
  auto eos = config.find("eos_token_id");
  std::vector<int32_t> ids;
  if (eos == config.end())
    return ids;
  auto add = [&](const nlohmann::ordered_json &id) {
    if (id.is_number_integer())
      ids.push_back(id.get<int32_t>());
  };
  if (eos->is_array())
    for (const auto &id : *eos)
      add(id);
  else
    add(*eos);
  return ids;
}

/// Prints ids with commas between them.
static void generateTokens(Inference &inference,
                           const std::vector<int32_t> &prompt,
                           const GenerateOptions &options) {
  std::vector<int32_t> tokens = generate(*inference.executor, prompt,
                                         inference.model.vocabulary(), options);
  for (size_t i = 0; i < tokens.size(); ++i)
    std::cout << (i ? "," : "") << tokens[i];
  std::cout << "\n";
}

/// Prints text as it comes.
static void generateText(Inference &inference, const std::string &prompt,
                         const GenerateOptions &options) {
  Tokenizer tokenizer =
      Tokenizer::fromFile(inference.model.tokenizer().string());
  TextStream stream(tokenizer, /*skipSpecial=*/true);
  generate(*inference.executor, tokenizer.encode(prompt, true),
           inference.model.vocabulary(), options, [&](int32_t token) {
             if (!llvm::is_contained(options.eos, token))
               std::cout << stream.push(token) << std::flush;
             return true;
           });
  std::cout << stream.finish() << "\n";
}

/// Refuses a gate that looks at tokens which are not there yet: with or without
/// a cache, the text would be that of no model.
static void checkGates(mlir::ModuleOp module) {
  module.walk([](mlir::moe::PoolOp pool) {
    if (pool.getKind() == mlir::moe::PoolKind::SequenceSum)
      fail("moe.pool: expected language gates that look back, but "
           "sequence_sum looks at the whole sequence, which generation does "
           "not know; moe-insert-language-gates with pool=token or "
           "pool=causal-mean can generate");
  });
}

static int runGenerate(const GenerateCommandOptions &options) {
  GenerateOptions generation = options.generation;
  generation.cache = !options.noCache;
  // Few lengths, since each is a program to compile.
  generation.padTo = 64;
  std::vector<int32_t> tokens;
  if (!options.promptTokens.empty())
    tokens = parseTokens(options.promptTokens);
  Inference inference(options.machine);
  checkGates(*inference.module);
  if (!options.promptTokens.empty()) {
    generateTokens(inference, tokens, generation);
    return 0;
  }
  if (!options.ignoreEos)
    generation.eos = endOfText(inference.model);
  generateText(inference, options.prompt, generation);
  return 0;
}

void polymoe::addGenerateCommand(CLI::App &app, Command &command) {
  auto options = std::make_shared<GenerateCommandOptions>();
  CLI::App *generate = app.add_subcommand(
      "generate", "Continues a text and prints what follows.");
  generate->footer("  moe-run generate run/ --prompt 'Once upon a time' "
                   "--temperature=0.8 --top-p=0.95 --seed=1\n"
                   "  moe-run generate run/ --prompt-tokens 5,17,3\n"
                   "\n"
                   "With --prompt-tokens no tokenizer is needed: ids go in and "
                   "come out, and no id ends the text.");
  addMachineOptions(*generate, options->machine);
  addFrozenWeights(*generate, options->machine);
  GenerateOptions &generation = options->generation;
  auto *prompts = generate->add_option_group("prompt");
  prompts->add_option("--prompt", options->prompt, "text to continue");
  prompts->add_option("--prompt-tokens", options->promptTokens,
                      "ids to continue, with commas");
  prompts->require_option(1);
  generate
      ->add_option("--max-tokens", generation.maxTokens, "new tokens at most")
      ->check(CLI::Range(int64_t(0), int64_t(1) << 20))
      ->capture_default_str();
  generate
      ->add_option("--temperature", generation.temperature,
                   "0: always the likeliest token; 1: as the model says")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  generate
      ->add_option("--top-p", generation.topP,
                   "sample from the fewest likeliest tokens that together have "
                   "this probability")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  generate
      ->add_option("--seed", generation.seed,
                   "the same seed draws the same text")
      ->capture_default_str();
  generate->add_flag("--no-cache", options->noCache,
                     "score the whole text anew for every token: slow, and the "
                     "same text");
  generate->add_flag("--ignore-eos", options->ignoreEos,
                     "go on after the end of the text");
  generate->callback([options, &command] {
    command = [options] { return runGenerate(*options); };
  });
}
