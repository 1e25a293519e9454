//===-- PostProcessors.cpp - special tokens around a text -----------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Components.h"

#include <variant>

namespace polymoe::tokenizer {

namespace {
/// ByteLevel only corrects offsets into the text.
struct NoChange : PostProcessor {
  std::vector<int32_t> apply(std::vector<int32_t> ids, bool) const override {
    return ids;
  }
};

struct PostProcessorSequence : PostProcessor {
  std::vector<std::unique_ptr<PostProcessor>> stages;

  std::vector<int32_t> apply(std::vector<int32_t> ids,
                             bool addSpecialTokens) const override {
    for (const auto &stage : stages)
      ids = stage->apply(std::move(ids), addSpecialTokens);
    return ids;
  }
};

struct Template : PostProcessor {
  struct TheText {};
  /// The text, or the ids of a special token.
  using Part = std::variant<TheText, std::vector<int32_t>>;
  std::vector<Part> parts;

  std::vector<int32_t> apply(std::vector<int32_t> ids,
                             bool addSpecialTokens) const override {
    std::vector<int32_t> result;
    for (const Part &part : parts) {
      if (const auto *special = std::get_if<std::vector<int32_t>>(&part)) {
        if (addSpecialTokens)
          result.insert(result.end(), special->begin(), special->end());
      } else {
        result.insert(result.end(), ids.begin(), ids.end());
      }
    }
    return result;
  }
};
} // namespace

static std::unique_ptr<PostProcessor> makeTemplate(const JsonReader &config) {
  // "pair" is for two texts at once; here there is always one.
  config.allow({"type", "single", "pair", "special_tokens"});
  auto result = std::make_unique<Template>();
  for (const JsonReader &part : config.at("single").elements()) {
    part.allow({"Sequence", "SpecialToken"});
    if (part.has("Sequence")) {
      if (part.at("Sequence").text("id") != "A")
        part.fail("expected the sequence A in a template for one text");
      result->parts.emplace_back(Template::TheText());
      continue;
    }
    std::string name = part.at("SpecialToken").text("id");
    JsonReader specials = config.at("special_tokens");
    if (!specials.has(name))
      part.fail("special token '" + name + "' is not among the special_tokens");
    std::vector<int32_t> ids;
    for (const JsonReader &id : specials.at(name).at("ids").elements())
      ids.push_back(id.integer<int32_t>());
    result->parts.emplace_back(std::move(ids));
  }
  return result;
}

std::unique_ptr<PostProcessor> makePostProcessor(const JsonReader &config) {
  std::string type = config.text("type");
  if (isOfType(config, "Sequence", {"type", "processors"})) {
    auto sequence = std::make_unique<PostProcessorSequence>();
    int templates = 0;
    for (const JsonReader &stage : config.at("processors").elements()) {
      // Behind one template `tokenizers` sees several texts, not one.
      if (stage.text("type") == "TemplateProcessing" && ++templates > 1)
        stage.fail("a second TemplateProcessing is not supported");
      sequence->stages.push_back(makePostProcessor(stage));
    }
    return sequence;
  }
  if (isOfType(config, "ByteLevel",
               {"type", "add_prefix_space", "trim_offsets", "use_regex"}))
    return std::make_unique<NoChange>();
  if (type == "TemplateProcessing")
    return makeTemplate(config);
  config.fail("post-processor '" + type + "' is not supported");
}

} // namespace polymoe::tokenizer
