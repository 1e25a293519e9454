//===-- Program.cpp - what a compiled program says of itself --------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/Program.h"
#include "moe/Runtime/Error.h"

using namespace polymoe;

namespace {
struct TypeInfo {
  const char *name;
  int64_t size;
};
} // namespace

/// By DType.
static constexpr TypeInfo types[] = {{"F64", 8}, {"F32", 4}, {"BF16", 2},
                                     {"F16", 2}, {"I64", 8}, {"I32", 4},
                                     {"I8", 1},  {"U8", 1}};
static_assert(std::size(types) == size_t(DType::U8) + 1);

int64_t polymoe::sizeOf(DType type) { return types[size_t(type)].size; }
const char *polymoe::nameOf(DType type) { return types[size_t(type)].name; }

int64_t Binding::elements() const {
  int64_t count = 1;
  for (int64_t extent : shape)
    count *= extent;
  return count;
}

const EntryPoint *Program::find(const std::string &name) const {
  for (const EntryPoint &entry : entries)
    if (entry.name == name)
      return &entry;
  return nullptr;
}

Error::Error(const std::string &text)
    : std::runtime_error(shortened(text, 4096)) {}

std::string polymoe::shortened(std::string_view text, size_t limit) {
  if (text.size() <= limit)
    return std::string(text);
  // A character of UTF-8 is kept whole or not at all.
  auto beginOf = [&](size_t at) {
    while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80)
      --at;
    return at;
  };
  return concat(text.substr(0, beginOf(limit / 2)), " ... (", text.size(),
                " bytes) ... ", text.substr(beginOf(text.size() - limit / 4)));
}

std::string polymoe::toString(std::span<const int64_t> shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i)
    text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}
