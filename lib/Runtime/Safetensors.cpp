//===-- Safetensors.cpp - tensors in files --------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/Safetensors.h"
#include "moe/Runtime/Error.h"
#include "moe/Runtime/Json.h"

#include <algorithm>
#include <cstring>
#include <set>

using namespace polymoe;
using nlohmann::json;

// The bound of the reference implementation.
static constexpr uint64_t maxHeaderSize = 100'000'000;

std::optional<int64_t> polymoe::byteSizeOf(std::span<const int64_t> shape,
                                           int64_t elementSize) {
  int64_t product = elementSize;
  bool empty = false, overflow = false;
  for (int64_t size : shape) {
    if (size < 0)
      return std::nullopt;
    empty |= size == 0;
    overflow |=
        __builtin_mul_overflow(product, std::max<int64_t>(size, 1), &product);
  }
  if (overflow)
    return std::nullopt;
  return empty ? 0 : product;
}

int64_t TensorInfo::elements() const {
  return byteSizeOf(shape, 1).value_or(0);
}

namespace {
struct ElementType {
  const char *name;
  int64_t size;
  std::optional<DType> dtype;
};
} // namespace

static const ElementType elementTypes[] = {
    {"F64", 8, DType::F64}, {"F32", 4, DType::F32}, {"BF16", 2, DType::BF16},
    {"F16", 2, DType::F16}, {"I64", 8, DType::I64}, {"I32", 4, DType::I32},
    {"I8", 1, DType::I8},   {"U8", 1, DType::U8},   {"BOOL", 1, {}},
    {"I16", 2, {}},         {"U16", 2, {}},         {"U32", 4, {}},
    {"U64", 8, {}},         {"F8_E4M3", 1, {}},     {"F8_E5M2", 1, {}},
    {"F8_E8M0", 1, {}},     {"C64", 8, {}}};

//===----------------------------------------------------------------------===//
// Reader
//===----------------------------------------------------------------------===//

/// JSON without duplicate keys and without deep nesting.
static json parseStrictly(std::string_view text,
                          const std::filesystem::path &path) {
  std::vector<std::set<std::string>> keys;
  auto check = [&](int depth, json::parse_event_t event, json &value) {
    if (depth > 8)
      fail(path, ": header is nested too deeply");
    if (event == json::parse_event_t::object_start)
      keys.emplace_back();
    else if (event == json::parse_event_t::object_end)
      keys.pop_back();
    else if (event == json::parse_event_t::key &&
             !keys.back().insert(value.get<std::string>()).second)
      fail(path, ": key '", value.get<std::string>(), "' appears twice");
    return true;
  };
  try {
    return json::parse(text.begin(), text.end(), check);
  } catch (const json::parse_error &error) {
    fail(path, ": header is not valid JSON at byte ", error.byte);
  }
}

static std::vector<int64_t> parseSizes(const JsonReader &list) {
  std::vector<int64_t> sizes;
  for (const JsonReader &size : list.elements())
    sizes.push_back(size.integer());
  return sizes;
}

static TensorInfo parseTensor(const std::string &name, const JsonReader &entry,
                              int64_t begin, int64_t available) {
  entry.allow({"dtype", "shape", "data_offsets"});
  auto fail = [&](const auto &...message) { entry.fail(concat(message...)); };
  TensorInfo info;
  info.name = name;
  info.dtypeName = entry.text("dtype");
  const ElementType *type =
      std::find_if(std::begin(elementTypes), std::end(elementTypes),
                   [&](const auto &t) { return t.name == info.dtypeName; });
  if (type == std::end(elementTypes))
    fail("unknown dtype '", info.dtypeName, "'");
  info.dtype = type->dtype;
  info.shape = parseSizes(entry.at("shape"));
  std::optional<int64_t> bytes = byteSizeOf(info.shape, type->size);
  if (!bytes)
    entry.fail(concat("shape ", toString(info.shape), " is too large"));

  JsonReader range = entry.at("data_offsets");
  std::vector<int64_t> offsets = parseSizes(range);
  if (offsets.size() != 2 || offsets[0] > offsets[1])
    range.expected("[begin, end]");
  if (offsets[1] > available)
    fail("data ends at byte ", offsets[1], ", but the file holds ", available,
         " bytes of data");
  if (offsets[1] - offsets[0] != *bytes)
    fail("expected ", *bytes, " bytes for ", info.dtypeName, " ",
         toString(info.shape), ", but got ", offsets[1] - offsets[0]);
  info.offset = begin + offsets[0];
  info.bytes = *bytes;
  return info;
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path &path)
    : filePath(path), file(path) {}

