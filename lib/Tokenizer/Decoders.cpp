//===-- Decoders.cpp - from tokens to text --------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Components.h"
#include "Unicode.h"

#include <cctype>
#include <cstdlib>

namespace polymoe::tokenizer {

namespace {
using Tokens = std::vector<std::string>;

struct ByteLevelDecoder : Decoder {
  void apply(Tokens &tokens) const override {
    std::string bytes;
    for (const std::string &token : tokens) {
      size_t before = bytes.size();
      for (size_t at = 0; at < token.size();) {
        auto byte = letterToByte(nextCharacter(token, at));
        // An added token is not in the alphabet of bytes: it is text already.
        if (!byte) {
          bytes.resize(before);
          bytes += token;
          break;
        }
        bytes.push_back(static_cast<char>(*byte));
      }
    }
    tokens = {replaceInvalidUtf8(bytes)};
  }
};

struct ByteFallback : Decoder {
  /// The byte that a token like <0xC3> stands for.
  static std::optional<unsigned char> byteOf(const std::string &token) {
    auto isHex = [](char c) {
      return std::isxdigit(static_cast<unsigned char>(c)) != 0;
    };
    // Rust's number parser takes a plus sign, so <0x+F> is a byte as well.
    if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>' ||
        !isHex(token[4]) || !(isHex(token[3]) || token[3] == '+'))
      return std::nullopt;
    return static_cast<unsigned char>(
        std::strtoul(token.substr(3, 2).c_str(), nullptr, 16));
  }

  void apply(Tokens &tokens) const override {
    Tokens result;
    std::string run;
    auto endRun = [&] {
      // One wrong byte spoils the run, so says the model's definition.
      if (!run.empty() && findInvalidUtf8(run))
        result.insert(result.end(), run.size(), "\uFFFD");
      else if (!run.empty())
        result.push_back(run);
      run.clear();
    };
    for (std::string &token : tokens) {
      if (auto byte = byteOf(token)) {
        run.push_back(static_cast<char>(*byte));
        continue;
      }
      endRun();
      result.push_back(std::move(token));
    }
    endRun();
    tokens = std::move(result);
  }
};

struct Fuse : Decoder {
  void apply(Tokens &tokens) const override {
    std::string all;
    for (const std::string &token : tokens)
      all += token;
    tokens = {std::move(all)};
  }
};

/// `text` with `content` in place of every match.
std::string replaceMatches(const std::string &text, const Pattern &pattern,
                           std::string_view content) {
  std::string changed;
  for (const Span &span : pattern.split(text))
    if (span.isMatch)
      changed += content;
    else
      changed.append(text, span.begin, span.end - span.begin);
  return changed;
}

struct StripDecoder : Decoder {
  std::string content;
  int32_t start;
  int32_t stop;

  StripDecoder(char32_t character, int32_t start, int32_t stop)
      : start(start), stop(stop) {
    appendCharacter(content, character);
  }

  void apply(Tokens &tokens) const override {
    for (std::string &token : tokens) {
      std::string_view rest = token;
      for (int32_t i = 0; i < start && rest.starts_with(content); ++i)
        rest.remove_prefix(content.size());
      for (int32_t i = 0; i < stop && rest.ends_with(content); ++i)
        rest.remove_suffix(content.size());
      token = std::string(rest);
    }
  }
};

struct ReplaceDecoder : Decoder {
  Pattern pattern;
  std::string content;

  ReplaceDecoder(Pattern pattern, std::string content)
      : pattern(std::move(pattern)), content(std::move(content)) {}

  void apply(Tokens &tokens) const override {
    for (std::string &token : tokens)
      token = replaceMatches(token, pattern, content);
  }
};

struct MetaspaceDecoder : Decoder {
  MetaspaceOptions options;
  Pattern replacement;

  explicit MetaspaceDecoder(MetaspaceOptions options)
      : options(std::move(options)),
        replacement(Pattern::literal(this->options.replacement)) {}

  void apply(Tokens &tokens) const override {
    for (size_t i = 0; i < tokens.size(); ++i) {
      bool drops = i == 0 && options.prepend != PrependScheme::Never;
      tokens[i] = replaceMatches(tokens[i], replacement, drops ? "" : " ");
    }
  }
};

struct BPEDecoder : Decoder {
  Pattern suffix;

  explicit BPEDecoder(std::string suffix)
      : suffix(Pattern::literal(std::move(suffix))) {}

  void apply(Tokens &tokens) const override {
    for (size_t i = 0; i < tokens.size(); ++i)
      tokens[i] =
          replaceMatches(tokens[i], suffix, i + 1 < tokens.size() ? " " : "");
  }
};
} // namespace

std::unique_ptr<Decoder> makeDecoder(const JsonReader &config) {
  std::string type = config.text("type");
  if (isOfType(config, "Sequence", {"type", "decoders"}))
    return std::make_unique<Sequence<Decoder, Tokens>>(config.at("decoders"),
                                                       makeDecoder);
  if (isOfType(config, "ByteLevel",
               {"type", "add_prefix_space", "trim_offsets", "use_regex"}))
    return std::make_unique<ByteLevelDecoder>();
  if (isOfType(config, "ByteFallback"))
    return std::make_unique<ByteFallback>();
  if (isOfType(config, "Fuse"))
    return std::make_unique<Fuse>();
  if (isOfType(config, "Strip", {"type", "content", "start", "stop"}))
    return std::make_unique<StripDecoder>(readCharacter(config.at("content")),
                                          config.at("start").integer<int32_t>(),
                                          config.at("stop").integer<int32_t>());
  if (isOfType(config, "Replace", {"type", "pattern", "content"}))
    return std::make_unique<ReplaceDecoder>(makePattern(config.at("pattern")),
                                            config.text("content"));
  if (type == "Metaspace")
    return std::make_unique<MetaspaceDecoder>(MetaspaceOptions::read(config));
  if (isOfType(config, "BPEDecoder", {"type", "suffix"}))
    return std::make_unique<BPEDecoder>(config.text("suffix"));
  config.fail("decoder '" + type + "' is not supported");
}

} // namespace polymoe::tokenizer
