//===-- ThreadPool.h - tiles on threads -------------------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The pool behind moeParallelFor, and the context that compiled code is given.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_RUNTIME_THREADPOOL_H
#define MOE_RUNTIME_THREADPOOL_H

#include "moe/Runtime/ABI.h"

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace polymoe {

/// Kernels keep their scratch on the stack.
constexpr size_t workerStackSize = size_t(32) << 20;
/// What one kernel may take of it: the rest is for the frames around it and the
/// registers that it saves.
constexpr size_t kernelScratchSize = workerStackSize - (size_t(1) << 20);

/// A fixed number of threads, the calling one among them. Tiles are handed out
/// one by one; idle workers spin for some microseconds and then sleep.
class ThreadPool {
public:
  /// `threads` counts the caller; 0 means one per processor that this process
  /// may use. Throws Error when a thread cannot be made.
  explicit ThreadPool(int threads = 0);
  ThreadPool(const ThreadPool &) = delete;
  ThreadPool &operator=(const ThreadPool &) = delete;
  ~ThreadPool();

  int threads() const;

  /// Runs task(tile, args) for every tile in [0, tiles); returns when all are
  /// done. One caller at a time, and never from inside a task: that ends the
  /// process, since it is an error of the program and compiled code cannot
  /// be unwound. Tasks must not throw.
  void run(MoeTask task, int64_t tiles, void *const *args);

private:
  struct Impl;
  std::unique_ptr<Impl> impl;
};

/// The task that runs a Body, which is its argument.
template <typename Body> void callBody(int64_t tile, void *const *args) {
  (*static_cast<const Body *>(args[0]))(tile);
}

/// Runs body(tile) for every tile in [0, tiles) on the pool. The body must not
/// throw.
template <typename Body>
void parallelFor(ThreadPool &pool, int64_t tiles, const Body &body) {
  void *args[] = {const_cast<Body *>(&body)};
  pool.run(callBody<Body>, tiles, args);
}

/// What ran when: one event per moeParallelFor.
class Profile {
public:
  struct Event {
    const char *name; ///< the kernel, a static string
    int64_t tiles;
    int64_t begin, end; ///< nanoseconds of the monotonic clock
  };

  void record(const Event &event) { events.push_back(event); }
  const std::vector<Event> &all() const { return events; }
  void clear() { events.clear(); }

  /// In the format that chrome://tracing and Perfetto read.
  std::string toChromeTrace() const;

private:
  std::vector<Event> events;
};

/// Calls `body` on a thread that has the stack of a worker and returns when it
/// is done; what the body throws is thrown here. The calling thread of a pool
/// runs kernels too, and the main thread's stack is often only 8 MiB.
void runOnLargeStack(const std::function<void()> &body);

/// One function of ABI.h.
struct AbiSymbol {
  const char *name;
  void *address;
};

/// Every function that Symbols.def names, for the JIT.
const std::vector<AbiSymbol> &abiSymbols();

} // namespace polymoe

/// What compiled code hands back to the runtime with every call.
struct MoeContext {
  polymoe::ThreadPool *pool = nullptr;
  polymoe::Profile *profile = nullptr; ///< null when nobody looks
};

namespace polymoe {
/// The same as a launch of the kernel `name`, a static string.
template <typename Body>
void parallelFor(MoeContext &context, const char *name, int64_t tiles,
                 const Body &body) {
  void *args[] = {const_cast<Body *>(&body)};
  moeParallelFor(&context, callBody<Body>, tiles, args, name);
}
} // namespace polymoe

#endif // MOE_RUNTIME_THREADPOOL_H
