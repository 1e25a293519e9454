//===-- Generate.cpp - continues texts ------------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Commands.h"
#include "Model.h"

#include "moe/Runtime/Error.h"
#include "moe/Runtime/Files.h"
#include "moe/Runtime/Generate.h"
#include "moe/Runtime/Json.h"
#include "moe/Tokenizer/Tokenizer.h"

#include <algorithm>
#include <charconv>
#include <iostream>
#include <limits>
#include <optional>
#include <sstream>
#include <utility>

using namespace polymoe;

namespace {
struct GenerateCommandOptions {
  MachineOptions machine;
  GenerateOptions generation;
  std::vector<std::string> prompts, promptTokens;
  std::string promptsFile;
  std::optional<int64_t> context;
  bool noCache = false;
  bool ignoreEos = false;
  bool jsonLines = false;
};

/// What is asked for: texts, or ids without a tokenizer.
struct Request {
  /// With tokens if these are ids.
  std::vector<Prompt> prompts;
  /// As many as prompts, or none if these are ids.
  std::vector<std::string> texts;
  bool isText = false;
};
} // namespace

/// "5,17,3".
static std::vector<int32_t> parseTokens(const std::string &name,
                                        const std::string &text) {
  std::vector<int32_t> tokens;
  const char *at = text.data(), *end = at + text.size();
  while (true) {
    int32_t token;
    auto [next, error] = std::from_chars(at, end, token);
    if (error != std::errc() || (next != end && *next != ','))
      fail(name, ": expected ids with commas between them, but got '", text,
           "'");
    tokens.push_back(token);
    if (next == end)
      return tokens;
    at = next + 1;
  }
}

/// Adds the prompt of a line, {"prompt": "text"} or {"tokens": [ids]}.
static void addLine(const std::string &name, const std::string &line,
                    Request &request) {
  auto refuse = [&](const std::string &got) {
    fail(name,
         ": expected {\"prompt\": \"text\"} or {\"tokens\": [ids]}, but got ",
         got);
  };
  if (line.find_first_not_of(" \t\r") == std::string::npos)
    refuse("an empty line");
  const std::string quoted = shortened(line, 200);
  const nlohmann::json json = tryParseJson(line).value_or(nlohmann::json());
  // Rendering messages takes the model's chat template, which is a program in
  // the language Jinja; here there is no interpreter of it.
  if (json.is_object() && json.contains("messages") &&
      !json.contains("prompt") && !json.contains("tokens"))
    refuse("chat messages, which a program in Jinja renders, the model's chat "
           "template; tokenizer.apply_chat_template(messages, "
           "add_generation_prompt=True) of transformers returns the ids");
  if (!json.is_object() || json.contains("prompt") == json.contains("tokens"))
    refuse(json.is_object() && json.contains("prompt") ? "both" : quoted);
  const bool isText = json.contains("prompt");
  if (!request.prompts.empty() && isText != request.isText)
    fail(name, ": expected ", request.isText ? "text" : "ids", ", as in ",
         request.prompts[0].name, ", but got ", isText ? "text" : "ids");
  request.isText = isText;
  const nlohmann::json &value = json[isText ? "prompt" : "tokens"];
  Prompt prompt{name, {}};
  if (isText) {
    if (!value.is_string())
      refuse(quoted);
    request.texts.push_back(value.get<std::string>());
  } else {
    if (!value.is_array())
      refuse(quoted);
    for (const nlohmann::json &id : value) {
      if (!id.is_number_integer())
        refuse(quoted);
      // One that is too large for any vocabulary stays so.
      prompt.tokens.push_back(static_cast<int32_t>(std::clamp<int64_t>(
          id.get<int64_t>(), -1, std::numeric_limits<int32_t>::max())));
    }
  }
  request.prompts.push_back(std::move(prompt));
}

static Request readRequest(const GenerateCommandOptions &options) {
  Request request;
  auto nameOf = [](const char *option, size_t i, size_t count) {
    return count == 1 ? std::string(option) : concat(option, " number ", i + 1);
  };
  if (!options.promptsFile.empty()) {
    std::istringstream lines(readText(options.promptsFile));
    std::string line;
    for (int64_t number = 1; std::getline(lines, line); ++number)
      addLine(concat(options.promptsFile, ":", number), line, request);
    if (request.prompts.empty())
      fail(options.promptsFile, ": expected a prompt in every line, but the "
                                "file is empty");
    return request;
  }
  request.isText = !options.prompts.empty();
  request.texts = options.prompts;
  for (size_t i = 0; i < options.prompts.size(); ++i)
    request.prompts.push_back(
        {nameOf("--prompt", i, options.prompts.size()), {}});
  for (size_t i = 0; i < options.promptTokens.size(); ++i) {
    std::string name =
        nameOf("--prompt-tokens", i, options.promptTokens.size());
    request.prompts.push_back(
        {name, parseTokens(name, options.promptTokens[i])});
  }
  return request;
}

