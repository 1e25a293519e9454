//===-- Pattern.h - what splits and replaces look for -----------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_LIB_TOKENIZER_PATTERN_H
#define MOE_LIB_TOKENIZER_PATTERN_H

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace polymoe::tokenizer {

/// Part of a text, either found by a pattern or lying between two finds.
struct Span {
  size_t begin;
  size_t end;
  bool isMatch;
};

/// A literal or a regular expression.
class Pattern {
public:
  /// A regular expression in the language of Oniguruma, which `tokenizers`
  /// uses. Throws an Error for what PCRE2 would understand otherwise.
  static Pattern oniguruma(std::string_view regex);
  /// One in the language of PCRE2.
  static Pattern pcre(const std::string &regex);
  static Pattern literal(std::string text);

  Pattern(Pattern &&) noexcept;
  Pattern &operator=(Pattern &&) noexcept;
  ~Pattern();

  /// Covers valid UTF-8 with spans, in order. A match may be empty, but not
  /// where another one ends.
  std::vector<Span> split(std::string_view text) const;

private:
  struct Regex;
  Pattern();
  std::string text;
  std::unique_ptr<Regex> regex;
};

/// Covers `text` with spans: every character with the property is a match.
std::vector<Span> splitAt(std::string_view text, bool (*hasProperty)(char32_t));

/// Rewrites a regular expression of Oniguruma for PCRE2.
std::string translateRegex(std::string_view regex);

} // namespace polymoe::tokenizer

#endif // MOE_LIB_TOKENIZER_PATTERN_H
