//===-- ParametersTest.cpp ------------------------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/Parameters.h"
#include "TestFolder.h"
#include "moe/Runtime/Safetensors.h"
#include "moe/Runtime/ThreadPool.h"

#include <cmath>
#include <cstring>
#include <limits>

using namespace polymoe;

namespace {
class Parameters : public testing::Test {
protected:
  Parameters() : pool(2) {}

  /// Writes F32 tensors.
  void write(const std::string &file,
             const std::map<std::string,
                            std::pair<std::vector<int64_t>, std::vector<float>>>
                 &tensors) {
    SafetensorsWriter writer(folder / file);
    for (const auto &[name, tensor] : tensors)
      writer.add(name, DType::F32, tensor.first,
                 std::as_bytes(std::span(tensor.second)));
    writer.finish();
  }

  ParameterStore load(std::vector<ParameterSpec> specs,
                      ParameterOptions options = {}) {
    return ParameterStore(std::move(specs), folder.path, pool,
                          std::move(options));
  }

  static std::vector<float> valuesOf(const ParameterStore &store,
                                     const std::string &name) {
    const ParameterSpec &spec = store.spec(name);
    std::vector<float> values(size_t(*byteSizeOf(spec.shape, 1)));
    convert(spec.dtype, store.value(name), DType::F32, values.data(),
            int64_t(values.size()));
    return values;
  }

  TestFolder folder;
  ThreadPool pool;
};
} // namespace

static ParameterSpec fromKey(std::string name, std::vector<int64_t> shape,
                             bool trainable = false, DType dtype = DType::F32) {
  return {name, dtype, std::move(shape), trainable,
          CheckpointOrigin{"a.safetensors", name, {}}};
}

static ParameterSpec rowsOf(std::string key, std::vector<int64_t> shape,
                            RowSelection rows) {
  return {"p", DType::F32, std::move(shape), false,
          CheckpointOrigin{"a.safetensors", std::move(key), rows}};
}

TEST_F(Parameters, FrozenOnesStayInTheFile) {
  write("a.safetensors", {{"w", {{2, 2}, {1, 2, 3, 4}}}});
  ParameterStore store = load({fromKey("w", {2, 2})});
  EXPECT_TRUE(store.isMapped("w"));
  EXPECT_EQ(store.allocatedBytes(), 0);
  EXPECT_EQ(store.mappedBytes(), 16);
  EXPECT_EQ(valuesOf(store, "w"), (std::vector<float>{1, 2, 3, 4}));
  EXPECT_EQ(store.gradient("w"), nullptr);
  EXPECT_EQ(store.master("w"), nullptr);
  EXPECT_TRUE(store.trainables().empty());
}

TEST_F(Parameters, TrainableF16HasAnF32Master) {
  write("a.safetensors", {{"w", {{2}, {1.00001f, -3.1415926f}}}});
  ParameterStore store = load({fromKey("w", {2}, true, DType::F16)});
  EXPECT_FALSE(store.isMapped("w"));
  auto *master = static_cast<float *>(store.master("w"));
  // The master has every digit of the checkpoint, the value is rounded.
  EXPECT_EQ(master[1], -3.1415926f);
  EXPECT_EQ(valuesOf(store, "w"), (std::vector<float>{1.0f, -3.140625f}));
  master[0] = 2.5f;
  store.refreshComputeCopies();
  EXPECT_EQ(valuesOf(store, "w")[0], 2.5f);
  auto *gradient = static_cast<float *>(store.gradient("w"));
  gradient[0] = gradient[1] = 7;
  store.zeroGradients();
  EXPECT_EQ(gradient[0], 0);
  EXPECT_EQ(gradient[1], 0);
  for (void *memory :
       {store.value("w"), store.master("w"), store.gradient("w")})
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory) % 64, 0u);
}

TEST_F(Parameters, GradientsLieWhereTheyArePlaced) {
  write("a.safetensors", {{"w", {{2}, {1, 2}}}, {"x", {{2}, {3, 4}}}});
  ParameterStore store =
      load({fromKey("w", {2}, true), fromKey("x", {2}, true)});
  auto *own = static_cast<float *>(store.gradient("w"));
  own[0] = own[1] = 7;
  float elsewhere[] = {5, 6};
  store.placeGradients(std::vector<GradientPlace>{{"w", elsewhere}});
  EXPECT_EQ(store.gradient("w"), elsewhere);
  EXPECT_EQ(elsewhere[1], 6);
  // One without a place is zero.
  EXPECT_EQ(store.gradient("x"), own);
  EXPECT_EQ(own[1], 0);
  store.zeroGradients();
  EXPECT_EQ(store.gradient("w"), own);
  EXPECT_EQ(elsewhere[1], 6);
}

