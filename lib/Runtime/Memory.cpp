//===-- Memory.cpp - aligned memory, conversions --------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/Memory.h"
#include "moe/Runtime/Error.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
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
// How much there is
//===----------------------------------------------------------------------===//

static constexpr int64_t unlimited = std::numeric_limits<int64_t>::max();

/// The number behind `key` in a file of lines "KEY NUMBER"; without a key the
/// number that the file begins with. None for "max".
static std::optional<int64_t> numberIn(const std::filesystem::path &file,
                                       const std::string &key = "") {
  std::ifstream lines(file);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string name;
    if (!key.empty() && (!(words >> name) || name != key))
      continue;
    if (int64_t number = 0; words >> number)
      return number;
  }
  return std::nullopt;
}

/// What the control group of this folder allows beyond what it uses.
static int64_t leftIn(const std::filesystem::path &folder, const char *limit,
                      const char *usage, const char *reclaimable) {
  const auto most = numberIn(folder / limit);
  const auto used = numberIn(folder / usage);
  if (!most || !used)
    return unlimited;
  const auto cached = numberIn(folder / "memory.stat", reclaimable);
  return *most - *used + cached.value_or(0);
}

int64_t polymoe::availableMemory(const std::filesystem::path &root) {
  const auto system = numberIn(root / "proc/meminfo", "MemAvailable:");
  int64_t available = system ? *system * 1024 : unlimited;
  const std::filesystem::path groups = root / "sys/fs/cgroup";
  std::ifstream lines(root / "proc/self/cgroup");
  // "0::/a/b" of version 2, "4:memory:/a/b" of version 1.
  for (std::string line; std::getline(lines, line);) {
    const bool isV2 = line.starts_with("0::/");
    const size_t name = line.find(":memory:/");
    if (!isV2 && name == std::string::npos)
      continue;
    // A group has the limits of those around it. In a container its own folder
    // may be the root.
    std::filesystem::path group = isV2 ? line.substr(4) : line.substr(name + 9);
    for (;; group = group.parent_path()) {
      available = std::min(
          available,
          isV2 ? leftIn(groups / group, "memory.max", "memory.current",
                        "inactive_file")
               : leftIn(groups / "memory" / group, "memory.limit_in_bytes",
                        "memory.usage_in_bytes", "total_inactive_file"));
      if (group.empty())
        break;
    }
  }
  return std::max<int64_t>(available, 0);
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
