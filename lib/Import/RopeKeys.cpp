//===-- RopeKeys.cpp - the keys of the rotary embedding
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "RopeKeys.h"

#include <cmath>

using namespace polymoe;
using Json = JsonReader::Json;
using OrderedJson = nlohmann::ordered_json;
using Type = RopeConfig::Type;

namespace {

constexpr std::pair<const char *, Type> typeNames[] = {
    {"default", Type::Default},   {"linear", Type::Linear},
    {"dynamic", Type::Dynamic},   {"yarn", Type::Yarn},
    {"longrope", Type::LongRope}, {"llama3", Type::Llama3},
    {"su", Type::LongRope}, // the first name of longrope
};

const char *nameOf(Type type) {
  for (const auto &[name, known] : typeNames)
    if (known == type)
      return name;
  return "";
}

/// A number that a type of scaling needs, or may have.
struct NumberKey {
  const char *name;
  double RopeConfig::*value;
  Type type;
  bool isNeeded;
};

constexpr const char *originalKey = "original_max_position_embeddings";

constexpr NumberKey numberKeys[] = {
    {"factor", &RopeConfig::factor, Type::Linear, true},
    {"factor", &RopeConfig::factor, Type::Dynamic, true},
    {"factor", &RopeConfig::factor, Type::Yarn, false},
    {originalKey, &RopeConfig::originalPositions, Type::Yarn, false},
    {"beta_fast", &RopeConfig::betaFast, Type::Yarn, false},
    {"beta_slow", &RopeConfig::betaSlow, Type::Yarn, false},
    {"factor", &RopeConfig::factor, Type::LongRope, false},
    {originalKey, &RopeConfig::originalPositions, Type::LongRope, false},
    {"factor", &RopeConfig::factor, Type::Llama3, true},
    {"low_freq_factor", &RopeConfig::lowFrequencyFactor, Type::Llama3, true},
    {"high_freq_factor", &RopeConfig::highFrequencyFactor, Type::Llama3, true},
    {originalKey, &RopeConfig::originalPositions, Type::Llama3, true},
};

std::string textOf(double value) { return Json(value).dump(); }

class RopeReader {
public:
  RopeReader(StrictReader &config, int64_t headDim,
             const RopeDefaults &defaults)
      : config(config), headDim(headDim), defaults(defaults) {}

  LayerRopes read() {
    positions = config.findNumber("max_position_embeddings").value_or(0);
    original = config.findNumber(originalKey);
    if (!original)
      original = defaults.originalPositions;
    outerShare = config.findNumber("partial_rotary_factor");
    const Outer theta = outer("rope_theta", defaults.theta);
    const Json none = Json::object();
    const JsonReader nothing(none, config.fileName());
    LayerRopes ropes;

    auto newer = config.find("rope_parameters");
    if (newer)
      newer->expectObject();
    if (!defaults.theta && !newer && !config.find("rope_scaling"))
      config.fail("rope_parameters",
                  "an object, since without one transformers scales the "
                  "embedding in a way of the family's own",
                  "none");
    if (!defaults.ofEachKind) {
      ropes.full =
          readObject("rope_parameters", newer.value_or(nothing), theta);
      ropes.full = readOlder(newer, ropes.full, theta);
      ropes.sliding = ropes.full;
      return ropes;
    }
    const Outer local = outer("rope_local_base_freq", defaults.slidingTheta);
    StrictReader kinds(newer.value_or(nothing));
    auto full = kinds.find("full_attention");
    auto sliding = kinds.find("sliding_attention");
    ropes.full = readObject("rope_parameters.full_attention",
                            full.value_or(nothing), theta);
    ropes.full = readOlder(full, ropes.full, theta);
    Outer inherited = local;
    if (!local.value && !local.otherwise)
      inherited.otherwise = ropes.full.theta;
    ropes.sliding = readObject("rope_parameters.sliding_attention",
                               sliding.value_or(nothing), inherited);
    kinds.finish();
    return ropes;
  }

private:
  /// A base outside the object, and the one where neither names one.
  struct Outer {
    std::string key;
    std::optional<double> value, otherwise;
  };

  Outer outer(const std::string &key, std::optional<double> otherwise) {
    return {key, config.findNumber(key), otherwise};
  }

