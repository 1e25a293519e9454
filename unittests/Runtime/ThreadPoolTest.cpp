//===-- ThreadPoolTest.cpp ------------------------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/ThreadPool.h"
#include "moe/Runtime/Error.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <thread>

using namespace polymoe;

TEST(ThreadPool, RunsEveryItemOnce) {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (int64_t items : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> count(size_t(items) + 1);
      parallelFor(pool, items, [&](int64_t item) { ++count[size_t(item)]; });
      for (int64_t i = 0; i < items; ++i)
        ASSERT_EQ(count[size_t(i)], 1);
      ASSERT_EQ(count[size_t(items)], 0);
    }
  }
}

// Late workers must never touch the job that follows the one they woke up for.
TEST(ThreadPool, ManySmallJobsOnTooManyThreads) {
  ThreadPool pool(6);
  for (int64_t job = 0; job < 20000; ++job) {
    const int64_t items = 1 + job % 9;
    std::vector<int64_t> seen(size_t(items), -1);
    parallelFor(pool, items, [&](int64_t item) { seen[size_t(item)] = job; });
    for (int64_t value : seen)
      ASSERT_EQ(value, job);
  }
}

TEST(ThreadPool, SleepsAndWakesUpAgain) {
  ThreadPool pool(2);
  for (int i = 0; i < 5; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    std::atomic<int> count = 0;
    parallelFor(pool, 64, [&](int64_t) { ++count; });
    EXPECT_EQ(count, 64);
  }
}

TEST(ThreadPool, TasksMayUseMuchStack) {
  ThreadPool pool(4);
  runOnLargeStack([&] {
    std::atomic<int> total = 0;
    parallelFor(pool, 16, [&](int64_t item) {
      volatile char scratch[16 << 20];
      for (size_t i = 0; i < sizeof(scratch); i += 4096)
        scratch[i] = 1;
      total += scratch[size_t(item) * 4096];
    });
    EXPECT_EQ(total, 16);
  });
}

TEST(ThreadPool, LargeStackPassesErrorsOn) {
  EXPECT_THROW(runOnLargeStack([] { fail("no"); }), Error);
}

TEST(ThreadPool, RecordsWhatRan) {
  ThreadPool pool(2);
  Profile profile;
  MoeContext context{&pool, &profile};
  auto nothing = [](int64_t, void *const *) {};
  moeParallelFor(&context, nothing, 5, nullptr, "first");
  moeParallelFor(&context, nothing, 0, nullptr, "second");
  ASSERT_EQ(profile.all().size(), 2u);
  EXPECT_STREQ(profile.all()[0].name, "first");
  EXPECT_EQ(profile.all()[0].items, 5);
  EXPECT_LE(profile.all()[0].end, profile.all()[1].begin);
  EXPECT_NE(profile.toChromeTrace().find("\"second\""), std::string::npos);
}

TEST(ThreadPoolDeathTest, NestedCallsEndTheProcess) {
  EXPECT_DEATH(
      {
        ThreadPool pool(1);
        parallelFor(pool, 1,
                    [&](int64_t) { parallelFor(pool, 1, [](int64_t) {}); });
      },
      "inside a task");
}
