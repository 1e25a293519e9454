//===-- SafetensorsTest.cpp -----------------------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/Safetensors.h"
#include "TestFolder.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sys/wait.h>
#include <unistd.h>

using namespace polymoe;

/// A file with this header (its length prefixed) and this many bytes of data.
static void writeRaw(const std::filesystem::path &path,
                     const std::string &header, size_t dataSize) {
  std::ofstream file(path, std::ios::binary);
  uint64_t size = header.size();
  file.write(reinterpret_cast<const char *>(&size), 8);
  file << header << std::string(dataSize, 'x');
}

namespace {
struct Hostile {
  const char *name;
  std::string header;
  size_t dataSize;
  const char *message;
};
} // namespace

static const char *ok = R"("dtype":"F32","shape":[2],"data_offsets":[0,8])";

static std::vector<Hostile> hostileHeaders() {
  std::string a = std::string(R"({"a":{)") + ok + "}";
  auto tensor = [](const char *dtype, const char *shape, const char *offsets) {
    return concat(R"({"a":{"dtype":")", dtype, R"(","shape":)", shape,
                  R"(,"data_offsets":)", offsets, "}}");
  };
  std::string deep;
  for (int i = 0; i < 100000; ++i)
    deep += R"({"a":)";
  return {
      {"not JSON", "{\"a\"", 0, "not valid JSON"},
      {"no object", "[]", 0, "start with '{'"},
      {"leading space", " {}", 0, "start with '{'"},
      {"bytes after JSON", "{}x", 0, "not valid JSON"},
      {"bad UTF-8", "{\"\xff\":1}", 0, "not valid JSON"},
      {"NUL", std::string("{}\0", 3), 0, "not valid JSON"},
      {"deep nesting", deep, 0, "nested too deeply"},
      {"duplicate key", a + R"(,"a":{)" + ok + "}}", 8, "'a' appears twice"},
      {"duplicate field",
       R"({"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
       8, "'dtype' appears twice"},
      {"entry is a number", R"({"a":1})", 0, "key 'a': expected an object"},
      {"no dtype", R"({"a":{"shape":[2],"data_offsets":[0,8]}})", 8,
       "key 'a.dtype': expected a string, but got none"},
      {"extra field", a.substr(0, a.size() - 1) + R"(,"z":1}})", 8,
       "key 'a': entry 'z' is not supported"},
      {"unknown dtype", tensor("F31", "[2]", "[0,8]"), 8,
       "unknown dtype 'F31'"},
      {"dtype is a number",
       R"({"a":{"dtype":1,"shape":[2],"data_offsets":[0,8]}})", 8,
       "key 'a.dtype': expected a string, but got 1"},
      {"negative size", tensor("F32", "[-2]", "[0,8]"), 8,
       "shape[0]': expected a whole number, but got -2"},
      {"fractional size", tensor("F32", "[2.0]", "[0,8]"), 8,
       "expected a whole number, but got 2.0"},
      {"shape no list", tensor("F32", "2", "[0,8]"), 8,
       "key 'a.shape': expected a list, but got 2"},
      {"huge size", tensor("F32", "[18446744073709551615]", "[0,8]"), 8,
       "a whole number"},
      {"larger than huge", tensor("F32", "[99999999999999999999999]", "[0,8]"),
       8, "a whole number"},
      {"product overflows",
       tensor("F32", "[4611686018427387904,4611686018427387904]", "[0,8]"), 8,
       "too large"},
      {"product wraps to 8", tensor("F32", "[4611686018427387906]", "[0,8]"), 8,
       "too large"},
      {"overflow hidden by zero",
       tensor("F32", "[0,4611686018427387904,4611686018427387904]", "[0,0]"), 0,
       "too large"},
      {"too few bytes", tensor("F32", "[3]", "[0,8]"), 8,
       "expected 12 bytes for F32 [3], but got 8"},
      {"offsets reversed", tensor("F32", "[2]", "[8,0]"), 8, "[begin, end]"},
      {"three offsets", tensor("F32", "[2]", "[0,8,8]"), 8, "[begin, end]"},
      {"past the end", tensor("F32", "[2]", "[0,8]"), 7,
       "ends at byte 8, but the file holds 7"},
      {"far past the end",
       tensor("U8", "[8]", "[9223372036854775799,9223372036854775807]"), 8,
       "but the file holds 8"},
      {"hole before", tensor("F32", "[2]", "[4,12]"), 12,
       "4 bytes before its data belong to no tensor"},
      {"hole at the end", tensor("F32", "[2]", "[0,8]"), 9,
       "last 1 bytes belong to no tensor"},
      {"overlap",
       a + R"(,"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", 12,
       "overlaps"},
      {"same bytes twice",
       a + R"(,"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8,
       "overlaps"},
      {"metadata no object", R"({"__metadata__":3})", 0,
       "key '__metadata__': expected an object"},
      {"metadata no text", R"({"__metadata__":{"k":3}})", 0,
       "key '__metadata__.k': expected a string, but got 3"},
  };
}

