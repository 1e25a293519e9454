//===-- Normalizers.cpp - changes before the split ------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Components.h"
#include "Unicode.h"

#include "moe/Runtime/Error.h"

#include <map>

namespace polymoe::tokenizer {

char32_t readCharacter(const JsonReader &config) {
  std::string content = config.text();
  size_t at = 0;
  if (content.empty() || characterLength(content[0]) != content.size())
    config.expected("one character");
  return nextCharacter(content, at);
}

bool isOfType(const JsonReader &config, const char *type,
              std::initializer_list<const char *> keys) {
  if (config.text("type") != type)
    return false;
  config.allow(keys);
  return true;
}

Pattern makePattern(const JsonReader &config) {
  config.allow({"String", "Regex"});
  if (config.has("String") == config.has("Regex"))
    config.fail("expected either 'String' or 'Regex'");
  if (config.has("String"))
    return Pattern::literal(config.text("String"));
  try {
    return Pattern::oniguruma(config.text("Regex"));
  } catch (const Error &error) {
    config.fail(error.what());
  }
}

std::string toLetters(std::string_view text) {
  std::string letters;
  letters.reserve(2 * text.size());
  for (char byte : text)
    appendCharacter(letters, byteToLetter(static_cast<unsigned char>(byte)));
  return letters;
}

namespace {
struct UnicodeNormalizer : Normalizer {
  Normalization form;

  explicit UnicodeNormalizer(Normalization form) : form(form) {}

  void apply(Piece &piece) const override {
    piece.transform(
        [&](std::string_view text) { return normalize(text, form); });
  }
};

struct Lowercase : Normalizer {
  void apply(Piece &piece) const override { piece.transform(lowercase); }
};

struct ByteLevelNormalizer : Normalizer {
  void apply(Piece &piece) const override { piece.transform(toLetters); }
};

struct Prepend : Normalizer {
  std::string prefix;

  explicit Prepend(std::string prefix) : prefix(std::move(prefix)) {}

  void apply(Piece &piece) const override { piece.prepend(prefix); }
};

struct Replace : Normalizer {
  Pattern pattern;
  std::string content;

  Replace(Pattern pattern, std::string content)
      : pattern(std::move(pattern)), content(std::move(content)) {}

  void apply(Piece &piece) const override {
    piece.replace(pattern.split(piece.text()), content);
  }
};

struct Strip : Normalizer {
  bool left;
  bool right;

  Strip(bool left, bool right) : left(left), right(right) {}

  void apply(Piece &piece) const override { piece.strip(left, right); }
};
} // namespace

std::unique_ptr<Normalizer> makeNormalizer(const JsonReader &config) {
  std::string type = config.text("type");
  if (isOfType(config, "Sequence", {"type", "normalizers"}))
    return std::make_unique<Sequence<Normalizer, Piece>>(
        config.at("normalizers"), makeNormalizer);
  if (isOfType(config, "Prepend", {"type", "prepend"}))
    return std::make_unique<Prepend>(config.text("prepend"));
  if (isOfType(config, "Replace", {"type", "pattern", "content"}))
    return std::make_unique<Replace>(makePattern(config.at("pattern")),
                                     config.text("content"));
  if (isOfType(config, "Strip", {"type", "strip_left", "strip_right"}))
    return std::make_unique<Strip>(config.flag("strip_left"),
                                   config.flag("strip_right"));

  static const std::map<std::string, Normalization> forms = {
      {"NFC", Normalization::NFC},
      {"NFD", Normalization::NFD},
      {"NFKC", Normalization::NFKC},
      {"NFKD", Normalization::NFKD}};
  if (auto form = forms.find(type); form != forms.end()) {
    config.allow({"type"});
    return std::make_unique<UnicodeNormalizer>(form->second);
  }
  if (isOfType(config, "Lowercase"))
    return std::make_unique<Lowercase>();
  if (isOfType(config, "ByteLevel"))
    return std::make_unique<ByteLevelNormalizer>();
  config.fail("normalizer '" + type + "' is not supported");
}

} // namespace polymoe::tokenizer
