//===-- AbiTest.cpp - the wall between compiled code and runtime ----------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/ThreadPool.h"

#include <gtest/gtest.h>

#include <fstream>
#include <string>

using namespace polymoe;

TEST(Abi, EverySymbolResolves) {
  size_t count = 0;
#define MOE_SYMBOL(function)                                                   \
  ASSERT_LT(count, abiSymbols().size());                                       \
  EXPECT_STREQ(abiSymbols()[count].name, #function);                           \
  EXPECT_EQ(abiSymbols()[count].address,                                       \
            reinterpret_cast<void *>(&(function)));                            \
  ++count;
#include "moe/Runtime/Symbols.def"
  EXPECT_EQ(count, abiSymbols().size());
}

TEST(Abi, NoCompilerInTheProcess) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    EXPECT_EQ(line.find("libMLIR"), std::string::npos) << line;
    EXPECT_EQ(line.find("libLLVM"), std::string::npos) << line;
  }
}

TEST(Abi, CompiledCodeCallsThroughTheTable) {
  // As the JIT does it: by address, knowing ABI.h only.
  using Function =
      void (*)(MoeContext *, MoeTask, int64_t, void *const *, const char *);
  auto function = reinterpret_cast<Function>(abiSymbols()[0].address);
  ThreadPool pool(2);
  MoeContext context{&pool, nullptr};
  std::vector<int64_t> seen(100, 0);
  int64_t factor = 3;
  // An integer travels as a pointer.
  void *args[] = {seen.data(), reinterpret_cast<void *>(factor)};
  function(
      &context,
      [](int64_t item, void *const *args) {
        static_cast<int64_t *>(args[0])[item] =
            item * reinterpret_cast<int64_t>(args[1]);
      },
      100, args, "times");
  for (int64_t i = 0; i < 100; ++i)
    EXPECT_EQ(seen[size_t(i)], 3 * i);
}
