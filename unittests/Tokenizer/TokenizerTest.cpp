//===-- TokenizerTest.cpp - text to token ids and back --------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The edges. That ids equal those of `tokenizers` is what
// python/tests/test_tokenizer.py shows.
//
//===----------------------------------------------------------------------===//

#include "moe/Tokenizer/Tokenizer.h"

#include "moe/Runtime/Error.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

using namespace polymoe;
using nlohmann::json;

namespace {

using Ids = std::vector<int32_t>;

/// A SentencePiece-style tokenizer of a few tokens.
json smallFile() {
  return json::parse(R"({
    "version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [
      {"id": 0, "content": "<s>", "single_word": false, "lstrip": false,
       "rstrip": false, "normalized": false, "special": true}],
    "normalizer": {"type": "Sequence", "normalizers": [
      {"type": "Prepend", "prepend": "▁"},
      {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
    "pre_tokenizer": null,
    "post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                 {"Sequence": {"id": "A", "type_id": 0}}],
      "pair": [],
      "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
    "decoder": {"type": "Sequence", "decoders": [
      {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
      {"type": "ByteFallback"}, {"type": "Fuse"},
      {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    "model": {"type": "BPE", "dropout": null, "unk_token": null,
      "continuing_subword_prefix": null, "end_of_word_suffix": null,
      "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
      "vocab": {"<s>": 0, "▁": 1, "a": 2, "b": 3, "ab": 4, "▁a": 5,
                "<0xC3>": 6, "<0xA9>": 7, "<0xE2>": 8, "<0x82>": 9,
                "<0xAC>": 10, "▁ab": 11},
      "merges": ["a b", ["▁", "a"], ["▁", "ab"]]}
  })");
}

Tokenizer make(const json &file) {
  return Tokenizer::fromJson(file.dump(), "t.json");
}

/// The message of the error that reading `file` gives.
std::string errorOf(const std::string &file) {
  try {
    Tokenizer::fromJson(file, "t.json");
  } catch (const Error &error) {
    return error.what();
  }
  return "no error";
}

std::string errorWith(const char *pointer, const json &value) {
  json file = smallFile();
  file[json::json_pointer(pointer)] = value;
  return errorOf(file.dump());
}

TEST(Tokenizer, EncodesAndDecodes) {
  Tokenizer tokenizer = make(smallFile());
  EXPECT_EQ(tokenizer.encode("ab é", true), (Ids{0, 11, 1, 6, 7}));
  EXPECT_EQ(tokenizer.encode("ab é", false), (Ids{11, 1, 6, 7}));
  EXPECT_EQ(tokenizer.decode({0, 11, 1, 6, 7}, true), "ab é");
  EXPECT_EQ(tokenizer.decode({0, 11}, false), "<s> ab");
  EXPECT_EQ(tokenizer.vocabularySize(), 12);
  EXPECT_TRUE(tokenizer.isSpecial(0));
  EXPECT_FALSE(tokenizer.isSpecial(1));
}

TEST(Tokenizer, TakesNothing) {
  Tokenizer tokenizer = make(smallFile());
  EXPECT_EQ(tokenizer.encode("", false), Ids{});
  EXPECT_EQ(tokenizer.encode("", true), Ids{0});
  EXPECT_EQ(tokenizer.decode({}, true), "");
}

TEST(Tokenizer, FindsSpecialTokensInText) {
  EXPECT_EQ(make(smallFile()).encode("<s>ab<s>", false), (Ids{0, 11, 0}));
}

TEST(Tokenizer, IgnoresIdsThatDoNotExist) {
  EXPECT_EQ(make(smallFile()).decode({-1, 11, 12, 1 << 30}, true), "ab");
}

TEST(Tokenizer, RefusesTextThatIsNotUtf8) {
  Tokenizer tokenizer = make(smallFile());
  for (const char *text : {"a\xFF", "a\xC3", "a\xED\xA0\x80", "a\xC0\x80",
                           "a\xF4\x90\x80\x80", "a\x80"}) {
    try {
      tokenizer.encode(text, false);
      ADD_FAILURE() << "no error";
    } catch (const Error &error) {
      EXPECT_NE(std::string(error.what()).find("byte 1"), std::string::npos)
          << error.what();
    }
  }
}

TEST(Tokenizer, EncodesLongWordsQuickly) {
  std::string text;
  for (int i = 0; i < 200000; ++i)
    text += i % 3 ? "a" : "ab";
  Tokenizer tokenizer = make(smallFile());
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(text, true), true), text);
}

TEST(TextStream, HoldsBackPartsOfCharacters) {
  Tokenizer tokenizer = make(smallFile());
  TextStream stream(tokenizer, true);
  EXPECT_EQ(stream.push(0), "");
  EXPECT_EQ(stream.push(11), "ab");
  EXPECT_EQ(stream.push(11), " ab");
  EXPECT_EQ(stream.push(8), "");
  EXPECT_EQ(stream.push(9), "");
  EXPECT_EQ(stream.push(10), "€");
  EXPECT_EQ(stream.push(6), "");
  // The run of bytes is ill-formed; what was returned of it stays.
  EXPECT_EQ(stream.finish(), "\uFFFD");
  EXPECT_EQ(stream.push(2), "a");
  EXPECT_EQ(stream.finish(), "");
}

TEST(TextStream, GivesUpOnBrokenCharacters) {
  Tokenizer tokenizer = make(smallFile());
  TextStream stream(tokenizer, true);
  EXPECT_EQ(stream.push(6), "");
  EXPECT_EQ(stream.push(7), "é");
  EXPECT_EQ(stream.push(8), "");
  EXPECT_EQ(stream.push(5), "\uFFFD a");
}

TEST(TextStream, EqualsDecodeOverLongTexts) {
  Tokenizer tokenizer = make(smallFile());
  for (bool skip : {false, true}) {
    Ids ids;
    for (int i = 0; i < 500; ++i) {
      const Ids parts[] = {{1}, {2, 0}, {6, 7}, {8, 9, 10}, {0, 0, 0}, {11}};
      const Ids &part = parts[(i * i + i / 7) % 6];
      ids.insert(ids.end(), part.begin(), part.end());
    }
    // A long stretch that is skipped must not turn what follows into a start.
    ids.insert(ids.end(), 100, 0);
    ids.push_back(11);
    TextStream stream(tokenizer, skip);
    std::string text;
    for (int32_t id : ids)
      text += stream.push(id);
    text += stream.finish();
    EXPECT_EQ(text, tokenizer.decode(ids, skip));
  }
}

TEST(TokenizerErrors, NameTheFileAndThePlace) {
  EXPECT_NE(errorOf("{").find("t.json: expected JSON"), std::string::npos);
  EXPECT_NE(errorOf("\"\xFF\"").find("t.json: expected JSON"),
            std::string::npos);
  EXPECT_EQ(errorOf("[]"), "t.json: expected an object, but got []");
  EXPECT_EQ(errorOf("{}"),
            "t.json: key 'model': expected an object, but got none");
  EXPECT_THROW(Tokenizer::fromFile("/no/such/file"), Error);
  EXPECT_THROW(Tokenizer::fromFile("/"), Error);
}

TEST(TokenizerErrors, RefuseWhatIsUnknown) {
  EXPECT_EQ(
      errorWith("/normalizer", {{"type", "Precompiled"}}),
      "t.json: key 'normalizer': normalizer 'Precompiled' is not supported");
  EXPECT_EQ(errorWith("/normalizer/normalizers/0/type", "Nmt"),
            "t.json: key 'normalizer.normalizers[0]': normalizer 'Nmt' is not "
            "supported");
  EXPECT_EQ(errorWith("/normalizer/normalizers/0/twice", true),
            "t.json: key 'normalizer.normalizers[0]': entry 'twice' is not "
            "supported");
  EXPECT_EQ(
      errorWith("/pre_tokenizer", {{"type", "UnicodeScripts"}}),
      "t.json: key 'pre_tokenizer': pre-tokenizer 'UnicodeScripts' is not "
      "supported");
  EXPECT_EQ(
      errorWith("/post_processor", {{"type", "BertProcessing"}}),
      "t.json: key 'post_processor': post-processor 'BertProcessing' is not "
      "supported");
  EXPECT_EQ(errorWith("/decoder", {{"type", "CTC"}}),
            "t.json: key 'decoder': decoder 'CTC' is not supported");
  EXPECT_EQ(
      errorWith("/model/type", "Unigram"),
      "t.json: key 'model': model 'Unigram' is not supported, only BPE is");
  EXPECT_EQ(
      errorWith("/model/dropout", 0.1),
      "t.json: key 'model.dropout': dropout is not supported, expected null");
  EXPECT_EQ(errorWith("/version", "2.0"),
            "t.json: expected version 1.0, but got 2.0");
}

TEST(TokenizerErrors, RefuseWrongTypes) {
  EXPECT_EQ(errorWith("/model/fuse_unk", 1),
            "t.json: key 'model.fuse_unk': expected true or false, but got 1");
  EXPECT_EQ(errorWith("/model/vocab/a", -1),
            "t.json: key 'model.vocab.a': expected a whole number from 0 to "
            "2147483647, "
            "but got -1");
  EXPECT_EQ(
      errorWith("/model/vocab/a", 4),
      "t.json: key 'model.vocab': tokens 'a' and 'ab' have the same id 4");
  EXPECT_EQ(
      errorWith("/decoder/decoders/3/content", "xy"),
      "t.json: key 'decoder.decoders[3].content': expected one character, but "
      "got \"xy\"");
  EXPECT_EQ(
      errorWith("/added_tokens/0/special", nullptr),
      "t.json: key 'added_tokens[0].special': expected true or false, but got "
      "null");
}

TEST(TokenizerErrors, RefuseMergesOfUnknownTokens) {
  EXPECT_EQ(errorWith("/model/merges/0", "a x"),
            "t.json: key 'model.merges': merge 0: token 'x' is not in the "
            "vocabulary");
  EXPECT_EQ(errorWith("/model/merges/0", "b a"),
            "t.json: key 'model.merges': merge 0: token 'ba' is not in the "
            "vocabulary");
  EXPECT_EQ(
      errorWith("/model/merges/0", "a b c"),
      "t.json: key 'model.merges': merge 0: expected two tokens with a space "
      "between, but got 'a b c'");
  EXPECT_EQ(
      errorWith("/model/merges/1", {"a"}),
      "t.json: key 'model.merges': merge 1: expected a string or two, but got "
      "[\"a\"]");
}

TEST(TokenizerErrors, RefuseContradictions) {
  EXPECT_EQ(
      errorWith("/added_tokens/0/id", 7),
      "t.json: key 'added_tokens[0]': expected id 0 for '<s>', but got 7");
  EXPECT_EQ(
      errorWith("/post_processor/single/0/SpecialToken/id", "</s>"),
      "t.json: key 'post_processor.single[0]': special token '</s>' is not "
      "among the special_tokens");
  EXPECT_EQ(errorWith("/pre_tokenizer", {{"type", "Metaspace"},
                                         {"replacement", "_"},
                                         {"add_prefix_space", false},
                                         {"prepend_scheme", "first"}}),
            "t.json: key 'pre_tokenizer': 'add_prefix_space' contradicts "
            "'prepend_scheme'");
  EXPECT_NE(errorWith("/normalizer/normalizers/1/pattern", {{"Regex", "(a"}})
                .find("t.json: key 'normalizer.normalizers[1].pattern': cannot "
                      "compile the regular expression '(a'"),
            std::string::npos);
}

TEST(TokenizerErrors, MissingUnknownTokenShowsWhenItIsNeeded) {
  json file = smallFile();
  file["model"]["unk_token"] = "<unk>";
  Tokenizer tokenizer = make(file);
  EXPECT_EQ(tokenizer.encode("ab", false), Ids{11});
  EXPECT_THROW(tokenizer.encode("x", false), Error);
}

} // namespace
