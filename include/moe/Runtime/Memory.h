//===-- Memory.h - aligned memory, conversions, hashes ----------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_RUNTIME_MEMORY_H
#define MOE_RUNTIME_MEMORY_H

#include "moe/Runtime/Program.h"

#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>
#include <utility>

namespace polymoe {

/// Zeroed memory that begins on a multiple of 64 bytes. Large ones are pages
/// of their own, taken from the system as they are first touched.
class Buffer {
public:
  static constexpr size_t alignment = 64;

  Buffer() = default;
  /// Throws Error naming `what` when the system has no such amount.
  Buffer(int64_t bytes, std::string_view what);
  Buffer(Buffer &&other) noexcept
      : memory(std::exchange(other.memory, nullptr)),
        length(std::exchange(other.length, 0)) {}
  Buffer &operator=(Buffer &&other) noexcept {
    std::swap(memory, other.memory);
    std::swap(length, other.length);
    return *this;
  }
  ~Buffer();

  void *data() const { return memory; }
  int64_t size() const { return length; }
  std::span<std::byte> bytes() const {
    return {static_cast<std::byte *>(memory), size_t(length)};
  }
  template <typename T> T *as() const { return static_cast<T *>(memory); }

private:
  void *memory = nullptr;
  int64_t length = 0;
};

/// Bytes of memory that this process can still take: what the system has left,
/// files that it only caches included, and what the control groups of the
/// process allow. `root` is where their files are looked for.
int64_t availableMemory(const std::filesystem::path &root = "/");

bool isFloat(DType type);

/// Converts `count` elements among F64, F32, BF16 and F16, rounding to nearest
/// even (F64 to BF16 by way of F32). Neither pointer needs any alignment.
void convert(DType from, const void *source, DType to, void *target,
             int64_t count);

/// F32 numbers in two halves: bits = high << 16 + low. The upper ones are BF16
/// numbers, rounded to nearest, ties away from zero.
struct SplitFloats {
  uint16_t *high = nullptr;
  int16_t *low = nullptr;
};
void join(const SplitFloats &from, int64_t begin, int64_t count, float *target);
void split(const float *source, int64_t count, const SplitFloats &to,
           int64_t begin);

/// Whether none of the elements (of a floating-point type) is infinite or NaN.
bool allFinite(DType type, const void *values, int64_t count);

/// The finaliser of SplitMix64: a bijection of 64-bit numbers that looks
/// random.
constexpr uint64_t mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

/// Number `index` of the random sequence `key` (SplitMix64): any element
/// without those before it.
constexpr uint64_t randomBits(uint64_t key, uint64_t index) {
  return mix64(key + (index + 1) * 0x9E3779B97F4A7C15u);
}

/// FNV-1a, 64 bits.
constexpr uint64_t hashOf(std::string_view text) {
  uint64_t hash = 0xCBF29CE484222325u;
  for (char c : text)
    hash = (hash ^ uint8_t(c)) * 0x100000001B3u;
  return hash;
}

/// Uniform in [0, 1), 53 bits.
constexpr double uniform(uint64_t bits) { return double(bits >> 11) * 0x1p-53; }

} // namespace polymoe

#endif // MOE_RUNTIME_MEMORY_H
