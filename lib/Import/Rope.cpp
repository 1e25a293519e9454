//===-- Rope.cpp - frequencies of the rotary embedding
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A frequency that is off by one bit rotates far positions by a visible angle.
// So the arithmetic here is that of transformers on PyTorch, in f32, operation
// by operation. PyTorch computes powers 32 at a time with SLEEF's powf and the
// rest with the C library's. SLEEF's is reproduced here from its published
// algorithm, a logarithm and an exponential in double-float arithmetic.
//
//===----------------------------------------------------------------------===//

#include "moe/Import/Rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#pragma STDC FP_CONTRACT OFF

using namespace polymoe;

namespace {

/// An unevaluated sum of two floats.
struct DoubleFloat {
  float high;
  float low;
};

/// high + low == x + y exactly.
DoubleFloat addExactly(float x, float y) {
  float s = x + y;
  float v = s - x;
  return {s, (x - (s - v)) + (y - v)};
}

DoubleFloat addExactly(DoubleFloat x, float y) {
  DoubleFloat s = addExactly(x.high, y);
  return {s.high, s.low + x.low};
}

DoubleFloat addExactly(DoubleFloat x, DoubleFloat y) {
  DoubleFloat s = addExactly(x.high, y.high);
  return {s.high, s.low + (x.low + y.low)};
}

/// Needs |x| >= |y|.
DoubleFloat add(DoubleFloat x, DoubleFloat y) {
  float s = x.high + y.high;
  return {s, x.high - s + y.high + x.low + y.low};
}

DoubleFloat add(float x, DoubleFloat y) {
  float s = x + y.high;
  return {s, x - s + y.high + y.low};
}

DoubleFloat multiply(DoubleFloat x, float y) {
  float s = x.high * y;
  return {s, std::fma(x.low, y, std::fma(x.high, y, -s))};
}

DoubleFloat multiply(DoubleFloat x, DoubleFloat y) {
  float s = x.high * y.high;
  return {s, std::fma(x.high, y.low,
                      std::fma(x.low, y.high, std::fma(x.high, y.high, -s)))};
}

DoubleFloat square(DoubleFloat x) {
  float s = x.high * x.high;
  return {s, std::fma(x.high + x.high, x.low, std::fma(x.high, x.high, -s))};
}

DoubleFloat divide(DoubleFloat n, DoubleFloat d) {
  float t = 1.0f / d.high;
  float s = n.high * t;
  float u = std::fma(t, n.high, -s);
  float v = std::fma(-d.low, t, std::fma(-d.high, t, 1.0f));
  return {s, std::fma(s, v, std::fma(n.low, t, u))};
}

/// The natural logarithm of a positive normal number.
DoubleFloat logarithm(float d) {
  int exponent = std::ilogb(d * (1.0f / 0.75f));
  float m = std::ldexp(d, -exponent);
  DoubleFloat x = divide(addExactly(-1.0f, m), addExactly(1.0f, m));
  DoubleFloat x2 = square(x);
  float t = 0.240320354700088500976562f;
  t = std::fma(t, x2.high, 0.285112679004669189453125f);
  t = std::fma(t, x2.high, 0.400007992982864379882812f);
  DoubleFloat c = {0.66666662693023681640625f, 3.69183861259614332084311e-09f};
  DoubleFloat s =
      multiply(DoubleFloat{0.69314718246459960938f, -1.904654323148236017e-09f},
               static_cast<float>(exponent));
  s = add(s, DoubleFloat{x.high * 2.0f, x.low * 2.0f});
  return add(s, multiply(multiply(x2, x), addExactly(multiply(x2, t), c)));
}

float exponential(DoubleFloat d) {
  float q = std::nearbyint((d.high + d.low) * std::numbers::log2e_v<float>);
  DoubleFloat s = addExactly(d, q * -0.693145751953125f);
  s = addExactly(s, q * -1.428606765330187045e-06f);
  float sum = s.high + s.low;
  s = {sum, s.high - sum + s.low};
  float u = 0.00136324646882712841033936f;
  u = std::fma(u, s.high, 0.00836596917361021041870117f);
  u = std::fma(u, s.high, 0.0416710823774337768554688f);
  u = std::fma(u, s.high, 0.166665524244308471679688f);
  u = std::fma(u, s.high, 0.499999850988388061523438f);
  DoubleFloat t = add(1.0f, add(s, multiply(square(s), u)));
  return std::ldexp(t.high + t.low, static_cast<int>(q));
}

/// `base` to the power of 2i / width, for i in [0, width / 2).
std::vector<float> powersOf(float base, int64_t width) {
  // PyTorch computes whole blocks of two vectors with SLEEF.
  constexpr int64_t unrolled = 32;
  const int64_t count = (width + 1) / 2;
  std::vector<float> result(count);
  for (int64_t i = 0; i < count; ++i) {
    float exponent = static_cast<float>(2 * i) / static_cast<float>(width);
    result[i] = i < count / unrolled * unrolled
                    ? exponential(multiply(logarithm(base), exponent))
                    : std::pow(base, exponent);
  }
  return result;
}

/// The base that Dynamic uses for sequences of `length` tokens. transformers
/// computes it in f64 up to `positions` tokens, where it is theta, and in f32
/// beyond, where the length is a tensor.
float dynamicBase(const RopeConfig &config, int64_t width, double length) {
  auto theta = static_cast<float>(config.theta);
  if (length <= config.positions)
    return theta;
  float ratio = static_cast<float>(config.factor) * static_cast<float>(length) /
                static_cast<float>(config.positions);
  float growth = ratio - static_cast<float>(config.factor - 1);
  double exponent = static_cast<double>(width) / static_cast<double>(width - 2);
  return std::pow(growth, static_cast<float>(exponent)) * theta;
}

/// Frequencies that turn seldom over the length of pretraining are divided by
/// the factor, those that turn often stay, and between them is a ramp.
void scaleByYarn(const RopeConfig &config, int64_t width,
                 const std::vector<float> &powers,
                 std::vector<float> &frequencies) {
  auto indexOf = [&](double turns) {
    return static_cast<double>(width) *
           std::log(config.originalPositions / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(config.theta));
  };
  double low = indexOf(config.betaFast), high = indexOf(config.betaSlow);
  if (config.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(width - 1));
  if (low == high)
    high += 0.001;
  const float factor = static_cast<float>(config.factor);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    float ramp = (static_cast<float>(i) - static_cast<float>(low)) /
                 static_cast<float>(high - low);
    float kept = 1.0f - std::clamp(ramp, 0.0f, 1.0f);
    float divided = (1.0f / (factor * powers[i])) * (1.0f - kept);
    frequencies[i] = divided + frequencies[i] * kept;
  }
}

