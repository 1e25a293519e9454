//===-- JsonTest.cpp ------------------------------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/Json.h"
#include "TestFolder.h"
#include "moe/Runtime/Error.h"

using namespace polymoe;

static std::string nested(int depth) {
  return std::string(size_t(depth), '[') + std::string(size_t(depth), ']');
}

TEST(Json, HasALimitedDepth) {
  EXPECT_TRUE(parseJson(nested(maxJsonDepth), "a.json").is_array());
  EXPECT_ERROR(parseJson(nested(maxJsonDepth + 1), "a.json"),
               "a.json: expected JSON of at most 512 levels, but got more");
  EXPECT_FALSE(tryParseJson(nested(200000)));
  // Brackets in text are no levels, and lists side by side are one.
  EXPECT_TRUE(
      parseJson("[\"\\\"" + std::string(1000, '[') + "\"]", "a").is_array());
  std::string wide = "[[]";
  for (int i = 0; i < 1000; ++i)
    wide += ",[]";
  EXPECT_TRUE(parseJson(wide + "]", "a").is_array());
}

TEST(Json, ErrorsQuoteLittle) {
  EXPECT_EQ(shortened("abcdefgh", 8), "abcdefgh");
  EXPECT_EQ(shortened("abcdefghijkl", 8), "abcd ... (12 bytes) ... kl");
  // No character is cut in two.
  EXPECT_EQ(shortened("a\u00E9\u00E9\u00E9\u00E9\u00E9\u00E9", 8),
            "a\u00E9 ... (13 bytes) ... \u00E9");
  const std::string text(1 << 20, 'x');
  EXPECT_LT(std::string(Error(text).what()).size(), 4096u);
  const nlohmann::json value = text;
  EXPECT_ERROR(JsonReader(value, "a.json").integer(), " ... (1048578 bytes) ");
}
