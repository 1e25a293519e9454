//===-- ProgramExecutorTest.cpp -------------------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "TestFolder.h"
#include "moe/Runtime/Executor.h"
#include "moe/Runtime/Parameters.h"
#include "moe/Runtime/ThreadPool.h"

#include <gtest/gtest.h>

#include <algorithm>

using namespace polymoe;

namespace {
/// One program for every use: it returns its tokens as floats, in an output of
/// `spare` more elements.
class FloatsOfTokens : public ProgramSource {
public:
  explicit FloatsOfTokens(int64_t spare) {
    auto copy = [](MoeContext *, void *const *args) {
      std::copy_n(static_cast<const int32_t *>(args[0]), 6,
                  static_cast<float *>(args[1]));
    };
    program.entries = {
        {"score",
         copy,
         {{Binding::Kind::Input, "tokens", DType::I32, {2, 3}},
          {Binding::Kind::Output, "logprobs", DType::F32, {6 + spare}}}}};
  }
  const Program &get(const ProgramUse &) override { return program; }

private:
  Program program;
};

class ProgramExecutor : public testing::Test {
protected:
  Executor make(int64_t spare = 0) {
    return makeProgramExecutor(std::make_unique<FloatsOfTokens>(spare), store,
                               pool);
  }
  static std::vector<float> score(const Executor &executor,
                                  std::vector<int32_t> tokens,
                                  size_t room = 6) {
    std::vector<float> logprobs(room);
    Batch batch;
    batch.rows = 2;
    batch.length = 3;
    batch.tokens = std::move(tokens);
    executor.scorer->score(batch, logprobs, {});
    return logprobs;
  }

  ThreadPool pool{1};
  ParameterStore store{{}, ".", pool, {.training = false}};
};
} // namespace

TEST_F(ProgramExecutor, RunsTheProgram) {
  EXPECT_EQ(score(make(), {1, 2, 3, 4, 5, 6}),
            (std::vector<float>{1, 2, 3, 4, 5, 6}));
}

TEST_F(ProgramExecutor, InputsHaveTheSizeThatTheProgramTakes) {
  Executor executor = make();
  EXPECT_ERROR(score(executor, {1, 2, 3, 4, 5, 6, 7}),
               "expected 6 numbers of 'tokens', but got 7");
  EXPECT_ERROR(score(executor, {1, 2, 3, 4, 5}), "but got 5");
  EXPECT_ERROR(score(executor, {}), "but got 0");
}

TEST_F(ProgramExecutor, OutputsHaveTheSizeThatTheProgramReturns) {
  Executor executor = make();
  EXPECT_ERROR(score(executor, {1, 2, 3, 4, 5, 6}, 7),
               "expected 6 numbers of 'logprobs', but got 7");
  EXPECT_ERROR(score(executor, {1, 2, 3, 4, 5, 6}, 5), "but got 5");
}

TEST_F(ProgramExecutor, AProgramWithoutMemoryStaysUnbound) {
  Executor executor = make(/*spare=*/int64_t(1) << 58);
  for (int attempt = 0; attempt < 2; ++attempt)
    EXPECT_ERROR(score(executor, {1, 2, 3, 4, 5, 6}), "out of memory");
}
