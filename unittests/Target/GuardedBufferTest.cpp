//===-- GuardedBufferTest.cpp - that memory's end is guarded --------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "GuardedBuffer.h"

#include "moe/Runtime/Memory.h"

#include <gtest/gtest.h>

using namespace polymoe;
using namespace polymoe::test;

namespace {

TEST(GuardedBufferDeathTest, EndsWhereMemoryEnds) {
  for (int64_t bytes : {1, 64, 65, 4096, 5000}) {
    GuardedBuffer buffer(bytes);
    auto address = reinterpret_cast<uintptr_t>(buffer.data());
    EXPECT_EQ(address % Buffer::alignment, 0U) << bytes;
    EXPECT_EQ(buffer.data()[bytes - 1], std::byte(0xff)) << bytes;
    // The end of the last line.
    volatile std::byte *end = buffer.data() + (bytes + 63) / 64 * 64;
    EXPECT_DEATH(*end = std::byte(0), "") << bytes;
  }
}

} // namespace
