//===-- RopeReader.cpp - the keys of the rotary embedding
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "RopeReader.h"

using namespace polymoe;
using Json = JsonReader::Json;

static std::string textOf(double value) { return Json(value).dump(); }

namespace {

class RopeReader {
public:
  RopeReader(StrictReader &config, const RopeDefaults &defaults)
      : config(config), defaults(defaults) {}

  LayerRopes read() {
    outerTheta = config.findNumber("rope_theta");
    auto newer = config.find("rope_parameters");
    auto older = config.find("rope_scaling");
    RopeConfig rope;
    if (newer)
      rope = readObject("rope_parameters", *newer);
    if (older) {
      RopeConfig other = readObject("rope_scaling", *older);
      if (newer && other != rope)
        older->expected("the same as 'rope_parameters'");
      rope = other;
    }
    if (!newer && !older)
      rope.theta = checkTheta("rope_theta", std::nullopt);
    return {rope, rope};
  }

private:
  double checkTheta(const std::string &key, std::optional<double> inner) {
    if (outerTheta && inner && *outerTheta != *inner)
      config.fail("rope_theta", "that of '" + key + "', " + textOf(*inner),
                  textOf(*outerTheta));
    if (!outerTheta && !inner && defaults.theta)
      return *defaults.theta;
    double theta = inner ? *inner : outerTheta.value_or(0);
    if (theta <= 1)
      config.fail("rope_theta", "a number above 1",
                  inner || outerTheta ? textOf(theta) : "none");
    return theta;
  }

  RopeConfig readObject(const std::string &key, const JsonReader &object) {
    object.expectObject();
    StrictReader rope(object);
    RopeConfig result;
    auto type = rope.findString("rope_type"), legacy = rope.findString("type");
    if (type && legacy && *type != *legacy)
      rope.fail("rope_type", "that of 'type', " + *legacy, *type);
    if (!type)
      type = legacy;
    result.theta = checkTheta(key, rope.findNumber("rope_theta"));
    rope.only("partial_rotary_factor", 1.0);
    if (!type || *type == "default") {
      result.type = RopeConfig::Type::Default;
    } else if (*type == "linear") {
      result.type = RopeConfig::Type::Linear;
      result.factor = rope.positiveNumber("factor");
    } else if (*type == "llama3") {
      result.type = RopeConfig::Type::Llama3;
      result.factor = rope.positiveNumber("factor");
      result.lowFrequencyFactor = rope.positiveNumber("low_freq_factor");
      result.highFrequencyFactor = rope.positiveNumber("high_freq_factor");
      if (result.highFrequencyFactor <= result.lowFrequencyFactor)
        object.at("high_freq_factor").expected("more than 'low_freq_factor'");
      result.originalPositions =
          rope.integer("original_max_position_embeddings");
    } else {
      rope.fail("rope_type", "default, linear or llama3", *type);
    }
    rope.finish();
    return result;
  }

  StrictReader &config;
  const RopeDefaults &defaults;
  std::optional<double> outerTheta;
};

} // namespace

LayerRopes polymoe::readRope(StrictReader &config,
                             const RopeDefaults &defaults) {
  return RopeReader(config, defaults).read();
}