std::shared_ptr<const SafetensorsFile>
SafetensorsFile::open(const std::filesystem::path &path) {
  std::shared_ptr<SafetensorsFile> result(new SafetensorsFile(path));
  result->parseHeader();
  return result;
}

void SafetensorsFile::parseHeader() {
  std::span<const std::byte> bytes = file.bytes();
  if (bytes.size() < 8)
    fail(filePath, ": expected a safetensors file, but got ", bytes.size(),
         " bytes");
  uint64_t headerSize = 0;
  for (int i = 0; i < 8; ++i)
    headerSize |= uint64_t(bytes[i]) << (8 * i);
  if (headerSize > maxHeaderSize)
    fail(filePath, ": header of ", headerSize,
         " bytes is larger than the format allows");
  if (headerSize > bytes.size() - 8)
    fail(filePath, ": truncated: header of ", headerSize,
         " bytes in a file of ", bytes.size());
  std::string_view text(reinterpret_cast<const char *>(bytes.data()) + 8,
                        headerSize);
  if (!text.starts_with('{'))
    fail(filePath, ": expected the header to start with '{'");

  // The parser would take a NUL for the end of its input.
  if (text.find('\0') != std::string_view::npos)
    fail(filePath, ": header is not valid JSON at byte ", text.find('\0') + 1);
  json header = parseStrictly(text, filePath);
  const int64_t begin = 8 + int64_t(headerSize);
  const int64_t available = int64_t(bytes.size()) - begin;
  const JsonReader top(header, filePath.string());
  for (const auto &[name, value] : header.items()) {
    JsonReader entry = top.at(name);
    if (name != "__metadata__") {
      infos.push_back(parseTensor(name, entry, begin, available));
      continue;
    }
    // The reader of Hugging Face takes null for an empty object.
    if (value.is_null())
      continue;
    entry.expectObject();
    for (const auto &[key, text] : value.items())
      meta[key] = entry.text(key);
  }

  // Sorted by where they lie, each must begin where the one before ends.
  std::sort(infos.begin(), infos.end(), [](const auto &a, const auto &b) {
    return std::tie(a.offset, a.bytes) < std::tie(b.offset, b.bytes);
  });
  int64_t end = begin;
  for (size_t i = 0; i < infos.size(); ++i) {
    const TensorInfo &info = infos[i];
    if (info.offset < end)
      fail(filePath, ": key '", info.name, "': data overlaps that of '",
           infos[i - 1].name, "'");
    if (info.offset > end)
      fail(filePath, ": key '", info.name, "': ", info.offset - end,
           " bytes before its data belong to no tensor");
    end = info.offset + info.bytes;
    indexOf[info.name] = i;
  }
  if (end != int64_t(bytes.size()))
    fail(filePath, ": the last ", int64_t(bytes.size()) - end,
         " bytes belong to no tensor");
}

const TensorInfo *SafetensorsFile::find(const std::string &name) const {
  auto it = indexOf.find(name);
  return it == indexOf.end() ? nullptr : &infos[it->second];
}

const TensorInfo &SafetensorsFile::get(const std::string &name) const {
  if (const TensorInfo *tensor = find(name))
    return *tensor;
  fail(filePath, ": key '", name, "' is missing");
}

