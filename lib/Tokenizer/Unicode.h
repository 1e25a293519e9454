//===-- Unicode.h - UTF-8 and character properties --------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The properties are those that Rust's `char` and `regex` give, since that is
// what `tokenizers` is written in.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_LIB_TOKENIZER_UNICODE_H
#define MOE_LIB_TOKENIZER_UNICODE_H

#include <unicode/uniset.h>

#include <cstddef>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace polymoe::tokenizer {

/// Bytes of the character whose first byte is `lead`, in valid UTF-8.
inline size_t characterLength(char lead) {
  auto byte = static_cast<unsigned char>(lead);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

/// The character at `at` of valid UTF-8; moves `at` behind it.
char32_t nextCharacter(std::string_view text, size_t &at);
/// The character that ends at `end` > 0; moves `end` to its first byte.
char32_t previousCharacter(std::string_view text, size_t &end);
void appendCharacter(std::string &text, char32_t character);

/// The offset of the first byte that is not part of valid UTF-8.
std::optional<size_t> findInvalidUtf8(std::string_view text);
/// `bytes` with every maximal ill-formed part replaced by one U+FFFD.
std::string replaceInvalidUtf8(std::string_view bytes);

/// Characters that Unicode got after version 14, which is what PCRE2 10.42
/// knows, as `tokenizers` sees them. `property` is a general category, a
/// script, "Alphabetic" for those that no category makes alphabetic, or
/// "numeric" for numbers that are none to its regular expressions.
struct YoungCharacters {
  const char *property;
  char32_t first, last;
};
std::span<const YoungCharacters> youngCharacters();
/// Whether a regular expression finds characters with this property of
/// theirs by the name `asked`: "L" has "Lu", ...
bool hasProperty(std::string_view property, std::string_view asked);
/// Those that have one of these properties.
icu::UnicodeSet youngWith(std::initializer_list<std::string_view> names);

/// Capitals among them, and how far their small letters are from them.
struct YoungCapitals {
  char32_t first, last;
  int32_t distance;
};
std::span<const YoungCapitals> youngCapitals();

bool isSpace(char32_t character);
bool isNumeric(char32_t character);
bool isPunctuation(char32_t character);
/// What `\w` matches.
bool isWord(char32_t character);

enum class Normalization { NFC, NFD, NFKC, NFKD };
std::string normalize(std::string_view text, Normalization form);
/// Character by character, without regard to context.
std::string lowercase(std::string_view text);

/// GPT-2's alphabet, in which each byte is a printable character.
char32_t byteToLetter(unsigned char byte);
/// The inverse; nothing for a character that is not in the alphabet.
std::optional<unsigned char> letterToByte(char32_t letter);

} // namespace polymoe::tokenizer

#endif // MOE_LIB_TOKENIZER_UNICODE_H
