//===-- PreTokenizers.cpp - splits text into words ------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Components.h"
#include "Unicode.h"

namespace polymoe::tokenizer {

MetaspaceOptions MetaspaceOptions::read(const JsonReader &config) {
  // "str_rep" repeats the replacement in old files.
  config.allow({"type", "replacement", "add_prefix_space", "prepend_scheme",
                "split", "str_rep"});
  MetaspaceOptions options;
  appendCharacter(options.replacement, readCharacter(config.at("replacement")));
  options.split = config.flag("split", true);
  options.prepend = PrependScheme::Always;
  if (config.isSet("prepend_scheme"))
    options.prepend = config.at("prepend_scheme")
                          .oneOf<PrependScheme>({
                              {"always", PrependScheme::Always},
                              {"first", PrependScheme::First},
                              {"never", PrependScheme::Never},
                          });
  // Files from before there was a scheme say it with a flag.
  if (!config.flag("add_prefix_space", true)) {
    if (config.isSet("prepend_scheme") &&
        options.prepend != PrependScheme::Never)
      config.fail("'add_prefix_space' contradicts 'prepend_scheme'");
    options.prepend = PrependScheme::Never;
  }
  return options;
}

namespace {
/// A pre-tokeniser that treats each piece of text alone.
struct Splitter : PreTokenizer {
  void apply(Pieces &pieces) const override {
    Pieces parts;
    parts.reserve(pieces.size());
    for (Piece &piece : pieces) {
      if (piece.isToken())
        parts.push_back(std::move(piece));
      else
        split(parts, piece);
    }
    pieces = std::move(parts);
  }

  /// Adds the parts of `piece`, which is text and not needed any more.
  virtual void split(Pieces &parts, Piece &piece) const = 0;
};

struct PatternSplit : Splitter {
  Pattern pattern;
  SplitBehavior behavior;
  bool invert;

  PatternSplit(Pattern pattern, SplitBehavior behavior, bool invert)
      : pattern(std::move(pattern)), behavior(behavior), invert(invert) {}

  void split(Pieces &parts, Piece &piece) const override {
    std::vector<Span> spans = pattern.split(piece.text());
    if (invert)
      for (Span &span : spans)
        span.isMatch = !span.isMatch;
    splitInto(parts, piece, std::move(spans), behavior);
  }
};

struct PropertySplit : Splitter {
  bool (*hasProperty)(char32_t);
  SplitBehavior behavior;

  PropertySplit(bool (*hasProperty)(char32_t), SplitBehavior behavior)
      : hasProperty(hasProperty), behavior(behavior) {}

  void split(Pieces &parts, Piece &piece) const override {
    splitInto(parts, piece, splitAt(piece.text(), hasProperty), behavior);
  }
};

struct ByteLevel : Splitter {
  bool addPrefixSpace;
  bool useRegex;
  Pattern pattern = Pattern::oniguruma(
      R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+)"
      R"(|\s+(?!\S)|\s+)");

  ByteLevel(bool addPrefixSpace, bool useRegex)
      : addPrefixSpace(addPrefixSpace), useRegex(useRegex) {}

  void split(Pieces &parts, Piece &piece) const override {
    if (addPrefixSpace && !piece.text().starts_with(' '))
      piece.prepend(" ");
    size_t first = parts.size();
    if (useRegex)
      splitInto(parts, piece, pattern.split(piece.text()),
                SplitBehavior::Isolated);
    else
      parts.push_back(std::move(piece));
    for (size_t i = first; i < parts.size(); ++i)
      parts[i].transform(toLetters);
  }
};

struct Metaspace : Splitter {
  MetaspaceOptions options;
  Pattern space = Pattern::literal(" ");
  Pattern replacement;

  explicit Metaspace(MetaspaceOptions options)
      : options(std::move(options)),
        replacement(Pattern::literal(this->options.replacement)) {}

  void split(Pieces &parts, Piece &piece) const override {
    piece.replace(space.split(piece.text()), options.replacement);
    bool prepends =
        options.prepend == PrependScheme::Always ||
        (options.prepend == PrependScheme::First && piece.beginsTheText());
    if (prepends && !piece.text().starts_with(options.replacement))
      piece.prepend(options.replacement);
    if (options.split)
      splitInto(parts, piece, replacement.split(piece.text()),
                SplitBehavior::MergedWithNext);
    else
      parts.push_back(std::move(piece));
  }
};
} // namespace

static SplitBehavior readBehavior(const JsonReader &config) {
  return config.at("behavior")
      .oneOf<SplitBehavior>({
          {"Removed", SplitBehavior::Removed},
          {"Isolated", SplitBehavior::Isolated},
          {"MergedWithPrevious", SplitBehavior::MergedWithPrevious},
          {"MergedWithNext", SplitBehavior::MergedWithNext},
          {"Contiguous", SplitBehavior::Contiguous},
      });
}

std::unique_ptr<PreTokenizer> makePreTokenizer(const JsonReader &config) {
  std::string type = config.text("type");
  if (isOfType(config, "Sequence", {"type", "pretokenizers"}))
    return std::make_unique<Sequence<PreTokenizer, Pieces>>(
        config.at("pretokenizers"), makePreTokenizer);
  if (isOfType(config, "Split", {"type", "pattern", "behavior", "invert"}))
    return std::make_unique<PatternSplit>(makePattern(config.at("pattern")),
                                          readBehavior(config),
                                          config.flag("invert"));
  if (isOfType(config, "ByteLevel",
               {"type", "add_prefix_space", "trim_offsets", "use_regex"})) {
    // Trimming concerns offsets into the text, which nobody asks for here.
    return std::make_unique<ByteLevel>(config.flag("add_prefix_space"),
                                       config.flag("use_regex", true));
  }
  if (type == "Metaspace")
    return std::make_unique<Metaspace>(MetaspaceOptions::read(config));
  if (isOfType(config, "Digits", {"type", "individual_digits"}))
    return std::make_unique<PropertySplit>(isNumeric,
                                           config.flag("individual_digits")
                                               ? SplitBehavior::Isolated
                                               : SplitBehavior::Contiguous);
  if (isOfType(config, "Punctuation", {"type", "behavior"}))
    return std::make_unique<PropertySplit>(
        isPunctuation, config.isSet("behavior") ? readBehavior(config)
                                                : SplitBehavior::Isolated);
  if (isOfType(config, "Whitespace")) {
    // \w and \s as the Rust crate `regex` has them.
    return std::make_unique<PatternSplit>(
        Pattern::pcre(
            R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]+)"
            R"(|[^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}\p{WSpace}]+)"),
        SplitBehavior::Removed, /*invert=*/true);
  }
  if (isOfType(config, "WhitespaceSplit"))
    return std::make_unique<PropertySplit>(isSpace, SplitBehavior::Removed);
  config.fail("pre-tokenizer '" + type + "' is not supported");
}

} // namespace polymoe::tokenizer
