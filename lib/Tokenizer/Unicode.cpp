//===-- Unicode.cpp - UTF-8 and character properties ----------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Unicode.h"

#include "moe/Runtime/Error.h"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/stringpiece.h>
#include <unicode/uchar.h>

#include <algorithm>
#include <array>

namespace polymoe::tokenizer {

char32_t nextCharacter(std::string_view text, size_t &at) {
  auto byte = [&](size_t i) {
    return static_cast<char32_t>(static_cast<unsigned char>(text[at + i]));
  };
  size_t length = characterLength(text[at]);
  char32_t character = 0;
  switch (length) {
  case 1:
    character = byte(0);
    break;
  case 2:
    character = (byte(0) & 0x1F) << 6 | (byte(1) & 0x3F);
    break;
  case 3:
    character =
        (byte(0) & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
    break;
  default:
    character = (byte(0) & 0x07) << 18 | (byte(1) & 0x3F) << 12 |
                (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
  }
  at += length;
  return character;
}

char32_t previousCharacter(std::string_view text, size_t &end) {
  do
    --end;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80);
  size_t at = end;
  return nextCharacter(text, at);
}

void appendCharacter(std::string &text, char32_t character) {
  auto push = [&](char32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (character < 0x80) {
    push(character);
  } else if (character < 0x800) {
    push(0xC0 | character >> 6);
    push(0x80 | (character & 0x3F));
  } else if (character < 0x10000) {
    push(0xE0 | character >> 12);
    push(0x80 | (character >> 6 & 0x3F));
    push(0x80 | (character & 0x3F));
  } else {
    push(0xF0 | character >> 18);
    push(0x80 | (character >> 12 & 0x3F));
    push(0x80 | (character >> 6 & 0x3F));
    push(0x80 | (character & 0x3F));
  }
}

/// How many bytes at `at` form a character; if they form none, `valid` is
/// false and the result is the length of the maximal part that could have
/// begun one (Unicode 15, table 3-7).
static size_t scan(std::string_view text, size_t at, bool &valid) {
  auto byte = [&](size_t i) {
    return static_cast<unsigned char>(text[at + i]);
  };
  unsigned char lead = byte(0);
  valid = true;
  if (lead < 0x80)
    return 1;
  size_t length = lead < 0xC2   ? 0
                  : lead < 0xE0 ? 2
                  : lead < 0xF0 ? 3
                  : lead < 0xF5 ? 4
                                : 0;
  if (length == 0) {
    valid = false;
    return 1;
  }
  // The second byte excludes overlong forms, surrogates and what lies beyond
  // U+10FFFF.
  unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  for (size_t i = 1; i < length; ++i) {
    if (at + i == text.size() || byte(i) < low || byte(i) > high) {
      valid = false;
      return i;
    }
    low = 0x80;
    high = 0xBF;
  }
  return length;
}

std::optional<size_t> findInvalidUtf8(std::string_view text) {
  bool valid = true;
  for (size_t at = 0; at < text.size();) {
    size_t length = scan(text, at, valid);
    if (!valid)
      return at;
    at += length;
  }
  return std::nullopt;
}

std::string replaceInvalidUtf8(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  bool valid = true;
  for (size_t at = 0; at < bytes.size();) {
    size_t length = scan(bytes, at, valid);
    text += valid ? bytes.substr(at, length) : "\uFFFD";
    at += length;
  }
  return text;
}

static bool isIn(char32_t character, uint32_t categories) {
  return (U_GET_GC_MASK(static_cast<UChar32>(character)) & categories) != 0;
}

bool isSpace(char32_t character) {
  return u_isUWhiteSpace(static_cast<UChar32>(character));
}

bool hasProperty(std::string_view property, std::string_view asked) {
  if (property == asked)
    return true;
  if (property.size() != 2) // no general category
    return false;
  return asked == property.substr(0, 1) ||
         (asked == "Alphabetic" && (property[0] == 'L' || property == "Nl"));
}

icu::UnicodeSet youngWith(std::initializer_list<std::string_view> names) {
  icu::UnicodeSet set;
  for (const YoungCharacters &young : youngCharacters())
    for (std::string_view name : names)
      if (hasProperty(young.property, name))
        set.add(UChar32(young.first), UChar32(young.last));
  return set;
}

bool isNumeric(char32_t character) {
  static const icu::UnicodeSet young = youngWith({"N", "numeric"});
  return isIn(character, U_GC_N_MASK) ||
         young.contains(static_cast<UChar32>(character));
}

bool isPunctuation(char32_t character) {
  // Rust's ASCII punctuation has the ASCII symbols in it as well.
  if (character < 0x80)
    return character > 0x20 && character < 0x7F &&
           !isIn(character, U_GC_L_MASK | U_GC_ND_MASK);
  // `tokenizers` uses a crate that stopped at Unicode 8, before U+166D became
  // a symbol and U+111C9 a mark.
  if (character == 0x166D || character == 0x111C9)
    return true;
  UVersionInfo age;
  u_charAge(static_cast<UChar32>(character), age);
  return isIn(character, U_GC_P_MASK) && age[0] <= 8;
}

bool isWord(char32_t character) {
  static const icu::UnicodeSet young =
      youngWith({"Alphabetic", "M", "Nd", "Pc"});
  auto c = static_cast<UChar32>(character);
  return u_isUAlphabetic(c) || young.contains(c) ||
         isIn(character, U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK) ||
         u_hasBinaryProperty(c, UCHAR_JOIN_CONTROL);
}

std::string normalize(std::string_view text, Normalization form) {
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2 *full = nullptr;
  switch (form) {
  case Normalization::NFC:
    full = icu::Normalizer2::getNFCInstance(status);
    break;
  case Normalization::NFD:
    full = icu::Normalizer2::getNFDInstance(status);
    break;
  case Normalization::NFKC:
    full = icu::Normalizer2::getNFKCInstance(status);
    break;
  case Normalization::NFKD:
    full = icu::Normalizer2::getNFKDInstance(status);
    break;
  }
  // `tokenizers` normalises by Unicode 9, so that younger characters stay as
  // they are and combine with nothing.
  static const icu::UnicodeSet known = [] {
    UErrorCode status = U_ZERO_ERROR;
    icu::UnicodeSet set(u"[:age=9.0:]", status);
    set.freeze();
    return set;
  }();
  if (U_FAILURE(status))
    throw Error(std::string("cannot normalise text: ICU says ") +
                u_errorName(status));
  icu::FilteredNormalizer2 normalizer(*full, known);
  std::string result;
  icu::StringByteSink<std::string> sink(&result,
                                        static_cast<int32_t>(text.size()));
  normalizer.normalizeUTF8(
      0, icu::StringPiece(text.data(), static_cast<int32_t>(text.size())), sink,
      nullptr, status);
  if (U_FAILURE(status))
    throw Error(std::string("cannot normalise text: ICU says ") +
                u_errorName(status));
  return result;
}

std::string lowercase(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    char32_t character = nextCharacter(text, at);
    auto isYoungCapital = [&](const YoungCapitals &young) {
      return young.first <= character && character <= young.last;
    };
    auto young = std::ranges::find_if(youngCapitals(), isYoungCapital);
    // The only character whose lower case is two, whatever surrounds it.
    if (young != youngCapitals().end())
      appendCharacter(result, character + young->distance);
    else if (character == 0x130)
      result += "i\u0307";
    else
      appendCharacter(result, u_tolower(static_cast<UChar32>(character)));
  }
  return result;
}

char32_t byteToLetter(unsigned char byte) {
  // Printable Latin-1 stands for itself, the rest is numbered from U+0100 in
  // the order of the bytes: 00-20, 7F-A0, AD.
  if (byte <= 0x20)
    return 0x100 + byte;
  if (byte >= 0x7F && byte <= 0xA0)
    return 0x121 + (byte - 0x7F);
  if (byte == 0xAD)
    return 0x143;
  return byte;
}

std::optional<unsigned char> letterToByte(char32_t letter) {
  static const std::array<int, 0x144> bytes = [] {
    std::array<int, 0x144> table{};
    table.fill(-1);
    for (int byte = 0; byte < 256; ++byte)
      table[byteToLetter(static_cast<unsigned char>(byte))] = byte;
    return table;
  }();
  if (letter >= bytes.size() || bytes[letter] < 0)
    return std::nullopt;
  return static_cast<unsigned char>(bytes[letter]);
}

} // namespace polymoe::tokenizer
