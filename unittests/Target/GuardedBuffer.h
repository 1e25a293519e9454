//===-- GuardedBuffer.h - memory whose end is guarded -----------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Sanitizers do not see what generated code reads and writes. Each buffer of a
// program that runs here ends just before a page that nobody may touch, so a
// kernel that goes too far crashes.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_UNITTESTS_TARGET_GUARDEDBUFFER_H
#define MOE_UNITTESTS_TARGET_GUARDEDBUFFER_H

#include <cstddef>
#include <cstdint>

namespace polymoe::test {

class GuardedBuffer {
public:
  /// Memory aligned as the ABI asks for, filled with ones: `bytes` and as many
  /// more as the alignment takes. Throws std::bad_alloc.
  explicit GuardedBuffer(int64_t bytes);
  GuardedBuffer(GuardedBuffer &&other) noexcept;
  GuardedBuffer &operator=(GuardedBuffer &&) = delete;
  ~GuardedBuffer();

  std::byte *data() const { return begin; }

private:
  void *mapped;
  size_t length;
  std::byte *begin;
};

} // namespace polymoe::test

#endif // MOE_UNITTESTS_TARGET_GUARDEDBUFFER_H
