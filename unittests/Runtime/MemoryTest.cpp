//===-- MemoryTest.cpp ----------------------------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/Memory.h"
#include "TestFolder.h"

#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>

using namespace polymoe;

TEST(Memory, BuffersAreAlignedAndZero) {
  for (int64_t size : {1, 63, 64, 1000, (1 << 20) - 1, 1 << 20, 3 << 20}) {
    Buffer buffer(size, "test");
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
    EXPECT_EQ(buffer.size(), size);
    for (std::byte byte : buffer.bytes())
      ASSERT_EQ(byte, std::byte(0));
    std::memset(buffer.data(), 1, size_t(size));
  }
  EXPECT_ERROR(Buffer(int64_t(1) << 62, "parameter 'x'"),
               "out of memory: 4611686018427387904 bytes for parameter 'x'");
}

static void put(const std::filesystem::path &file, const std::string &text) {
  std::filesystem::create_directories(file.parent_path());
  std::ofstream(file) << text;
}

TEST(Memory, AvailableMemoryIsWhatAllGroupsLeave) {
  TestFolder root;
  EXPECT_EQ(availableMemory(root.path), std::numeric_limits<int64_t>::max());
  put(root / "proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:  8000 kB\n");
  put(root / "proc/self/cgroup", "0::/a/b\n");
  EXPECT_EQ(availableMemory(root.path), 8000 * 1024);
  put(root / "sys/fs/cgroup/a/b/memory.max", "max\n");
  put(root / "sys/fs/cgroup/a/b/memory.current", "70\n");
  put(root / "sys/fs/cgroup/a/memory.max", "1000\n");
  put(root / "sys/fs/cgroup/a/memory.current", "400\n");
  put(root / "sys/fs/cgroup/a/memory.stat", "anon 3\ninactive_file 50\n");
  EXPECT_EQ(availableMemory(root.path), 650);

  put(root / "proc/self/cgroup", "4:memory:/c\n3:cpu,cpuacct:/c\n");
  EXPECT_EQ(availableMemory(root.path), 8000 * 1024);
  put(root / "sys/fs/cgroup/memory/memory.limit_in_bytes", "500\n");
  put(root / "sys/fs/cgroup/memory/memory.usage_in_bytes", "600\n");
  EXPECT_EQ(availableMemory(root.path), 0);
}

static uint16_t toBF16(float value) {
  uint16_t bits;
  convert(DType::F32, &value, DType::BF16, &bits, 1);
  return bits;
}

TEST(Memory, BF16RoundsToNearestEven) {
  auto fromBits = [](uint32_t bits) { return std::bit_cast<float>(bits); };
  EXPECT_EQ(toBF16(1.0f), 0x3F80);
  EXPECT_EQ(toBF16(fromBits(0x3F808000)), 0x3F80); // tie to even, down
  EXPECT_EQ(toBF16(fromBits(0x3F818000)), 0x3F82); // tie to even, up
  EXPECT_EQ(toBF16(fromBits(0x3F808001)), 0x3F81);
  EXPECT_EQ(toBF16(fromBits(0x7F7FFFFF)), 0x7F80); // overflows
  EXPECT_EQ(toBF16(-0.0f), 0x8000);
  // A NaN whose upper half looks like infinity stays a NaN.
  EXPECT_GT(toBF16(fromBits(0x7F800001)) & 0x7FFF, 0x7F80);
}

TEST(Memory, NarrowValuesSurviveTheWayThroughWideOnes) {
  for (DType narrow : {DType::BF16, DType::F16})
    for (DType wide : {DType::F32, DType::F64})
      for (uint32_t bits = 0; bits < 65536; ++bits) {
        const auto before = uint16_t(bits);
        double between = 0;
        uint16_t after = 0;
        convert(narrow, &before, wide, &between, 1);
        convert(wide, &between, narrow, &after, 1);
        if (allFinite(narrow, &before, 1)) {
          ASSERT_EQ(before, after);
        } else {
          ASSERT_FALSE(allFinite(wide, &between, 1));
        }
      }
}

TEST(Memory, FindsWhatIsNotFinite) {
  for (DType type : {DType::F64, DType::F32, DType::BF16, DType::F16})
    for (double bad : {std::numeric_limits<double>::infinity(),
                       -std::numeric_limits<double>::infinity(),
                       std::numeric_limits<double>::quiet_NaN()})
      for (size_t at : {size_t(0), size_t(17), size_t(36)}) {
        std::vector<double> values(37, 1e4), converted(37);
        convert(DType::F64, values.data(), type, converted.data(), 37);
        EXPECT_TRUE(allFinite(type, converted.data(), 37));
        values[at] = bad;
        convert(DType::F64, values.data(), type, converted.data(), 37);
        EXPECT_FALSE(allFinite(type, converted.data(), 37));
      }
}

TEST(Memory, RandomNumbersAreAsDocumented) {
  // The first outputs of SplitMix64 seeded with 0.
  EXPECT_EQ(randomBits(0, 0), 0xE220A8397B1DCDAFu);
  EXPECT_EQ(randomBits(0, 1), 0x6E789E6AA1B965F4u);
  EXPECT_EQ(hashOf(""), 0xCBF29CE484222325u);
  EXPECT_EQ(hashOf("a"), 0xAF63DC4C8601EC8Cu);
  EXPECT_LT(uniform(~uint64_t(0)), 1.0);
}
