//===-- RegexTranslation.cpp - from Oniguruma to PCRE2 --------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The two agree on most of what tokenizers contain. What differs:
//
//              Oniguruma                      PCRE2 10.42
//   \s         White_Space                    also U+180E
//   \w         also marks, connectors         letters, numbers, _
//   \h         hexadecimal digit              horizontal space
//   \p{Greek}  script                         script extensions
//   (?m)       . matches a line feed          ^ and $ look at lines
//   [a[bc]]    union                          the characters a [ b c, then ]
//   a{1,2}+    repeats a{1,2}                 possessive
//
// The first five are rewritten, unions are flattened, and what remains is
// refused.
//
//===----------------------------------------------------------------------===//

#include "Pattern.h"
#include "Unicode.h"

#include "moe/Runtime/Error.h"

#include <unicode/uchar.h>

#include <algorithm>
#include <cstdio>
#include <map>

namespace polymoe::tokenizer {

// Parts of character classes.
static const char spaces[] = R"(\x{9}-\x{D}\x{20}\x{85}\x{A0}\x{1680})"
                             R"(\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F})"
                             R"(\x{205F}\x{3000})";
static const char nonSpaces[] =
    R"(\x{0}-\x{8}\x{E}-\x{1F}\x{21}-\x{84}\x{86}-\x{9F}\x{A1}-\x{167F})"
    R"(\x{1681}-\x{1FFF}\x{200B}-\x{2027}\x{202A}-\x{202E}\x{2030}-\x{205E})"
    R"(\x{2060}-\x{2FFF}\x{3001}-\x{10FFFF})";
static const char hexDigits[] = "0-9A-Fa-f";

static std::string partsOf(const icu::UnicodeSet &set) {
  std::string parts;
  auto put = [&](UChar32 character) {
    char text[16];
    std::snprintf(text, sizeof(text), "\\x{%X}", unsigned(character));
    parts += text;
  };
  for (int32_t i = 0; i < set.getRangeCount(); ++i) {
    put(set.getRangeStart(i));
    if (set.getRangeStart(i) == set.getRangeEnd(i))
      continue;
    parts += "-";
    put(set.getRangeEnd(i));
  }
  return parts;
}

/// What \w matches. Outside of classes Oniguruma goes by C's categories for
/// Latin-1, in which superscripts and fractions are numbers.
static const std::string &words() {
  static const std::string parts =
      R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})" +
      partsOf(youngWith({"Alphabetic", "M", "Nd", "Pc"}));
  return parts;
}
static const std::string &loneWords() {
  static const std::string parts =
      words() + R"(\x{B2}\x{B3}\x{B9}\x{BC}-\x{BE})";
  return parts;
}

/// What \p{NAME} matches, or all else.
static std::string propertyParts(const std::string &name, bool isScript,
                                 bool negated) {
  const icu::UnicodeSet young = youngWith({name});
  const bool isUnassigned = name == "C" || name == "Cn";
  if (!negated && !isUnassigned)
    return (isScript ? "\\p{sc:" : "\\p{") + name + "}" + partsOf(young);
  // Characters cannot be taken out of a property, so that all are listed.
  UErrorCode status = U_ZERO_ERROR;
  icu::UnicodeSet set(
      icu::UnicodeString::fromUTF8((isScript ? "[:sc=" : "[:") + name + ":]"),
      status);
  if (U_FAILURE(status)) // what only PCRE2 may know
    return (negated ? "\\P{" : "\\p{") + name + "}";
  if (isUnassigned)
    for (const YoungCharacters &assigned : youngCharacters())
      if (std::string_view(assigned.property).size() == 2) // a category
        set.remove(UChar32(assigned.first), UChar32(assigned.last));
  set.addAll(young);
  if (negated)
    set.complement();
  set.remove(0xD800, 0xDFFF);
  return partsOf(set);
}

namespace {
class Translator {
public:
  explicit Translator(std::string_view regex) : regex(regex) {}

  std::string run() {
    while (at < regex.size())
      translateItem();
    return std::move(result);
  }

private:
  [[noreturn]] void refuse(const std::string &what) const {
    throw Error("cannot use the regular expression '" + std::string(regex) +
                "': " + what + " at byte " + std::to_string(at) +
                " is not supported");
  }

  bool sees(std::string_view text) const {
    return regex.substr(at).starts_with(text);
  }

  void copy(size_t count = 1) {
    result += regex.substr(at, count);
    at += count;
  }

  /// Writes parts of a class, or a class of them.
  void putParts(const std::string &parts, bool inClass, bool negated) {
    if (inClass)
      result += parts;
    else
      result += (negated ? "[^" : "[") + parts + "]";
    // Behind a class Oniguruma takes a hyphen for itself; behind the last
    // character of our list it would make a range.
    if (inClass && sees("-") && !sees("-]")) {
      result += "\\-";
      ++at;
    }
  }