TEST_F(Parameters, GradientsLieInTheOrderThatIsAskedFor) {
  write("a.safetensors", {{"w", {{17}, std::vector<float>(17)}},
                          {"x", {{1}, {3}}},
                          {"y", {{1}, {4}}}});
  ParameterStore store =
      load({fromKey("w", {17}, true), fromKey("x", {1}, true),
            fromKey("y", {1}, true)});
  auto *first = static_cast<float *>(store.gradient("w"));
  first[0] = 7;
  store.placeGradients(std::vector<GradientPlace>{{"y"}, {"w"}});
  EXPECT_EQ(store.gradient("y"), first);
  EXPECT_EQ(first[0], 0);
  // Each begins at a multiple of 64 bytes.
  EXPECT_EQ(store.gradient("w"), first + 16);
  EXPECT_EQ(store.gradient("x"), first + 16 + 32);
}

TEST_F(Parameters, TheMasterOfBF16IsAnF32NumberInTwoHalves) {
  const std::vector<float> numbers = {
      1.00001f,   -3.1415926f, 0,        -0.0f,
      0x1.01p0f, // a tie
      -0x1.03p0f, 1e-40f,      3.38e38f, -1e-45f};
  const auto count = int64_t(numbers.size());
  write("a.safetensors", {{"w", {{count}, numbers}}});
  ParameterStore store = load({fromKey("w", {count}, true, DType::BF16)});
  EXPECT_EQ(store.master("w"), nullptr);
  const TrainableParameter &state = *store.findTrainable("w");
  // Every digit of the checkpoint is there, the value is rounded.
  std::vector<float> masters(numbers.size());
  state.readMaster(0, count, masters.data());
  EXPECT_EQ(0, std::memcmp(masters.data(), numbers.data(), size_t(count) * 4));
  const std::vector<float> values = valuesOf(store, "w");
  EXPECT_EQ(values[0], 1.0f);
  EXPECT_EQ(values[1], -3.140625f);
  EXPECT_EQ(values[4], 0x1.02p0f);
  EXPECT_EQ(values[5], -0x1.04p0f);
  const float other = 2.5f;
  state.writeMaster(1, 1, &other);
  EXPECT_EQ(valuesOf(store, "w")[1], 2.5f);
  EXPECT_EQ(valuesOf(store, "w")[0], 1.0f);
  // Value and lower half, and the gradient and moments in F32.
  EXPECT_EQ(store.allocatedBytes(), count * (2 + 2 + 4 + 8));
}

TEST_F(Parameters, TrainableF32AndF64AreTheirOwnMasters) {
  write("a.safetensors", {{"w", {{1}, {2}}}, {"x", {{1}, {3}}}});
  ParameterStore store =
      load({fromKey("w", {1}, true), fromKey("x", {1}, true, DType::F64)});
  EXPECT_EQ(store.master("w"), store.value("w"));
  EXPECT_EQ(store.master("x"), store.value("x"));
  EXPECT_EQ(store.trainables()[1].masterType, DType::F64);
  EXPECT_EQ(*static_cast<double *>(store.value("x")), 3.0);
}

TEST_F(Parameters, WithoutTrainingThereIsNoGradient) {
  write("a.safetensors", {{"w", {{1}, {2}}}});
  ParameterStore store = load({fromKey("w", {1}, true)}, {.training = false});
  EXPECT_EQ(store.gradient("w"), nullptr);
  EXPECT_EQ(store.allocatedBytes(), 4);
}

TEST_F(Parameters, CopiesBeginEqual) {
  write("a.safetensors", {{"w", {{2}, {1, 2}}}});
  ParameterStore store =
      load({{"c2", DType::F32, {2}, true, CopyOrigin{"c1"}},
            {"c1", DType::F32, {2}, true, CopyOrigin{"w"}},
            fromKey("w", {2}),
            {"f", DType::F32, {2}, false, CopyOrigin{"w"}},
            {"r", DType::F32, {3}, false, InitOrigin{InitOrigin::Kind::Normal}},
            {"s", DType::F32, {3}, true, CopyOrigin{"r"}}});
  EXPECT_EQ(valuesOf(store, "c2"), (std::vector<float>{1, 2}));
  EXPECT_NE(store.value("c1"), store.value("c2"));
  // A frozen copy of a mapped parameter costs nothing.
  EXPECT_EQ(store.value("f"), store.value("w"));
  EXPECT_EQ(valuesOf(store, "s"), valuesOf(store, "r"));
}

