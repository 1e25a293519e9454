//===-- RegexTranslationTest.cpp - from Oniguruma to PCRE2 ----------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "../../lib/Tokenizer/Pattern.h"

#include "moe/Runtime/Error.h"

#include <gtest/gtest.h>

using namespace polymoe;
using namespace polymoe::tokenizer;

namespace {

std::vector<std::string> matches(const char *regex, std::string_view text) {
  std::vector<std::string> found;
  for (const Span &span : Pattern::oniguruma(regex).split(text))
    if (span.isMatch)
      found.emplace_back(text.substr(span.begin, span.end - span.begin));
  return found;
}
using Strings = std::vector<std::string>;

TEST(RegexTranslation, LeavesWhatIsTheSameInBoth) {
  EXPECT_EQ(translateRegex(R"(\s?)").substr(0, 1), "[");
  EXPECT_EQ(translateRegex(R"(a|(?:b)+(?!c)é\p{Zs}{1,3})"),
            R"(a|(?:b)+(?!c)é[\p{Zs}]{1,3})");
}

TEST(RegexTranslation, FlattensUnionsOfClasses) {
  EXPECT_EQ(translateRegex("[^(|[.,])]+"), "[^(|.,)]+");
  EXPECT_EQ(matches("[^(|[.,])]+", "a.b|c,d)"), (Strings{"a", "b", "c", "d"}));
}

TEST(RegexTranslation, TakesScriptsLiterally) {
  EXPECT_EQ(translateRegex(R"(\p{Greek}\p{^Zs}\P{Separator})"),
            R"([\p{sc:Greek}][^\p{Zs}][^\p{Z}])");
}

TEST(RegexTranslation, MapsFlags) {
  EXPECT_EQ(translateRegex("(?i:a)(?m-i:.)(?<=b)"), "(?i:a)(?s-i:.)(?<=b)");
}

TEST(RegexTranslation, KnowsHyphensBehindClasses) {
  EXPECT_EQ(matches(R"([\s-.])", "a-. b"), (Strings{"-", ".", " "}));
}

TEST(RegexTranslation, WordsHaveMarks) {
  EXPECT_EQ(matches(R"(\w+)", "हिन्दी x"), (Strings{"हिन्दी", "x"}));
}

// A letter of Unicode 15, of 16, and one of 17, which Oniguruma lacks.
TEST(RegexTranslation, KnowsYoungLetters) {
  const char *text = "\U0001E4D0\u1C89\U00016EA0";
  const Strings letters = {"\U0001E4D0", "\u1C89"}, none = {"\U00016EA0"};
  for (const char *regex : {R"(\p{L})", R"([\p{L}])", R"(\w)", R"([[:alpha:]])",
                            R"([^\P{L}])", R"(\P{Cn})", R"([^\p{C}])"})
    EXPECT_EQ(matches(regex, text), letters) << regex;
  for (const char *regex : {R"(\P{L})", R"([^\p{L}])", R"(\W)", R"([\P{L}])",
                            R"(\p{Cn})", R"([\p{C}])"})
    EXPECT_EQ(matches(regex, text), none) << regex;
}

TEST(RegexTranslation, FindsEmptyMatchesOnce) {
  EXPECT_EQ(matches("b?", "ab"), (Strings{"", "b"}));
}

TEST(RegexTranslation, RefusesWhatPcreUnderstandsOtherwise) {
  for (const char *regex :
       {"[a&&b]", "[a[^b]]", R"([\W])", "a{1,2}+", "[a", R"(\p{NoSuchThing})",
        "(", R"(\)", R"(\u12)", R"(\p{L)"})
    EXPECT_THROW(Pattern::oniguruma(regex), Error) << regex;
}

} // namespace
