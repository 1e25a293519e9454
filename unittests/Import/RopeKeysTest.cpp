//===-- RopeKeysTest.cpp --------------------------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "RopeKeys.h"
#include "moe/Runtime/Error.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

using namespace polymoe;
using Json = nlohmann::json;
using Type = RopeConfig::Type;

namespace {

constexpr int64_t headDim = 16;

LayerRopes read(const Json &json, const RopeDefaults &defaults) {
  StrictReader reader(JsonReader(json, "config.json"));
  LayerRopes ropes = readRope(reader, headDim, defaults);
  reader.finish();
  return ropes;
}

/// What reading `text` fails with.
std::string errorOf(const char *text, const RopeDefaults &defaults) {
  try {
    read(Json::parse(text), defaults);
  } catch (const Error &error) {
    return error.what();
  }
  return "none";
}

/// Reads `text`, and expects that what is written of it reads the same.
LayerRopes readTwice(const char *text, const RopeDefaults &defaults) {
  LayerRopes ropes = read(Json::parse(text), defaults);
  auto written = nlohmann::ordered_json::parse(text);
  writeRope(ropes, defaults, written);
  LayerRopes again = read(Json::parse(written.dump()), defaults);
  EXPECT_EQ(again.full, ropes.full) << written;
  EXPECT_EQ(again.sliding, ropes.sliding) << written;
  return ropes;
}

const RopeDefaults gemma3{
    .theta = 1e6, .ofEachKind = true, .slidingTheta = 1e4};

TEST(RopeKeys, EachKindOfLayerHasItsObject) {
  LayerRopes ropes = readTwice(R"({"max_position_embeddings": 4096,
    "rope_parameters": {
      "full_attention": {"rope_type": "linear", "rope_theta": 2e6, "factor": 8},
      "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0}}})",
                               gemma3);
  EXPECT_EQ(ropes.full.type, Type::Linear);
  EXPECT_EQ(ropes.full.theta, 2e6);
  EXPECT_EQ(ropes.full.factor, 8);
  EXPECT_EQ(ropes.sliding.type, Type::Default);
  EXPECT_EQ(ropes.sliding.theta, 5000);
}

TEST(RopeKeys, TheOlderFormScalesFullAttentionOnly) {
  LayerRopes ropes = readTwice(
      R"({"max_position_embeddings": 4096, "rope_theta": 2e6,
          "rope_local_base_freq": 5000.0,
          "rope_scaling": {"rope_type": "linear", "factor": 8.0}})",
      gemma3);
  EXPECT_EQ(ropes.full.type, Type::Linear);
  EXPECT_EQ(ropes.full.theta, 2e6);
  EXPECT_EQ(ropes.sliding.type, Type::Default);
  EXPECT_EQ(ropes.sliding.theta, 5000);
}

TEST(RopeKeys, AFamilyHasBasesForEachKind) {
  LayerRopes ropes = readTwice(R"({"rope_parameters": null})", gemma3);
  EXPECT_EQ(ropes.full.theta, 1e6);
  EXPECT_EQ(ropes.sliding.theta, 1e4);
  // OLMo 3 has one base.
  RopeDefaults olmo{.theta = 5e5, .ofEachKind = true};
  ropes = readTwice(R"({"rope_theta": 7e5})", olmo);
  EXPECT_EQ(ropes.full.theta, 7e5);
  EXPECT_EQ(ropes.sliding.theta, 7e5);
}

TEST(RopeKeys, APartOfAHeadRotates) {
  RopeDefaults phi{.theta = 1e4, .partial = true, .interleaved = true};
  for (const char *text :
       {R"({"partial_rotary_factor": 0.75})",
        R"({"rope_parameters": {"partial_rotary_factor": 0.75}})"}) {
    LayerRopes ropes = readTwice(text, phi);
    EXPECT_EQ(rotatedWidth(ropes.full, headDim), 12);
    EXPECT_TRUE(ropes.sliding.interleaved);
    EXPECT_EQ(ropeFrequencies(ropes.full, headDim).size(), 6u);
  }
  EXPECT_EQ(errorOf(R"({"partial_rotary_factor": 0.75})", {.theta = 1e4}),
            "config.json: key 'partial_rotary_factor': expected 1.0 or none, "
            "but got 0.75");
  EXPECT_EQ(errorOf(R"({"partial_rotary_factor": 0.01})", phi),
            "config.json: key 'partial_rotary_factor': expected a share of a "
            "head of 16 elements, but got 0.01");
  EXPECT_EQ(errorOf(R"({"partial_rotary_factor": 0.5,
                        "rope_parameters": {"partial_rotary_factor": 0.25}})",
                    phi),
            "config.json: key 'partial_rotary_factor': expected that of "
            "'rope_parameters', 0.25, but got 0.5");
}

TEST(RopeKeys, WhatLongRopeScalesByIsWrittenWithoutItsFactor) {
  auto text = nlohmann::ordered_json::parse(R"({
    "max_position_embeddings": 128,
    "rope_parameters": {"rope_type": "longrope", "factor": 8,
      "original_max_position_embeddings": 64,
      "short_factor": [1, 1, 1, 1, 1, 1, 1, 1],
      "long_factor": [2, 2, 2, 2, 2, 2, 2, 2]}})");
  const LayerRopes ropes = read(Json::parse(text.dump()), {});
  writeRope(ropes, {}, text);
  EXPECT_FALSE(text["rope_parameters"].contains("factor"));
  const LayerRopes again = read(Json::parse(text.dump()), {});
  EXPECT_EQ(again.full.attentionFactor, ropes.full.attentionFactor);
}

TEST(RopeKeys, PhiHasAnOriginalLengthOfItsOwn) {
  const char *text = R"({"max_position_embeddings": 131072, "rope_scaling": {
      "type": "longrope", "short_factor": [1, 1, 1, 1, 1, 1, 1, 1],
      "long_factor": [2, 2, 2, 2, 2, 2, 2, 2]}})";
  RopeDefaults phi{.originalPositions = 4096};
  EXPECT_EQ(readTwice(text, phi).full.originalPositions, 4096);
  auto other = Json::parse(text);
  other["rope_scaling"]["original_max_position_embeddings"] = 32;
  EXPECT_NE(errorOf(other.dump().c_str(), phi)
                .find("original_max_position_embeddings"),
            std::string::npos);
}

TEST(RopeKeys, WithoutADefaultAScalingIsNeeded) {
  RopeDefaults apertus{.theta = std::nullopt};
  EXPECT_NE(errorOf(R"({"rope_theta": 1e4, "rope_scaling": null})", apertus)
                .find("'rope_parameters': expected an object"),
            std::string::npos);
}

TEST(RopeKeys, ContradictionsAreErrors) {
  EXPECT_EQ(errorOf(R"({"rope_local_base_freq": 1e3, "rope_parameters": {
                        "sliding_attention": {"rope_theta": 1e4}}})",
                    gemma3),
            "config.json: key 'rope_local_base_freq': expected that of "
            "'rope_parameters.sliding_attention', 10000.0, but got 1000.0");
  EXPECT_NE(errorOf(R"({"rope_scaling": {"type": "linear", "factor": 2},
                        "rope_parameters": {"full_attention": {}}})",
                    gemma3)
                .find("'rope_scaling': expected the same as 'rope_parameters'"),
            std::string::npos);
  EXPECT_NE(
      errorOf(R"({"rope_parameters": {"chunked_attention": {}}})", gemma3)
          .find("'rope_parameters.chunked_attention': expected no such key"),
      std::string::npos);
}

} // namespace