TEST_F(Parameters, RefusesCopiesThatCannotBe) {
  EXPECT_ERROR(load({{"c", DType::F32, {2}, true, CopyOrigin{"none"}}}),
               "parameter 'c': its source 'none' does not exist");
  EXPECT_ERROR(load({{"a", DType::F32, {2}, true, CopyOrigin{"b"}},
                     {"b", DType::F32, {2}, true, CopyOrigin{"a"}}}),
               "parameter 'a' is a copy of itself");
  EXPECT_ERROR(load({{"a", DType::F32, {2}, true, CopyOrigin{"b"}},
                     {"b", DType::F32, {1, 2}, true, InitOrigin{}}}),
               "expected its source 'b' to have shape [2], but got [1, 2]");
  EXPECT_ERROR(load({{"a", DType::F32, {2}, true, InitOrigin{}},
                     {"a", DType::F32, {2}, true, InitOrigin{}}}),
               "defined twice");
}

TEST_F(Parameters, TakesRows) {
  // Six rows of two columns, numbered by row.
  write("a.safetensors",
        {{"m", {{3, 2, 2}, {0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5}}},
         {"v", {{6}, {0, 1, 2, 3, 4, 5}}}});
  ParameterOptions partly{.requireAllKeys = false};
  auto take = [&](std::string key, std::vector<int64_t> shape,
                  RowSelection rows) {
    return valuesOf(
        load({rowsOf(std::move(key), std::move(shape), rows)}, partly), "p");
  };
  EXPECT_EQ(take("m", {2, 2}, {2, 2, 2}), (std::vector<float>{2, 2, 3, 3}));
  EXPECT_EQ(take("m", {3, 2}, {1, 1, 2}),
            (std::vector<float>{1, 1, 3, 3, 5, 5}));
  EXPECT_EQ(take("v", {4}, {0, 2, 3}), (std::vector<float>{0, 1, 3, 4}));
  EXPECT_EQ(take("v", {2, 2}, {0, 2, 2}), (std::vector<float>{0, 1, 2, 3}));
  // One expert out of many lies in one piece and is mapped.
  EXPECT_TRUE(load({rowsOf("m", {2, 2}, {2, 2, 2})}, partly).isMapped("p"));
  EXPECT_FALSE(load({rowsOf("m", {3, 2}, {1, 1, 2})}, partly).isMapped("p"));

  EXPECT_ERROR(take("m", {2, 2}, {5, 2, 2}), "do not fit");
  EXPECT_ERROR(take("m", {4, 2}, {0, 2, 4}), "");
  EXPECT_ERROR(take("m", {4, 2}, {0, 1, INT64_MAX}), "do not fit");
  EXPECT_ERROR(take("m", {4, 2}, {0, 2, 1}), "overlap");
  EXPECT_ERROR(take("m", {4, 3}, {0, 2, 2}), "cannot take shape [4, 3]");
  EXPECT_ERROR(take("m", {3, 2}, {0, 2, 2}), "cannot take");
  EXPECT_ERROR(take("m", {2, 2}, {-1, 2, 2}), "cannot take");
  EXPECT_ERROR(take("m", {2, 2}, {0, 0, 2}), "cannot take");
}

TEST_F(Parameters, NamesFileAndKeyOfWhatIsWrong) {
  write("a.safetensors", {{"w", {{2, 2}, {1, 2, 3, 4}}}});
  EXPECT_ERROR(load({fromKey("x", {2})}),
               "a.safetensors: key 'x' is missing (parameter 'x')");
  EXPECT_ERROR(load({fromKey("w", {4})}),
               "a.safetensors: key 'w': expected shape [4], but got [2, 2]");
  EXPECT_ERROR(load({fromKey("w", {2, 2}, false, DType::I32)}),
               "key 'w': expected I32, but got F32");
  EXPECT_ERROR(load({fromKey("w", {2, 2}, true, DType::I8)}),
               "expected a floating-point type for what trains");
  EXPECT_ERROR(load({{"w",
                      DType::F32,
                      {2},
                      false,
                      CheckpointOrigin{"b.safetensors", "w", {}}}}),
               "b.safetensors: cannot be opened");
  EXPECT_ERROR(
      load({{"h", DType::F32, {INT64_MAX, INT64_MAX}, false, InitOrigin{}}}),
      "too large");
}

