//===-- Metrics.cpp - TensorBoard event files -----------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A file is a sequence of records (TFRecord): length, 8 bytes; masked CRC of
// the length, 4; data; masked CRC of the data, 4. The data is a protocol buffer
//   Event   { double wall_time = 1; int64 step = 2; string file_version = 3;
//             Summary summary = 5; SessionLog session_log = 7; }
//   Summary { repeated Value { string tag = 1; float simple_value = 2; } = 1; }
//   SessionLog { enum status = 1; }  with START = 1
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/Metrics.h"
#include "moe/Runtime/Error.h"

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <fcntl.h>
#include <unistd.h>

using namespace polymoe;

static constexpr std::array<uint32_t, 256> makeTable() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit)
      value = value >> 1 ^ (value & 1 ? 0x82F63B78u : 0);
    table[i] = value;
  }
  return table;
}

uint32_t polymoe::crc32c(std::string_view bytes) {
  static constexpr std::array<uint32_t, 256> table = makeTable();
  uint32_t crc = ~uint32_t(0);
  for (char byte : bytes)
    crc = crc >> 8 ^ table[(crc ^ uint8_t(byte)) & 255];
  return ~crc;
}

/// As TensorFlow stores it, so that the CRC of a record with a CRC in it is
/// still worth something.
static uint32_t masked(uint32_t crc) {
  return std::rotr(crc, 15) + 0xA282EAD8u;
}

template <typename T> static std::string littleEndian(T value) {
  std::string text(sizeof(T), '\0');
  for (size_t i = 0; i < sizeof(T); ++i)
    text[i] = char(value >> (8 * i));
  return text;
}

static std::string varint(uint64_t value) {
  std::string text;
  for (; value >= 128; value >>= 7)
    text += char(value | 128);
  return text += char(value);
}

// The wire types of protocol buffers that are needed here.
static std::string varintField(int number, uint64_t value) {
  return varint(uint64_t(number) << 3) + varint(value);
}
static std::string doubleField(int number, double value) {
  return varint(uint64_t(number) << 3 | 1) +
         littleEndian(std::bit_cast<uint64_t>(value));
}
static std::string bytesField(int number, const std::string &value) {
  return varint(uint64_t(number) << 3 | 2) + varint(value.size()) + value;
}
static std::string floatField(int number, float value) {
  return varint(uint64_t(number) << 3 | 5) +
         littleEndian(std::bit_cast<uint32_t>(value));
}

/// Seconds since 1970.
static double wallTime() {
  return std::chrono::duration<double>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

EventFile::EventFile(const std::filesystem::path &folder, int64_t firstStep) {
  char host[256] = "localhost";
  (void)::gethostname(host, sizeof(host) - 1);
  // TensorBoard reads the files of a folder in the order of their names.
  const auto now = int64_t(wallTime());
  for (int attempt = 0; file.get() < 0; ++attempt) {
    filePath = folder / concat("events.out.tfevents.", now, ".", host, ".",
                               ::getpid(), ".", attempt);
    file = FileDescriptor(
        ::open(filePath.c_str(),
               O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666));
    if (file.get() < 0 && errno != EEXIST)
      failWithErrno(errno, filePath, ": cannot be created");
  }
  append(doubleField(1, wallTime()) + bytesField(3, "brain.Event:2"));
  append(doubleField(1, wallTime()) + varintField(2, uint64_t(firstStep)) +
         bytesField(7, varintField(1, 1)));
}

void EventFile::write(int64_t step,
                      const std::map<std::string, double> &scalars) {
  std::string summary;
  for (const auto &[tag, value] : scalars)
    summary += bytesField(1, bytesField(1, tag) + floatField(2, float(value)));
  append(doubleField(1, wallTime()) + varintField(2, uint64_t(step)) +
         bytesField(5, summary));
}

void EventFile::append(const std::string &event) {
  const std::string length = littleEndian(uint64_t(event.size()));
  const std::string record = length + littleEndian(masked(crc32c(length))) +
                             event + littleEndian(masked(crc32c(event)));
  const ssize_t got = ::write(file.get(), record.data(), record.size());
  if (got != ssize_t(record.size()))
    failWithErrno(got < 0 ? errno : ENOSPC, filePath, ": cannot be written");
}
