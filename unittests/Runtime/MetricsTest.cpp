//===-- MetricsTest.cpp ---------------------------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/Metrics.h"
#include "TestFolder.h"

#include <bit>
#include <cstring>

using namespace polymoe;

TEST(Metrics, CrcHasTheKnownValues) {
  // RFC 3720, B.4.
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62A8AB43u);
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);
  EXPECT_EQ(crc32c(""), 0u);
}

/// The records of a file, their checksums verified.
static std::vector<std::string> recordsOf(const std::filesystem::path &path) {
  const std::string all = readText(path);
  std::vector<std::string> records;
  auto maskedCrc = [&](size_t at) {
    uint32_t value;
    std::memcpy(&value, all.data() + at, 4);
    return std::rotl(value - 0xA282EAD8u, 15);
  };
  for (size_t at = 0; at < all.size();) {
    uint64_t length;
    std::memcpy(&length, all.data() + at, 8);
    EXPECT_EQ(maskedCrc(at + 8), crc32c(all.substr(at, 8)));
    records.push_back(all.substr(at + 12, length));
    EXPECT_EQ(maskedCrc(at + 12 + length), crc32c(records.back()));
    at += 16 + length;
  }
  return records;
}

TEST(Metrics, WritesEvents) {
  TestFolder folder;
  EventFile file(folder.path, 300);
  EventFile other(folder.path, 301);
  EXPECT_NE(file.path(), other.path());
  file.write(300, {{"loss", 1.5}, {"rate", 0}});
  std::vector<std::string> records = recordsOf(file.path());
  ASSERT_EQ(records.size(), 3u);
  // After a tag byte and eight bytes of time:
  EXPECT_EQ(records[0].substr(9), "\x1a\x0d"
                                  "brain.Event:2");
  EXPECT_EQ(records[1].substr(9), "\x10\xac\x02"
                                  "\x3a\x02\x08\x01");
  using namespace std::string_literals;
  EXPECT_EQ(records[2].substr(9), "\x10\xac\x02"
                                  "\x2a\x1a"
                                  "\x0a\x0b\x0a\x04"
                                  "loss\x15\0\0\xc0\x3f"
                                  "\x0a\x0b\x0a\x04"
                                  "rate\x15\0\0\0\0"s);
}

TEST(Metrics, SaysWhyItCannotWrite) {
  TestFolder folder;
  EXPECT_ERROR(EventFile(folder / "none", 0), "cannot be created");
}