TEST_F(Parameters, RefusesWhatIsNotFinite) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (float bad : {infinity, -infinity, std::nanf("")})
    for (bool trainable : {false, true}) {
      write("a.safetensors", {{"w", {{3}, {1, bad, 3}}}});
      EXPECT_ERROR(load({fromKey("w", {3}, trainable)}),
                   "a.safetensors: key 'w': holds a value that is not finite");
    }
  // Finite in the file, too large for the type that it is wanted in.
  write("a.safetensors", {{"w", {{1}, {1e6f}}}});
  EXPECT_ERROR(load({fromKey("w", {1}, false, DType::F16)}),
               "not finite as F16");
}

TEST_F(Parameters, EveryKeyIsUsedOrIgnored) {
  write("a.safetensors", {{"w", {{1}, {1}}},
                          {"extra", {{1}, {1}}},
                          {"l.0.rotary_emb.inv_freq", {{1}, {1}}}});
  EXPECT_ERROR(load({fromKey("w", {1})}),
               "a.safetensors: key 'extra': unexpected key");
  ParameterStore store = load({fromKey("w", {1})}, {.requireAllKeys = false});
  ASSERT_EQ(store.unusedKeys().size(), 1u);
  load({fromKey("w", {1})}, {.ignoredKeys = {"ex*", "*inv_freq"}});
}

TEST_F(Parameters, PatternsMatch) {
  EXPECT_TRUE(matches("*", ""));
  EXPECT_TRUE(matches("a*c*e", "abcde"));
  EXPECT_TRUE(matches("a*bc", "abcbc"));
  EXPECT_FALSE(matches("a*bc", "abcb"));
  EXPECT_FALSE(matches("", "a"));
  EXPECT_FALSE(matches("*.inv_freq", "inv_freq"));
}

TEST_F(Parameters, InitialValuesDependOnSeedAndNameOnly) {
  auto draw = [&](const std::string &name, uint64_t seed, int threads,
                  std::vector<int64_t> shape, DType dtype = DType::F32) {
    ThreadPool other(threads);
    ParameterStore store(
        {{"first",
          DType::F32,
          {5},
          false,
          InitOrigin{InitOrigin::Kind::Normal, 1, 9}},
         {name, dtype, std::move(shape), true,
          InitOrigin{InitOrigin::Kind::XavierNormal, 0, seed}}},
        folder.path, other);
    return valuesOf(store, name);
  };
  const std::vector<float> a = draw("router", 1, 1, {300, 701});
  EXPECT_EQ(a, draw("router", 1, 3, {300, 701}));
  EXPECT_NE(a, draw("router2", 1, 1, {300, 701}));
  EXPECT_NE(a, draw("router", 2, 1, {300, 701}));
  double sum = 0, squares = 0, fourth = 0;
  for (float value : a) {
    sum += value;
    squares += double(value) * value;
    fourth += std::pow(double(value), 4);
  }
  const double n = double(a.size()), variance = squares / n;
  EXPECT_NEAR(std::sqrt(variance), std::sqrt(2.0 / 1001), 3e-4);
  EXPECT_NEAR(sum / n, 0, 4 * std::sqrt(variance / n));
  EXPECT_NEAR(fourth / n / (variance * variance), 3, 0.1); // a normal's tails
  // Element 0, by the documented recipe.
  const uint64_t key = mix64(1 + mix64(hashOf("router")));
  const double u0 = uniform(randomBits(key, 0)),
               u1 = uniform(randomBits(key, 1));
  EXPECT_EQ(a[0],
            float(std::sqrt(-2 * std::log1p(-u0)) * std::sqrt(2.0 / 1001) *
                  std::cos(2 * 3.14159265358979323846 * u1)));
}

TEST_F(Parameters, OtherInitialValues) {
  ParameterStore store = load(
      {{"o", DType::BF16, {3}, false, InitOrigin{InitOrigin::Kind::Ones}},
       {"z", DType::F16, {2}, true, InitOrigin{InitOrigin::Kind::Zeros}},
       {"e", DType::F32, {0, 4}, true, InitOrigin{InitOrigin::Kind::Normal}}});
  EXPECT_EQ(valuesOf(store, "o"), (std::vector<float>{1, 1, 1}));
  EXPECT_EQ(valuesOf(store, "z"), (std::vector<float>{0, 0}));
  EXPECT_ERROR(load({{"x",
                      DType::F32,
                      {3},
                      false,
                      InitOrigin{InitOrigin::Kind::XavierNormal}}}),
               "expected a shape [out, in]");
  EXPECT_ERROR(
      load({{"x", DType::I32, {3}, false, InitOrigin{InitOrigin::Kind::Ones}}}),
      "floating-point");
}