void scaleByLlama3(const RopeConfig &config, std::vector<float> &frequencies) {
  const float factor = static_cast<float>(config.factor);
  const float low = static_cast<float>(config.lowFrequencyFactor);
  const float span = static_cast<float>(config.highFrequencyFactor -
                                        config.lowFrequencyFactor);
  const float longest =
      static_cast<float>(config.originalPositions / config.lowFrequencyFactor);
  const float shortest =
      static_cast<float>(config.originalPositions / config.highFrequencyFactor);
  for (float &frequency : frequencies) {
    // PyTorch divides a number by a tensor by multiplying with the reciprocal.
    float wavelength =
        (1.0f / frequency) * static_cast<float>(2.0 * std::numbers::pi);
    float scaled = wavelength > longest ? frequency / factor : frequency;
    if (!(wavelength < shortest) && !(wavelength > longest)) {
      float smooth =
          ((1.0f / wavelength) * static_cast<float>(config.originalPositions) -
           low) /
          span;
      scaled = (1.0f - smooth) * scaled / factor + smooth * scaled;
    }
    frequency = scaled;
  }
}

/// Whether LongRope uses the long factors.
bool isLong(const RopeConfig &config, std::optional<int64_t> context) {
  return context && static_cast<double>(*context) > config.originalPositions;
}

} // namespace

/// The share of a head that rotates, of which an odd width has one element
/// more.
static int64_t shareOf(const RopeConfig &config, int64_t headDim) {
  return static_cast<int64_t>(static_cast<double>(headDim) * config.share);
}

int64_t polymoe::rotatedWidth(const RopeConfig &config, int64_t headDim) {
  return (shareOf(config, headDim) + 1) / 2 * 2;
}

double polymoe::defaultAttentionFactor(const RopeConfig &config) {
  if (config.factor <= 1)
    return 1.0;
  if (config.type == RopeConfig::Type::Yarn)
    return 0.1 * std::log(config.factor) + 1.0;
  if (config.type == RopeConfig::Type::LongRope)
    return std::sqrt(1 + std::log(config.factor) /
                             std::log(config.originalPositions));
  return 1.0;
}

std::vector<float> polymoe::ropeFrequencies(const RopeConfig &config,
                                            int64_t headDim,
                                            std::optional<int64_t> context) {
  using Type = RopeConfig::Type;
  const int64_t width = shareOf(config, headDim);
  float base = static_cast<float>(config.theta);
  if (config.type == Type::Dynamic && context)
    base = dynamicBase(config, width, static_cast<double>(*context));
  std::vector<float> powers = powersOf(base, width);
  std::vector<float> result;
  result.reserve(powers.size());
  for (float power : powers)
    result.push_back(1.0f / power);

  switch (config.type) {
  case Type::Default:
  case Type::Dynamic:
    break;
  case Type::Linear:
    for (float &frequency : result)
      frequency /= static_cast<float>(config.factor);
    break;
  case Type::Yarn:
    scaleByYarn(config, width, powers, result);
    break;
  case Type::LongRope: {
    const std::vector<double> &factors =
        isLong(config, context) ? config.longFactors : config.shortFactors;
    for (size_t i = 0; i < result.size(); ++i)
      result[i] = 1.0f / (static_cast<float>(factors.at(i)) * powers[i]);
    break;
  }
  case Type::Llama3:
    scaleByLlama3(config, result);
    break;
  }
  return result;
}

std::optional<int64_t> polymoe::ropeContext(const RopeConfig &config,
                                            std::optional<int64_t> context) {
  if (config.type == RopeConfig::Type::LongRope && !isLong(config, context))
    return static_cast<int64_t>(config.originalPositions);
  if (config.type == RopeConfig::Type::Dynamic)
    return std::max(context.value_or(0),
                    static_cast<int64_t>(config.positions));
  return std::nullopt;
}