TEST(Safetensors, RejectsHostileHeaders) {
  TestFolder folder;
  for (const Hostile &hostile : hostileHeaders()) {
    SCOPED_TRACE(hostile.name);
    writeRaw(folder / "h.safetensors", hostile.header, hostile.dataSize);
    EXPECT_ERROR(SafetensorsFile::open(folder / "h.safetensors"),
                 hostile.message);
    // Every message names the file.
    EXPECT_ERROR(SafetensorsFile::open(folder / "h.safetensors"),
                 "h.safetensors");
  }
}

TEST(Safetensors, RejectsFilesThatAreNone) {
  TestFolder folder;
  EXPECT_ERROR(SafetensorsFile::open(folder / "none"), "cannot be opened");
  EXPECT_ERROR(SafetensorsFile::open(folder.path), "regular file");
  std::ofstream(folder / "empty").close();
  EXPECT_ERROR(SafetensorsFile::open(folder / "empty"), "0 bytes");
  std::ofstream(folder / "short") << "1234567";
  EXPECT_ERROR(SafetensorsFile::open(folder / "short"), "7 bytes");
  std::ofstream(folder / "huge") << std::string(8, '\xff');
  EXPECT_ERROR(SafetensorsFile::open(folder / "huge"),
               "larger than the format");
  std::ofstream(folder / "cut") << std::string("\x40\0\0\0\0\0\0\0{", 9);
  EXPECT_ERROR(SafetensorsFile::open(folder / "cut"), "truncated");
}

// Cut anywhere, a good file is an error, never a crash or a partial read.
TEST(Safetensors, RejectsEveryTruncation) {
  TestFolder folder;
  std::vector<float> values = {1, 2, 3};
  SafetensorsWriter writer(folder / "a", {{"k", "v"}});
  writer.add("x", DType::F32, {3}, std::as_bytes(std::span(values)));
  writer.finish();
  std::string whole = readText(folder / "a");
  for (size_t size = 0; size < whole.size(); ++size) {
    std::ofstream(folder / "b", std::ios::binary) << whole.substr(0, size);
    EXPECT_THROW(SafetensorsFile::open(folder / "b"), Error) << size;
  }
}

// Any byte flipped in the header: an error or a file that is consistent.
TEST(Safetensors, SurvivesFlippedBytes) {
  TestFolder folder;
  std::vector<float> values = {1, 2, 3};
  SafetensorsWriter writer(folder / "a");
  writer.add("x", DType::F32, {3}, std::as_bytes(std::span(values)));
  writer.finish();
  const std::string whole = readText(folder / "a");
  for (size_t i = 0; i < whole.size() - 12; ++i)
    for (int bit = 0; bit < 8; ++bit) {
      std::string flipped = whole;
      flipped[i] = char(flipped[i] ^ (1 << bit));
      std::ofstream(folder / "b", std::ios::binary) << flipped;
      try {
        auto file = SafetensorsFile::open(folder / "b");
        for (const TensorInfo &tensor : file->tensors())
          EXPECT_LE(tensor.offset + tensor.bytes, int64_t(whole.size()));
      } catch (const Error &error) {
        EXPECT_NE(std::string(error.what()), "");
      }
    }
}

