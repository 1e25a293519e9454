//===-- GuardedBuffer.cpp - memory whose end is guarded -------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "GuardedBuffer.h"

#include "moe/Runtime/Memory.h"

#include "llvm/Support/MathExtras.h"

#include <cstring>
#include <new>
#include <sys/mman.h>
#include <unistd.h>
#include <utility>

using namespace polymoe;
using namespace polymoe::test;

GuardedBuffer::GuardedBuffer(int64_t bytes) {
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const size_t used = llvm::alignTo(bytes, Buffer::alignment);
  const size_t pages = llvm::alignTo(used, page);
  length = pages + page;
  mapped = ::mmap(nullptr, length, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED)
    throw std::bad_alloc();
  // Benchmarks run here too, on large pages as programs do.
  (void)::madvise(mapped, pages, MADV_HUGEPAGE);
  std::byte *end = static_cast<std::byte *>(mapped) + pages;
  if (::mprotect(end, page, PROT_NONE) != 0) {
    ::munmap(mapped, length);
    throw std::bad_alloc();
  }
  begin = end - used;
  std::memset(begin, 0xff, used);
}

GuardedBuffer::GuardedBuffer(GuardedBuffer &&other) noexcept
    : mapped(std::exchange(other.mapped, nullptr)), length(other.length),
      begin(other.begin) {}

GuardedBuffer::~GuardedBuffer() {
  if (mapped)
    ::munmap(mapped, length);
}