/// The ids that end a text: those of generation_config.json, else those of the
/// model's configuration.
static std::vector<int32_t> endOfText(Model &model) {
  std::vector<int32_t> ids;
  auto add = [&](const nlohmann::json &id) {
    if (id.is_number_integer())
      ids.push_back(id.get<int32_t>());
  };
  for (const nlohmann::json &config :
       {model.generationConfiguration(), model.configuration()}) {
    auto eos = config.find("eos_token_id");
    if (eos == config.end() || eos->is_null())
      continue;
    if (eos->is_array())
      for (const auto &id : *eos)
        add(id);
    else
      add(*eos);
    break;
  }
  return ids;
}

namespace {
/// Prints texts in the order of their prompts: the only one as it comes,
/// several when they are whole.
class Printer {
public:
  Printer(const Request &request, const GenerateOptions &options,
          const Tokenizer *tokenizer, bool jsonLines)
      : request(request), options(options), tokenizer(tokenizer),
        jsonLines(jsonLines), waiting(request.prompts.size()) {
    if (tokenizer && !jsonLines && request.prompts.size() == 1)
      stream.emplace(*tokenizer, /*skipSpecial=*/true);
  }

  void push(int32_t token) {
    if (!stream || llvm::is_contained(options.eos, token))
      return;
    std::cout << stream->push(token);
    flushOutput();
  }

  void end(size_t prompt, const GeneratedText &text) {
    waiting[prompt] = text;
    for (; next < waiting.size() && waiting[next]; ++next) {
      print(next, *waiting[next]);
      waiting[next].reset();
    }
    flushOutput();
  }

private:
  std::string textOf(const GeneratedText &text) const {
    std::vector<int32_t> tokens = text.tokens;
    if (text.end == TextEnd::Eos)
      tokens.pop_back();
    return tokenizer->decode(tokens, /*skipSpecial=*/true);
  }

  void print(size_t prompt, const GeneratedText &text) {
    if (jsonLines) {
      nlohmann::ordered_json line = {
          {"index", prompt},
          {"prompt_tokens", request.prompts[prompt].tokens.size()},
          {"tokens", text.tokens}};
      if (tokenizer)
        line["text"] = textOf(text);
      line["end"] = nameOf(text.end);
      std::cout << line.dump() << "\n";
    } else if (stream) {
      std::cout << stream->finish() << "\n";
    } else if (tokenizer) {
      std::cout << (prompt ? "\n" : "") << "==> "
                << request.prompts[prompt].name << " <==\n"
                << textOf(text) << "\n";
    } else {
      for (size_t i = 0; i < text.tokens.size(); ++i)
        std::cout << (i ? "," : "") << text.tokens[i];
      std::cout << "\n";
    }
  }

  const Request &request;
  const GenerateOptions &options;
  const Tokenizer *tokenizer;
  bool jsonLines;
  /// Those that ended before an earlier one.
  std::vector<std::optional<GeneratedText>> waiting;
  size_t next = 0;
  std::optional<TextStream> stream;
};

/// Counts new tokens; those that a text ends without count as done.
class TokenProgress {
public:
  TokenProgress(size_t texts, int64_t maxTokens) : left(texts, maxTokens) {
    // A single text shows by itself how far it is.
    if (texts > 1)
      bar.emplace("generating", "token",
                  static_cast<int64_t>(texts) * maxTokens, progressOptions());
    if (bar)
      bar->start(0);
  }
  void count(size_t prompt) {
    --left[prompt];
    ++tokens;
    update(1);
  }
  void end(size_t prompt) { update(std::exchange(left[prompt], 0)); }
  void clear() {
    if (bar)
      bar->clear();
  }

private:
  void update(int64_t further) {
    done += further;
    if (bar)
      bar->update(done, tokens);
  }