TEST(Safetensors, RoundTrip) {
  TestFolder folder;
  std::vector<uint8_t> bytes = {1, 2, 3};
  std::vector<int64_t> longs = {-5, 1ll << 40};
  std::vector<float> floats = {1.5f, -2.5f};
  SafetensorsWriter writer(folder / "a", {{"languages", "en,el"}});
  writer.add("bytes", DType::U8, {3}, std::as_bytes(std::span(bytes)));
  writer.add("longs", DType::I64, {2, 1}, std::as_bytes(std::span(longs)));
  writer.add("scalar", DType::F32, {},
             std::as_bytes(std::span(floats).first(1)));
  writer.add("empty", DType::F32, {0, 7}, std::span<const std::byte>());
  writer.add("pieces", DType::F32, {2}, [&](const auto &sink) {
    sink(std::as_bytes(std::span(floats).first(1)));
    sink(std::as_bytes(std::span(floats).last(1)));
  });
  Checksum checksum = writer.finish();
  EXPECT_EQ(checksum, checksumOf(folder / "a"));
  EXPECT_EQ(folder.count(), 1u);

  auto file = SafetensorsFile::open(folder / "a");
  EXPECT_EQ(file->tensors().size(), 5u);
  EXPECT_EQ(file->metadata().at("languages"), "en,el");
  EXPECT_EQ(file->integers(file->get("longs")), longs);
  EXPECT_EQ(file->integers(file->get("bytes")),
            (std::vector<int64_t>{1, 2, 3}));
  EXPECT_ERROR(file->integers(file->get("scalar")), "expected I64, I32 or U8");
  EXPECT_EQ(
      std::memcmp(file->data(file->get("pieces")).data(), floats.data(), 8), 0);
  EXPECT_EQ(file->get("empty").bytes, 0);
  EXPECT_ERROR(file->get("other"), "key 'other' is missing");
  for (const TensorInfo &tensor : file->tensors())
    EXPECT_EQ(tensor.offset % sizeOf(*tensor.dtype), 0) << tensor.name;
}

TEST(Safetensors, OtherElementTypesMayBeThere) {
  TestFolder folder;
  writeRaw(folder / "a",
           R"({"mask":{"dtype":"BOOL","shape":[3],"data_offsets":[0,3]}})", 3);
  auto file = SafetensorsFile::open(folder / "a");
  EXPECT_FALSE(file->get("mask").dtype.has_value());
  EXPECT_EQ(file->get("mask").dtypeName, "BOOL");
}

//===----------------------------------------------------------------------===//
// Faults under the writer
//===----------------------------------------------------------------------===//

static const char *failingCall;
static int failAfter;

static int failLater(const char *call, const char *) {
  return std::strcmp(call, failingCall) == 0 && failAfter-- == 0 ? ENOSPC : 0;
}

static void writeSome(const std::filesystem::path &path, float value) {
  std::vector<float> values(1 << 20, value);
  SafetensorsWriter writer(path);
  writer.add("x", DType::F32, {1 << 20}, std::as_bytes(std::span(values)));
  writer.finish();
}

static float firstOf(const std::filesystem::path &path) {
  auto file = SafetensorsFile::open(path);
  float value;
  std::memcpy(&value, file->data(file->get("x")).data(), sizeof(value));
  return value;
}

TEST(Safetensors, AFullDiskLeavesTheOldFile) {
  TestFolder folder;
  writeSome(folder / "a", 1);
  for (const char *call : {"open", "write", "fsync", "rename"})
    for (int after : {0, 2}) {
      if (after && std::strcmp(call, "write") != 0)
        continue;
      failingCall = call;
      failAfter = after;
      faultHook = failLater;
      EXPECT_ERROR(writeSome(folder / "a", 2), "No space left on device");
      faultHook = nullptr;
      EXPECT_EQ(firstOf(folder / "a"), 1) << call;
      EXPECT_EQ(folder.count(), 1u) << call;
    }
  writeSome(folder / "a", 3);
  EXPECT_EQ(firstOf(folder / "a"), 3);
}

static int dieLater(const char *, const char *) {
  if (failAfter-- == 0)
    ::_exit(9);
  return 0;
}

TEST(Safetensors, AKillAtAnyCallLeavesOneWholeFile) {
  TestFolder folder;
  writeSome(folder / "a", 1);
  for (int after = 0;; ++after) {
    pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      failAfter = after;
      faultHook = dieLater;
      writeSome(folder / "a", 2);
      ::_exit(0);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    float value = firstOf(folder / "a");
    EXPECT_TRUE(value == 1 || value == 2);
    if (WEXITSTATUS(status) == 0) {
      EXPECT_EQ(value, 2);
      EXPECT_GT(after, 4);
      break;
    }
  }
}

TEST(Safetensors, WriterRefusesWhatItCannotKeep) {
  TestFolder folder;
  std::vector<float> values(2);
  SafetensorsWriter twice(folder / "a");
  twice.add("x", DType::F32, {2}, std::as_bytes(std::span(values)));
  twice.add("x", DType::F32, {2}, std::as_bytes(std::span(values)));
  EXPECT_ERROR(twice.finish(), "'x' appears twice");
  SafetensorsWriter wrong(folder / "a");
  wrong.add("x", DType::F32, {3}, std::as_bytes(std::span(values)));
  EXPECT_ERROR(wrong.finish(), "expected 12 bytes");
  SafetensorsWriter nowhere(folder / "none" / "a");
  EXPECT_ERROR(nowhere.finish(), "cannot be created");
  EXPECT_EQ(folder.count(), 0u);
}