std::span<const std::byte>
SafetensorsFile::data(const TensorInfo &tensor) const {
  return file.bytes().subspan(size_t(tensor.offset), size_t(tensor.bytes));
}

template <typename T>
static std::vector<int64_t> widen(std::span<const std::byte> bytes) {
  std::vector<int64_t> values(bytes.size() / sizeof(T));
  for (size_t i = 0; i < values.size(); ++i) {
    T value; // the file may give it any alignment
    std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
    values[i] = value;
  }
  return values;
}

std::vector<int64_t> SafetensorsFile::integers(const TensorInfo &tensor) const {
  if (tensor.dtype == DType::I64)
    return widen<int64_t>(data(tensor));
  if (tensor.dtype == DType::I32)
    return widen<int32_t>(data(tensor));
  if (tensor.dtype == DType::U8)
    return widen<uint8_t>(data(tensor));
  fail(filePath, ": key '", tensor.name, "': expected I64, I32 or U8, but got ",
       tensor.dtypeName);
}

void SafetensorsFile::willRead(const TensorInfo &tensor) const {
  readPagesAhead(data(tensor));
}

//===----------------------------------------------------------------------===//
// Writer
//===----------------------------------------------------------------------===//

SafetensorsWriter::SafetensorsWriter(std::filesystem::path path,
                                     std::map<std::string, std::string> meta)
    : path(std::move(path)), metadata(std::move(meta)) {}

void SafetensorsWriter::add(std::string name, DType dtype,
                            std::vector<int64_t> shape,
                            std::span<const std::byte> bytes) {
  add(std::move(name), dtype, std::move(shape),
      [bytes](const Sink &sink) { sink(bytes); });
}

void SafetensorsWriter::add(std::string name, DType dtype,
                            std::vector<int64_t> shape, Source source) {
  std::optional<int64_t> bytes = byteSizeOf(shape, sizeOf(dtype));
  if (!bytes || name == "__metadata__")
    fail(path, ": key '", name,
         "': expected a name and shape that the format "
         "allows, but got ",
         toString(shape));
  tensors.push_back(
      {std::move(name), dtype, std::move(shape), *bytes, std::move(source)});
}

Checksum SafetensorsWriter::finish() {
  // Wide elements first, so that every tensor is aligned to its elements.
  std::vector<Tensor> ordered;
  for (int64_t size : {8, 4, 2, 1})
    for (Tensor &tensor : tensors)
      if (sizeOf(tensor.dtype) == size)
        ordered.push_back(std::move(tensor));
  tensors = std::move(ordered);
  json header = json::object();
  if (!metadata.empty())
    header["__metadata__"] = metadata;
  int64_t offset = 0;
  for (const Tensor &tensor : tensors) {
    if (header.contains(tensor.name))
      fail(path, ": key '", tensor.name, "' appears twice");
    header[tensor.name] = {{"dtype", nameOf(tensor.dtype)},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, offset + tensor.bytes}}};
    offset += tensor.bytes;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const json::type_error &) {
    fail(path, ": a key or the metadata is not valid UTF-8");
  }
  // Data starts on a cache line, for those who map the file.
  text.resize((text.size() + 8 + 63) / 64 * 64 - 8, ' ');
  if (text.size() > maxHeaderSize)
    fail(path, ": header of ", text.size(),
         " bytes is larger than the format allows");

  OutputFile file(path);
  std::byte length[8];
  for (int i = 0; i < 8; ++i)
    length[i] = std::byte(uint64_t(text.size()) >> (8 * i));
  file.write(length);
  file.write(text);
  for (const Tensor &tensor : tensors) {
    int64_t written = 0;
    tensor.source([&](std::span<const std::byte> piece) {
      written += int64_t(piece.size());
      file.write(piece);
    });
    if (written != tensor.bytes)
      fail(path, ": key '", tensor.name, "': expected ", tensor.bytes,
           " bytes for ", tensor.dtype, " ", toString(tensor.shape),
           ", but got ", written);
  }
  return file.commit();
}