  /// What `rope_scaling` says, or `newer` where there is none.
  RopeConfig readOlder(const std::optional<JsonReader> &newer,
                       const RopeConfig &rope, const Outer &theta) {
    auto older = config.find("rope_scaling");
    if (!older)
      return rope;
    older->expectObject();
    RopeConfig other = readObject("rope_scaling", *older, theta);
    if (newer && other != rope)
      older->expected("the same as 'rope_parameters'");
    return other;
  }

  double checkTheta(const std::string &key, const Outer &outer,
                    std::optional<double> inner) {
    if (outer.value && inner && *outer.value != *inner)
      config.fail(outer.key, "that of '" + key + "', " + textOf(*inner),
                  textOf(*outer.value));
    std::optional<double> theta = inner         ? inner
                                  : outer.value ? outer.value
                                                : outer.otherwise;
    if (theta.value_or(0) <= 1)
      config.fail(outer.key, "a number above 1",
                  theta ? textOf(*theta) : "none");
    return *theta;
  }

  double readShare(StrictReader &rope) {
    auto inner = rope.findNumber("partial_rotary_factor");
    double share = inner ? *inner : outerShare.value_or(1.0);
    StrictReader &holder = inner ? rope : config;
    if (inner && outerShare && *inner != *outerShare)
      config.fail("partial_rotary_factor",
                  "that of 'rope_parameters', " + textOf(*inner),
                  textOf(*outerShare));
    if (!defaults.partial)
      holder.only("partial_rotary_factor", 1.0);
    else if (share > 1 || share * static_cast<double>(headDim) < 1)
      holder.fail("partial_rotary_factor",
                  "a share of a head of " + std::to_string(headDim) +
                      " elements",
                  textOf(share));
    return share;
  }

  Type readType(StrictReader &rope) {
    auto type = rope.findString("rope_type"), legacy = rope.findString("type");
    if (type && legacy && *type != *legacy)
      rope.fail("rope_type", "that of 'type', " + *legacy, *type);
    const std::string name = type ? *type : legacy.value_or("default");
    for (const auto &[known, value] : typeNames)
      if (name == known)
        return value;
    rope.fail(type ? "rope_type" : "type",
              "default, linear, dynamic, yarn, longrope or llama3", name);
  }

  RopeConfig readObject(const std::string &key, const JsonReader &object,
                        const Outer &theta) {
    StrictReader rope(object);
    RopeConfig result;
    result.type = readType(rope);
    result.theta = checkTheta(key, theta, rope.findNumber("rope_theta"));
    result.share = readShare(rope);
    result.interleaved = defaults.interleaved;
    result.positions = positions;
    readNumbers(rope, result);
    if (result.type == Type::Llama3 &&
        result.highFrequencyFactor <= result.lowFrequencyFactor)
      rope.at("high_freq_factor").expected("more than 'low_freq_factor'");
    if (result.type == Type::LongRope) {
      result.shortFactors = readFactors(rope, "short_factor", result);
      result.longFactors = readFactors(rope, "long_factor", result);
    }
    if (result.type == Type::Yarn)
      result.truncate = rope.findBool("truncate").value_or(true);
    if (result.type == Type::Yarn || result.type == Type::LongRope)
      readAttentionFactor(rope, result);
    rope.finish();
    return result;
  }

  void readNumbers(StrictReader &rope, RopeConfig &result) {
    bool isYarn = result.type == Type::Yarn;
    bool isRelative = isYarn || result.type == Type::LongRope;
    if ((isRelative || result.type == Type::Dynamic) && positions < 1)
      config.positiveNumber("max_position_embeddings");
    auto inner = isRelative || result.type == Type::Llama3
                     ? rope.findNumber(originalKey)
                     : std::nullopt;
    if (inner && original && *inner != *original)
      config.fail(originalKey,
                  "that of the rotary embedding, " + textOf(*inner),
                  textOf(*original));
    if (isRelative)
      result.originalPositions = original.value_or(positions);
    for (const NumberKey &key : numberKeys)
      if (key.type == result.type && (key.isNeeded || rope.find(key.name)))
        result.*key.value = rope.positiveNumber(key.name);
    if (isRelative && !rope.find("factor"))
      result.factor = positions / result.originalPositions;
    if (isRelative && result.originalPositions <= 1)
      rope.fail(originalKey, "more than one", textOf(result.originalPositions));
  }