  std::vector<int64_t> left;
  int64_t done = 0, tokens = 0;
  std::optional<Progress> bar;
};
} // namespace

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
  Request request = readRequest(options);
  Inference inference(options.machine);
  Executor &executor = inference.executor;
  // Few lengths, since each is a program to compile.
  if (options.noCache)
    executor.generator =
        std::make_shared<RescoringGenerator>(*executor.scorer, /*padTo=*/64);
  checkGates(*inference.module);
  generation.context = options.context.value_or(inference.model.contextLimit());
  std::optional<Tokenizer> tokenizer;
  if (request.isText) {
    tokenizer = Tokenizer::fromFile(inference.model.tokenizer().string());
    for (size_t i = 0; i < request.texts.size(); ++i)
      request.prompts[i].tokens = tokenizer->encode(request.texts[i], true);
    if (!options.ignoreEos)
      generation.eos = endOfText(inference.model);
  }
  Printer printer(request, generation, tokenizer ? &*tokenizer : nullptr,
                  options.jsonLines);
  TokenProgress progress(request.prompts.size(), generation.maxTokens);
  generate(*executor.generator, request.prompts, inference.model.vocabulary(),
           generation,
           {.onToken =
                [&](size_t prompt, int32_t token) {
                  printer.push(token);
                  progress.count(prompt);
                  return true;
                },
            .onEnd =
                [&](size_t prompt, const GeneratedText &text) {
                  progress.clear();
                  printer.end(prompt, text);
                  progress.end(prompt);
                }});
  return 0;
}

void polymoe::addGenerateCommand(CLI::App &app, Command &command) {
  auto options = std::make_shared<GenerateCommandOptions>();
  CLI::App *generate = app.add_subcommand(
      "generate", "Continues one or several texts and prints what follows.");
  generate->footer(
      "  moe-run generate run/ --prompt 'Once upon a time' --temperature=0.8 "
      "--top-p=0.95 --seed=1\n"
      "  moe-run generate run/ --prompt-tokens 5,17,3\n"
      "  moe-run generate run/ --prompts prompts.jsonl --json-lines > "
      "texts.jsonl\n"
      "\n"
      "With --prompt-tokens no tokenizer is needed: ids go in and come out, "
      "and "
      "no id ends the text.\n"
      "\n"
      "Several prompts make the texts that each makes alone, faster: the "
      "weights "
      "are read once for a token of all. One text is printed as it comes; "
      "several are printed when they are whole, in the order of their prompts, "
      "under a line '==> PROMPT <==' (ids: a line each). Prompt i, counted "
      "from "
      "0, draws with seed + i.\n"
      "\n"
      "A line of --prompts is {\"prompt\": \"text\"} or {\"tokens\": [5, 17, "
      "3]}, the same for all lines; what else is in it is passed over. A line "
      "of "
      "--json-lines is {\"index\", \"prompt_tokens\": how many, \"tokens\": "
      "the "
      "new ones, \"text\", \"end\": \"eos\", \"max-tokens\" or \"context\"}.");
  addMachineOptions(*generate, options->machine);
  addFrozenWeights(*generate, options->machine);
  GenerateOptions &generation = options->generation;
  auto *prompts = generate->add_option_group("prompt");
  prompts
      ->add_option("--prompt", options->prompts,
                   "text to continue; may be repeated")
      ->type_size(1)
      ->allow_extra_args(false);
  prompts
      ->add_option("--prompt-tokens", options->promptTokens,
                   "ids to continue, with commas; may be repeated")
      ->type_size(1)
      ->allow_extra_args(false);
  prompts->add_option("--prompts", options->promptsFile,
                      "file of prompts in JSON, a line each");
  prompts->require_option(1);
  generate
      ->add_option("--batch", generation.batch,
                   "texts that grow at the same time; each takes memory for "
                   "keys and values")
      ->check(CLI::Range(int64_t(1), int64_t(1) << 20))
      ->capture_default_str();
  generate
      ->add_option("--context", options->context,
                   "tokens of a prompt and its text at most, 0 for no limit "
                   "(default: max_position_embeddings of the model)")
      ->check(CLI::NonNegativeNumber);
  generate->add_flag("--json-lines", options->jsonLines,
                     "print a line of JSON for every text");
  generate
      ->add_option("--max-tokens", generation.maxTokens,
                   "new tokens of a text at most")
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
                   "the same seed draws the same texts")
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