  /// Behind a backslash: `at` is at the letter. Inside of a class the parts
  /// go in as they are, outside they become a class.
  void translateEscape(bool inClass) {
    if (at == regex.size())
      refuse("a backslash at the end");
    auto put = [&](const std::string &parts, bool negated = false) {
      ++at;
      putParts(parts, inClass, negated);
    };
    switch (regex[at]) {
    case 's':
      return put(spaces);
    case 'S':
      return put(inClass ? nonSpaces : spaces, true);
    case 'w':
      return put(inClass ? words() : loneWords());
    case 'W':
      if (inClass)
        refuse("\\W in a character class");
      return put(loneWords(), true);
    case 'd':
      return put(propertyParts("Nd", false, false));
    case 'D':
      return put(propertyParts("Nd", false, inClass), true);
    case 'h':
      return put(hexDigits);
    case 'H':
      if (inClass)
        refuse("\\H in a character class");
      return put(hexDigits, true);
    case 'p':
    case 'P':
      return translateProperty(inClass);
    case 'u':
      ++at;
      if (regex.size() - at < 4)
        refuse("\\u without four digits");
      result += "\\x{" + std::string(regex.substr(at, 4)) + "}";
      at += 4;
      return;
    case 'b':
    case 'B':
      // It builds on \w, which differs.
      if (!inClass) {
        std::string before = "[" + loneWords() + "]";
        bool negated = regex[at++] == 'B';
        result += "(?:(?<=";
        result += before + (negated ? ")(?=" : ")(?!") + before + ")|(?<!" +
                  before + (negated ? ")(?!" : ")(?=") + before + "))";
        return;
      }
      [[fallthrough]];
    default:
      result += '\\';
      copy(characterLength(regex[at]));
    }
  }

  /// \p{Name}, \p{^Name}, \P{Name}.
  void translateProperty(bool inClass) {
    bool negated = regex[at++] == 'P';
    size_t close = regex.find('}', at);
    if (!sees("{") || close == std::string_view::npos)
      refuse("\\p without braces");
    std::string name(regex.substr(at + 1, close - at - 1));
    at = close + 1;
    if (name.starts_with('^')) {
      negated = !negated;
      name.erase(0, 1);
    }

    static const std::map<std::string, std::string> longNames = {
        {"Letter", "L"},      {"Mark", "M"},          {"Number", "N"},
        {"Punctuation", "P"}, {"Separator", "Z"},     {"Symbol", "S"},
        {"Other", "C"},       {"Alpha", "Alphabetic"}};
    if (auto found = longNames.find(name); found != longNames.end())
      name = found->second;
    // Two letters are a general category; "Common" and longer may be scripts.
    const bool isScript =
        name.size() > 2 && u_getPropertyValueEnum(UCHAR_SCRIPT, name.c_str()) !=
                               UCHAR_INVALID_CODE;
    putParts(propertyParts(name, isScript, negated && inClass), inClass,
             negated);
  }

  void translateClass() {
    copy();
    if (sees("^"))
      copy();
    if (sees("]")) {
      result += "\\]";
      ++at;
    }
    for (int depth = 1; depth > 0;) {
      if (at == regex.size())
        refuse("a character class without an end");
      if (sees("&&"))
        refuse("an intersection of character classes");
      if (sees("[:")) {
        size_t close = regex.find(":]", at);
        if (close == std::string_view::npos)
          refuse("[: without :]");
        std::string_view name = regex.substr(at + 2, close - at - 2);
        copy(close + 2 - at);
        static const std::map<std::string_view,
                              std::initializer_list<std::string_view>>
            young = {{"alpha", {"Alphabetic"}},
                     {"alnum", {"Alphabetic", "Nd"}},
                     {"digit", {"Nd"}},
                     {"lower", {"Ll"}},
                     {"upper", {"Lu"}},
                     {"punct", {"P"}},
                     {"word", {"Alphabetic", "M", "Nd", "Pc"}}};
        if (auto found = young.find(name); found != young.end())
          putParts(partsOf(youngWith(found->second)), true, false);
      } else if (sees("[^")) {
        refuse("a negated class in a character class");
      } else if (sees("[")) {
        ++depth;
        ++at;
      } else if (sees("]")) {
        if (--depth == 0)
          copy();
        else
          ++at;
      } else if (sees("\\")) {
        ++at;
        translateEscape(/*inClass=*/true);
      } else {
        copy(characterLength(regex[at]));
      }
    }
  }

  /// (?imx-imx) and (?imx-imx:...); other groups are the same in both.
  void translateFlags() {
    size_t end = regex.find_first_not_of("imx-", at + 2);
    if (end == std::string_view::npos || end == at + 2 ||
        (regex[end] != ')' && regex[end] != ':'))
      return copy(2);
    std::string flags(regex.substr(at, end - at));
    std::replace(flags.begin(), flags.end(), 'm', 's');
    result += flags;
    at = end;
  }

  /// {n}, {n,}, {,m} and {n,m}; another brace is itself.
  void translateInterval() {
    size_t end = regex.find_first_not_of("0123456789,", at + 1);
    if (end == std::string_view::npos || regex[end] != '}' || end == at + 1)
      return copy();
    if (regex[at + 1] == ',') {
      result += "{0";
      ++at;
    }
    copy(end + 1 - at);
    if (sees("+"))
      refuse("+ behind an interval");
  }

  void translateItem() {
    if (sees("\\")) {
      ++at;
      translateEscape(/*inClass=*/false);
    } else if (sees("[")) {
      translateClass();
    } else if (sees("(?")) {
      translateFlags();
    } else if (sees("{")) {
      translateInterval();
    } else {
      copy(characterLength(regex[at]));
    }
  }

  std::string_view regex;
  size_t at = 0;
  std::string result;
};
} // namespace

std::string translateRegex(std::string_view regex) {
  return Translator(regex).run();
}

} // namespace polymoe::tokenizer
