//===-- Memory.cpp - aligned memory, conversions --------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/Memory.h"
#include "moe/Runtime/Error.h"

#include <bit>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>

using namespace polymoe;

//===----------------------------------------------------------------------===//
// Buffer
//===----------------------------------------------------------------------===//

static constexpr int64_t mapFrom = int64_t(1) << 20;

Buffer::Buffer(int64_t bytes, std::string_view what) : length(bytes) {
  if (bytes <= 0) {
    length = 0;
    return;
  }
  if (bytes >= mapFrom) {
    void *address = ::mmap(nullptr, size_t(bytes), PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (address != MAP_FAILED) {
      memory = address;
      // A hint; without large pages it is only slower.
      (void)::madvise(memory, size_t(bytes), MADV_HUGEPAGE);
    }
  } else {
    const size_t rounded = (size_t(bytes) + alignment - 1) & ~(alignment - 1);
    memory = std::aligned_alloc(alignment, rounded);
    if (memory)
      std::memset(memory, 0, rounded);
  }
  if (!memory)
    fail("out of memory: ", bytes, " bytes for ", what);
}

Buffer::~Buffer() {
  if (length >= mapFrom)
    ::munmap(memory, size_t(length));
  else
    std::free(memory);
}

//===----------------------------------------------------------------------===//
// Conversions
//===----------------------------------------------------------------------===//

bool polymoe::isFloat(DType type) {
  return type == DType::F64 || type == DType::F32 || type == DType::BF16 ||
         type == DType::F16;
}

namespace {
struct BFloat16 {
  uint16_t bits;
};
} // namespace

static float widen(BFloat16 value) {
  return std::bit_cast<float>(uint32_t(value.bits) << 16);
}
static float widen(_Float16 value) { return float(value); }
static float widen(float value) { return value; }
static double widen(double value) { return value; }

template <typename To, typename From> static To narrow(From value) {
  if constexpr (std::is_same_v<To, BFloat16>) {
    const uint32_t bits = std::bit_cast<uint32_t>(float(value));
    if ((bits & 0x7FFFFFFF) > 0x7F800000) // a NaN must not round to infinity
      return {uint16_t(bits >> 16 | 0x40)};
    return {uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)};
  } else {
    return To(value);
  }
}

template <typename From, typename To>
static void convertAll(const void *source, void *target, int64_t count) {
  auto *from = static_cast<const std::byte *>(source);
  auto *to = static_cast<std::byte *>(target);
  for (int64_t i = 0; i < count; ++i) {
    From value;
    std::memcpy(&value, from + i * int64_t(sizeof(From)), sizeof(From));
    const To result = narrow<To>(widen(value));
    std::memcpy(to + i * int64_t(sizeof(To)), &result, sizeof(To));
  }
}

/// Calls `visit` with a value of the C++ type that stands for `type`.
template <typename Visit> static void visitType(DType type, Visit visit) {
  switch (type) {
  case DType::F64:
    return visit(double());
  case DType::F32:
    return visit(float());
  case DType::BF16:
    return visit(BFloat16());
  case DType::F16:
    return visit(_Float16());
  default:
    fail("expected a floating-point type, but got ", type);
  }
}

void polymoe::convert(DType from, const void *source, DType to, void *target,
                      int64_t count) {
  if (from == to) {
    if (count)
      std::memcpy(target, source, size_t(count * sizeOf(from)));
    return;
  }
  visitType(from, [&](auto f) {
    visitType(to, [&](auto t) {
      convertAll<decltype(f), decltype(t)>(source, target, count);
    });
  });
}

void polymoe::join(const SplitFloats &from, int64_t begin, int64_t count,
                   float *target) {
  const uint16_t *high = from.high + begin;
  const int16_t *low = from.low + begin;
  for (int64_t i = 0; i < count; ++i)
    target[i] =
        std::bit_cast<float>((uint32_t(high[i]) << 16) + uint32_t(low[i]));
}

void polymoe::split(const float *source, int64_t count, const SplitFloats &to,
                    int64_t begin) {
  uint16_t *__restrict high = to.high + begin;
  int16_t *__restrict low = to.low + begin;
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t bits = std::bit_cast<uint32_t>(source[i]);
    high[i] = uint16_t((bits + 0x8000) >> 16);
    low[i] = int16_t(bits);
  }
}

/// Whether any element has all of its exponent bits set.
template <typename Bits, Bits exponent>
static bool anyFullExponent(const void *values, int64_t count) {
  auto *bytes = static_cast<const std::byte *>(values);
  bool any = false;
  for (int64_t i = 0; i < count; ++i) {
    Bits bits;
    std::memcpy(&bits, bytes + i * int64_t(sizeof(Bits)), sizeof(Bits));
    any |= (bits & exponent) == exponent;
  }
  return any;
}

bool polymoe::allFinite(DType type, const void *values, int64_t count) {
  switch (type) {
  case DType::F64:
    return !anyFullExponent<uint64_t, 0x7FF0000000000000u>(values, count);
  case DType::F32:
    return !anyFullExponent<uint32_t, 0x7F800000u>(values, count);
  case DType::BF16:
    return !anyFullExponent<uint16_t, 0x7F80>(values, count);
  case DType::F16:
    return !anyFullExponent<uint16_t, 0x7C00>(values, count);
  default:
    return true;
  }
}