  std::vector<double> readFactors(StrictReader &rope, const std::string &key,
                                  const RopeConfig &config) {
    const JsonReader list = rope.at(key);
    const auto count = static_cast<size_t>(rotatedWidth(config, headDim) / 2);
    if (!list.json().is_array() || list.json().size() != count)
      list.expected("a list of " + std::to_string(count) +
                    " factors, one for each frequency");
    std::vector<double> factors;
    for (const JsonReader &element : list.elements()) {
      if (!element.json().is_number() || element.number() <= 0)
        element.expected("a positive number");
      factors.push_back(element.number());
    }
    return factors;
  }

  static void readAttentionFactor(StrictReader &rope, RopeConfig &result) {
    result.attentionFactor = defaultAttentionFactor(result);
    if (result.type == Type::Yarn) {
      double scale = rope.findNumber("mscale").value_or(0);
      double scaleOfAll = rope.findNumber("mscale_all_dim").value_or(0);
      if (scale != 0 && scaleOfAll != 0 && result.factor > 1) {
        double log = std::log(result.factor);
        result.attentionFactor =
            (0.1 * scale * log + 1) / (0.1 * scaleOfAll * log + 1);
      }
    }
    if (rope.find("attention_factor"))
      result.attentionFactor = rope.positiveNumber("attention_factor");
  }

  StrictReader &config;
  int64_t headDim;
  const RopeDefaults &defaults;
  double positions = 0;
  std::optional<double> original, outerShare;
};

/// A number as configurations hold it: whole ones as integers.
OrderedJson numberJson(double value) {
  if (value == std::floor(value) && std::abs(value) < 1e15)
    return static_cast<int64_t>(value);
  return value;
}

} // namespace

LayerRopes polymoe::readRope(StrictReader &config, int64_t headDim,
                             const RopeDefaults &defaults) {
  return RopeReader(config, headDim, defaults).read();
}

/// `rope_scaling` of transformers 4. Its Phi-3 takes the three entries of
/// longrope and no others.
static OrderedJson scalingOf(const RopeConfig &rope) {
  OrderedJson json;
  if (rope.type == Type::Default)
    return json;
  json[rope.type == Type::LongRope ? "type" : "rope_type"] = nameOf(rope.type);
  for (const NumberKey &key : numberKeys)
    if (key.type == rope.type && rope.type != Type::LongRope)
      json[key.name] = numberJson(rope.*key.value);
  if (rope.type == Type::LongRope) {
    json["short_factor"] = rope.shortFactors;
    json["long_factor"] = rope.longFactors;
  }
  if (!rope.truncate)
    json["truncate"] = false;
  // The factor of longrope is not written: it is read as this.
  RopeConfig asRead = rope;
  if (rope.type == Type::LongRope)
    asRead.factor = rope.positions / rope.originalPositions;
  if (rope.attentionFactor != defaultAttentionFactor(asRead))
    json["attention_factor"] = rope.attentionFactor;
  return json;
}

/// `rope_parameters` of transformers 5.
static OrderedJson parametersOf(const RopeConfig &rope) {
  OrderedJson json = {{"rope_type", nameOf(rope.type)},
                      {"rope_theta", rope.theta}};
  if (rope.share != 1)
    json["partial_rotary_factor"] = rope.share;
  const OrderedJson scaling = scalingOf(rope);
  for (const auto &[key, value] : scaling.items())
    if (key != "type")
      json[key] = value;
  if (rope.type == Type::LongRope)
    json[originalKey] = numberJson(rope.originalPositions);
  return json;
}

void polymoe::writeRope(const LayerRopes &ropes, const RopeDefaults &defaults,
                        OrderedJson &json) {
  for (const char *key : {"rope_local_base_freq", "partial_rotary_factor"})
    json.erase(key);
  json["rope_theta"] = ropes.full.theta;
  json["rope_scaling"] = scalingOf(ropes.full);
  json["rope_parameters"] = parametersOf(ropes.full);
  if (defaults.ofEachKind) {
    json["rope_local_base_freq"] = ropes.sliding.theta;
    json["rope_parameters"] = {
        {"full_attention", parametersOf(ropes.full)},
        {"sliding_attention", parametersOf(ropes.sliding)}};
  }
  if (ropes.full.share != 1)
    json["partial_rotary_factor"] = ropes.full.share;
  if (ropes.full.type == Type::LongRope)
    json[originalKey] = numberJson(ropes.full.originalPositions);
}
