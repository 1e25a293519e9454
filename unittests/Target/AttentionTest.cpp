//===-- AttentionTest.cpp - attention against plain loops -----------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "TestProgram.h"

#include <cmath>
#include <gtest/gtest.h>

using namespace polymoe::test;

namespace {

struct Config {
  int64_t batch, length, heads, kvHeads, width;
  int64_t window = 0;
  bool alibi = false;
  bool segments = false;
  double softcap = 0;
};

std::string tensorType(std::vector<int64_t> shape, const std::string &element) {
  std::string type = "tensor<";
  for (int64_t extent : shape)
    type += std::to_string(extent) + "x";
  return type + element + ">";
}

std::string attributes(const Config &c) {
  std::string text = "{heads = " + std::to_string(c.heads) +
                     " : i64, kv_heads = " + std::to_string(c.kvHeads) +
                     " : i64, scale = 0.3";
  if (c.window)
    text += ", window = " + std::to_string(c.window) + " : i64";
  if (c.alibi)
    text += ", alibi";
  if (c.softcap > 0)
    text += ", softcap = " + std::to_string(c.softcap);
  return text + "}";
}

/// Forward and backward in one program.
std::string program(const Config &c, const std::string &element) {
  std::string q = tensorType({c.batch, c.length, c.heads * c.width}, element);
  std::string kv =
      tensorType({c.batch, c.length, c.kvHeads * c.width}, element);
  std::string precise = element == "f64" ? "f64" : "f32";
  std::string lse = tensorType({c.batch, c.heads, c.length}, precise);
  std::string ids = tensorType({c.batch, c.length}, "i32");
  auto input = [](const std::string &name, const std::string &type) {
    return "%" + name + ": " + type + " {moe.binding = #moe.binding<input, \"" +
           name + "\">}";
  };
  auto output = [](const std::string &name, const std::string &type) {
    return type + " {moe.binding = #moe.binding<output, \"" + name + "\">}";
  };
  std::string seg = c.segments ? ", %segments" : "";
  std::string segType = c.segments ? ", " + ids : "";
  return "func.func @step(" + input("q", q) + ", " + input("k", kv) + ", " +
         input("v", kv) + ", " + input("slots", ids) + ", " +
         input("segments", ids) + ", " + input("dout", q) + ") -> (" +
         output("out", q) + ", " + output("lse", lse) + ", " + output("dq", q) +
         ", " + output("dk", kv) + ", " + output("dv", kv) +
         ") {\n  %out, %lse = moe.attention %q, %k, %v, %slots" + seg + " " +
         attributes(c) + " : (" + q + ", " + kv + ", " + kv + ", " + ids +
         segType + ") -> (" + q + ", " + lse +
         ")\n  %dq, %dk, %dv = moe.attention_grad %dout, %q, %k, %v, %out, "
         "%lse, %slots" +
         seg + " " + attributes(c) + " : (" + q + ", " + q + ", " + kv + ", " +
         kv + ", " + q + ", " + lse + ", " + ids + segType + ") -> (" + q +
         ", " + kv + ", " + kv +
         ")\n  return %out, %lse, %dq, %dk, %dv : " + q + ", " + lse + ", " +
         q + ", " + kv + ", " + kv + "\n}";
}

Tensors inputsFor(const Config &c) {
  Tensor slots{{c.batch, c.length}, {}}, segments = slots;
  for (int64_t b = 0; b < c.batch; ++b)
    for (int64_t i = 0; i < c.length; ++i) {
      slots.values.push_back(i);
      const int64_t segment = i / 11;
      segments.values.push_back(double(segment));
    }
  std::vector<int64_t> q{c.batch, c.length, c.heads * c.width};
  std::vector<int64_t> kv{c.batch, c.length, c.kvHeads * c.width};
  return {{"q", randomTensor(q, 1)},  {"k", randomTensor(kv, 2)},
          {"v", randomTensor(kv, 3)}, {"dout", randomTensor(q, 4)},
          {"slots", slots},           {"segments", segments}};
}

/// Probabilities of one query, from the op's description, and derivatives of
/// the soft cap of its scores.
std::vector<double> probabilities(const Config &c, const Tensors &in, int64_t b,
                                  int64_t h, int64_t i, double &lse,
                                  std::vector<double> &derivatives) {
  const Tensor &q = in.at("q"), &k = in.at("k");
  int64_t group = h / (c.heads / c.kvHeads);
  int64_t n = int64_t(1) << int64_t(std::floor(std::log2(c.heads)));
  double slope = !c.alibi ? 0
                 : h < n  ? std::pow(2, -8.0 * (h + 1) / n)
                          : std::pow(2, -4.0 * (2 * (h - n) + 1) / n);
  std::vector<double> p(c.length, 0);
  derivatives.assign(c.length, 1);
  double sum = 0;
  for (int64_t j = 0; j <= i; ++j) {
    if (c.window && i - j >= c.window)
      continue;
    if (c.segments && in.at("segments")[i] != in.at("segments")[j])
      continue;
    double dot = 0;
    for (int64_t d = 0; d < c.width; ++d)
      dot += q[((b * c.length + i) * c.heads + h) * c.width + d] *
             k[((b * c.length + j) * c.kvHeads + group) * c.width + d];
    double score = 0.3 * dot;
    if (c.softcap > 0) {
      double tanh = std::tanh(score / c.softcap);
      score = c.softcap * tanh;
      derivatives[j] = 1 - tanh * tanh;
    }
    p[j] = std::exp(score - slope * (i - j));
    sum += p[j];
  }
  for (double &value : p)
    value /= sum;
  lse = std::log(sum);
  return p;
}

Tensors reference(const Config &c, const Tensors &in) {
  const Tensor &q = in.at("q"), &k = in.at("k"), &v = in.at("v"),
               &dout = in.at("dout");
  auto zeros = [](const Tensor &like) {
    return Tensor{like.shape, std::vector<double>(like.size(), 0)};
  };
  Tensors out{{"out", zeros(q)},
              {"dq", zeros(q)},
              {"dk", zeros(k)},
              {"dv", zeros(v)},
              {"lse", {{}, std::vector<double>(c.batch * c.heads * c.length)}}};
  for (int64_t b = 0; b < c.batch; ++b)
    for (int64_t h = 0; h < c.heads; ++h)
      for (int64_t i = 0; i < c.length; ++i) {
        double lse;
        std::vector<double> derivatives;
        std::vector<double> p = probabilities(c, in, b, h, i, lse, derivatives);
        out["lse"][(b * c.heads + h) * c.length + i] = lse;
        int64_t group = h / (c.heads / c.kvHeads);
        int64_t qRow = ((b * c.length + i) * c.heads + h) * c.width;
        auto kvRow = [&](int64_t j) {
          return ((b * c.length + j) * c.kvHeads + group) * c.width;
        };
        double delta = 0;
        for (int64_t d = 0; d < c.width; ++d) {
          for (int64_t j = 0; j <= i; ++j)
            out["out"][qRow + d] += p[j] * v[kvRow(j) + d];
          delta += out["out"][qRow + d] * dout[qRow + d];
        }
        for (int64_t j = 0; j <= i; ++j) {
          double dp = 0;
          for (int64_t d = 0; d < c.width; ++d)
            dp += dout[qRow + d] * v[kvRow(j) + d];
          double ds = p[j] * (dp - delta) * derivatives[j] * 0.3;
          for (int64_t d = 0; d < c.width; ++d) {
            out["dq"][qRow + d] += ds * k[kvRow(j) + d];
            out["dk"][kvRow(j) + d] += ds * q[qRow + d];
            out["dv"][kvRow(j) + d] += p[j] * dout[qRow + d];
          }
        }
      }
  return out;
}

class Attention : public ::testing::TestWithParam<Config> {};

TEST_P(Attention, EqualsPlainLoops) {
  Config c = GetParam();
  Tensors in = inputsFor(c);
  Tensors expected = reference(c, in);
  for (int64_t vectorBytes : {0, 32}) {
    Tensors f32 = runProgram(program(c, "f32"), in, 2, vectorBytes);
    Tensors f64 = runProgram(program(c, "f64"), in, 1, vectorBytes);
    for (auto &[name, tensor] : expected) {
      expectClose(f32[name], tensor, 3e-6, name + " in f32");
      expectClose(f64[name], tensor, 1e-13, name + " in f64");
    }
  }
}

TEST_P(Attention, Bf16SumsInF32) {
  Config c = GetParam();
  Tensors in = inputsFor(c);
  for (const char *name : {"q", "k", "v", "dout"})
    in[name] = roundToBf16(in[name]);
  for (const Mode &mode : ofHost(bf16Modes())) {
    SCOPED_TRACE(nameOf(mode));
    Tensors out = runProgram(program(c, "bf16"), in, 2, mode.vectorBytes,
                             mode.bf16Products);
    for (auto &[name, tensor] : reference(c, in))
      // The output is rounded, and gradients start from what it became.
      expectClose(out[name], tensor, name == "lse" ? 3e-6 : 0x1p-7, name);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, Attention,
    ::testing::Values(Config{1, 1, 1, 1, 1}, Config{2, 37, 6, 2, 10},
                      Config{1, 50, 4, 4, 16, 7},
                      Config{1, 40, 6, 3, 20, 0, true},
                      Config{2, 37, 2, 1, 33, 0, false, true},
                      Config{2, 37, 6, 2, 10, 9, true, true, 0.5}));

/// One program that extends a cache by `length` tokens.
std::string extension(int64_t length, int64_t capacity,
                      const std::string &element,
                      const std::string &attributes = "") {
  std::string q = tensorType({1, length, 48}, element);
  std::string cache = tensorType({1, capacity, 12}, element);
  std::string slots = tensorType({1, length}, "i32");
  return "func.func @extend(%q: " + q +
         " {moe.binding = #moe.binding<input, \"q\">}, %k: " + cache +
         " {moe.binding = #moe.binding<input, \"k\">}, %v: " + cache +
         " {moe.binding = #moe.binding<input, \"v\">}, %slots: " + slots +
         " {moe.binding = #moe.binding<input, \"slots\">}) -> (" + q +
         " {moe.binding = #moe.binding<output, \"out\">}) {\n  %out = "
         "moe.attention %q, %k, %v, %slots {heads = 8 : i64, kv_heads = 2 : "
         "i64, scale = 0.4" +
         attributes + "} : (" + q + ", " + cache + ", " + cache + ", " + slots +
         ") -> " + q + "\n  return %out : " + q + "\n}";
}

TEST(AttentionCache, DecodingEqualsPrefillBitForBit) {
  constexpr int64_t length = 37, capacity = 64, width = 48;
  Tensor q = randomTensor({1, length, width}, 1);
  Tensors in{{"k", randomTensor({1, capacity, 12}, 2)},
             {"v", randomTensor({1, capacity, 12}, 3)}};
  // What lies beyond the last slot is never read.
  for (const char *name : {"k", "v"})
    for (int64_t i = length * 12; i < capacity * 12; ++i)
      in[name][i] = std::nan("");
  auto run = [&](int64_t first, int64_t count, const char *type,
                 const char *attributes) {
    Tensors call = in;
    call["q"] = {{1, count, width},
                 {q.values.begin() + first * width,
                  q.values.begin() + (first + count) * width}};
    for (int64_t i = 0; i < count; ++i)
      call["slots"].values.push_back(first + i);
    return runProgram(extension(count, capacity, type, attributes), call)["out"]
        .values;
  };
  const std::pair<const char *, const char *> cases[] = {
      {"f32", ""}, {"bf16", ""}, {"f32", ", softcap = 0.5"}};
  for (auto [type, attributes] : cases) {
    std::vector<double> whole = run(0, length, type, attributes);
    for (int64_t step : {1, 8, 20}) {
      for (int64_t first = 0; first + step <= length; first += 9) {
        std::vector<double> part = run(first, step, type, attributes);
        EXPECT_EQ(part,
                  std::vector<double>(whole.begin() + first * width,
                                      whole.begin() + (first + step) * width))
            << step << " tokens from " << first << " in " << type << attributes;
      }
    }
  }
}

// Keys of a cache are packed by a few queries that read them, for heads that
// share them at once; for many queries they are packed beforehand.
TEST(AttentionCache, EqualsAttentionWithoutOneBitForBit) {
  constexpr int64_t length = 37, width = 48;
  auto run = [&](int64_t capacity, int64_t vectorBytes, const char *type) {
    Tensors in{{"q", randomTensor({1, length, width}, 1)},
               {"k", randomTensor({1, length, 12}, 2)},
               {"v", randomTensor({1, length, 12}, 3)}};
    for (const char *name : {"k", "v"}) {
      in[name].shape[1] = capacity;
      in[name].values.resize(capacity * 12, std::nan(""));
    }
    for (int64_t i = 0; i < length; ++i)
      in["slots"].values.push_back(i);
    return runProgram(extension(length, capacity, type), in, 2,
                      vectorBytes)["out"]
        .values;
  };
  for (const char *type : {"f32", "bf16"})
    for (int64_t vectorBytes : {0, 32})
      for (int64_t capacity : {38, 61, 96})
        EXPECT_EQ(run(capacity, vectorBytes, type),
                  run(length, vectorBytes, type))
            << "a cache of " << capacity << " in " << type;
}

TEST(AttentionThreads, SameBitsForAnyNumber) {
  Config c{2, 37, 6, 2, 10};
  Tensors in = inputsFor(c);
  Tensors one = runProgram(program(c, "f32"), in, 1);
  Tensors three = runProgram(program(c, "f32"), in, 3);
  for (auto &[name, tensor] : one)
    EXPECT_EQ(tensor.values, three[name].values) << name;
}

} // namespace
