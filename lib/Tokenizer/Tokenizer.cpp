//===-- Tokenizer.cpp - text to token ids and back ------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Tokenizer/Tokenizer.h"

#include "AddedTokens.h"
#include "BPE.h"
#include "Components.h"
#include "TokenizerConfig.h"
#include "Unicode.h"

#include "moe/Runtime/Error.h"
#include "moe/Runtime/Files.h"
#include "moe/Runtime/Json.h"

#include <algorithm>
#include <mutex>

namespace polymoe {

using namespace tokenizer;

struct Tokenizer::Impl {
  explicit Impl(const JsonReader &config);

  std::unique_ptr<Normalizer> normalizer;
  std::unique_ptr<PreTokenizer> preTokenizer;
  BPE model;
  std::unique_ptr<PostProcessor> postProcessor;
  std::unique_ptr<Decoder> decoder;
  AddedTokens added;
  std::unordered_map<int32_t, std::string> modelTokens;
  int32_t size = 0;
  /// Guards the word cache and the stacks of the regular expressions.
  std::mutex mutex;

  /// The token as decoders expect it, or null.
  const std::string *tokenOf(int32_t id) const {
    if (const std::string *token = added.tokenOf(id))
      return token;
    auto found = modelTokens.find(id);
    return found == modelTokens.end() ? nullptr : &found->second;
  }
};

Tokenizer::Impl::Impl(const JsonReader &config) : model(config.at("model")) {
  config.allow({"version", "truncation", "padding", "added_tokens",
                "normalizer", "pre_tokenizer", "model", "post_processor",
                "decoder"});
  if (config.has("version") && config.text("version") != "1.0")
    config.fail("expected version 1.0, but got " + config.text("version"));
  if (config.isSet("normalizer"))
    normalizer = makeNormalizer(config.at("normalizer"));
  if (config.isSet("pre_tokenizer"))
    preTokenizer = makePreTokenizer(config.at("pre_tokenizer"));
  if (config.isSet("post_processor"))
    postProcessor = makePostProcessor(config.at("post_processor"));
  if (config.isSet("decoder"))
    decoder = makeDecoder(config.at("decoder"));
  if (config.isSet("added_tokens"))
    added = AddedTokens(config.at("added_tokens"), model.vocabulary(),
                        normalizer.get());

  modelTokens.reserve(model.vocabulary().size());
  for (const auto &[token, id] : model.vocabulary()) {
    modelTokens.emplace(id, token);
    size = std::max(size, id + 1);
  }
  for (const auto &[token, id] : added.all())
    size = std::max(size, id + 1);
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer &&) noexcept = default;
Tokenizer &Tokenizer::operator=(Tokenizer &&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::fromFile(const std::string &path) {
  nlohmann::json json = parseJson(readText(path), path);
  applyTokenizerConfig(json, std::filesystem::path(path).parent_path());
  return Tokenizer(std::make_unique<Impl>(JsonReader(json, path)));
}

Tokenizer Tokenizer::fromJson(std::string_view json, const std::string &name) {
  return Tokenizer(
      std::make_unique<Impl>(JsonReader(parseJson(json, name), name)));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text,
                                       bool addSpecialTokens) const {
  if (auto invalid = findInvalidUtf8(text))
    throw Error("cannot tokenize the text: expected UTF-8, but byte " +
                std::to_string(*invalid) + " is not");
  std::lock_guard<std::mutex> lock(impl->mutex);
  Pieces pieces = impl->added.split(text, impl->normalizer.get());
  if (impl->preTokenizer)
    impl->preTokenizer->apply(pieces);
  std::vector<int32_t> ids;
  for (const Piece &piece : pieces) {
    if (piece.isToken())
      ids.push_back(piece.token());
    else
      impl->model.encode(piece.text(), ids);
  }
  if (impl->postProcessor)
    ids = impl->postProcessor->apply(std::move(ids), addSpecialTokens);
  return ids;
}

std::string Tokenizer::decode(const std::vector<int32_t> &ids,
                              bool skipSpecial) const {
  std::lock_guard<std::mutex> lock(impl->mutex);
  std::vector<std::string> tokens;
  tokens.reserve(ids.size());
  for (int32_t id : ids) {
    const std::string *token = impl->tokenOf(id);
    if (token && !(skipSpecial && impl->added.isSpecial(*token)))
      tokens.push_back(*token);
  }
  if (impl->decoder)
    impl->decoder->apply(tokens);
  std::string text;
  for (size_t i = 0; i < tokens.size(); ++i) {
    // Without a decoder nobody knows where words end.
    if (i > 0 && !impl->decoder)
      text += ' ';
    text += tokens[i];
  }
  return text;
}

int32_t Tokenizer::vocabularySize() const { return impl->size; }

bool Tokenizer::isSpecial(int32_t id) const {
  const std::string *token = impl->tokenOf(id);
  return token && impl->added.isSpecial(*token);
}

} // namespace polymoe
