//===-- ThreadPool.h - work items on threads --------------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The thread pool behind moeParallelFor, and the context that compiled code is
// given.
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

/// The stack of a worker thread, which holds the scratch buffers of kernels.
constexpr size_t workerStackSize = size_t(32) << 20;
/// The largest scratch buffers of one kernel. The rest of the stack is for the
/// frames around the kernel and the registers that it saves.
constexpr size_t kernelScratchSize = workerStackSize - (size_t(1) << 20);

/// A fixed number of threads, the calling one among them. Threads take work
/// items one by one; idle workers spin for some microseconds and then sleep.
class ThreadPool {
public:
  /// `threads` counts the caller; 0 means one for each processor that this
  /// process may use. Throws Error when a thread cannot be made.
  explicit ThreadPool(int threads = 0);
  ThreadPool(const ThreadPool &) = delete;
  ThreadPool &operator=(const ThreadPool &) = delete;
  ~ThreadPool();

  int threads() const;

  /// Runs task(item, args) for every item in [0, items); returns when all are
  /// done. Only one thread may call this at a time. A call from inside a task
  /// ends the process: it is a programming error, and compiled code cannot be
  /// unwound. Tasks must not throw.
  void run(MoeTask task, int64_t items, void *const *args);

private:
  struct Impl;
  std::unique_ptr<Impl> impl;
};

/// A task whose one argument is the Body that it calls.
template <typename Body> void callBody(int64_t item, void *const *args) {
  (*static_cast<const Body *>(args[0]))(item);
}

/// Runs body(item) for every item in [0, items) on the pool. The body must not
/// throw.
template <typename Body>
void parallelFor(ThreadPool &pool, int64_t items, const Body &body) {
  void *args[] = {const_cast<Body *>(&body)};
  pool.run(callBody<Body>, items, args);
}

/// When each kernel ran: one event for each call of moeParallelFor.
class Profile {
public:
  struct Event {
    const char *name; ///< the kernel, a static string
    int64_t items;
    int64_t begin, end; ///< nanoseconds of the monotonic clock
  };

  void record(const Event &event) { events.push_back(event); }
  const std::vector<Event> &all() const { return events; }
  void clear() { events.clear(); }

  /// The events in the format that chrome://tracing and Perfetto read.
  std::string toChromeTrace() const;

private:
  std::vector<Event> events;
};

/// Calls `body` on a thread that has the stack of a worker, returns when `body`
/// is done, and throws what it throws. A pool's calling thread runs kernels
/// too, and the main thread's stack is often only 8 MiB.
void runOnLargeStack(const std::function<void()> &body);

/// One function of ABI.h.
struct AbiSymbol {
  const char *name;
  void *address;
};

/// Every function that Symbols.def names, for the JIT.
const std::vector<AbiSymbol> &abiSymbols();

} // namespace polymoe

/// Compiled code hands this back to the runtime with every call.
struct MoeContext {
  polymoe::ThreadPool *pool = nullptr;
  polymoe::Profile *profile = nullptr; ///< null without profiling
};

namespace polymoe {
/// Runs `body` as a launch of a kernel called `name`, a static string, so that
/// profiles show it.
template <typename Body>
void parallelFor(MoeContext &context, const char *name, int64_t items,
                 const Body &body) {
  void *args[] = {const_cast<Body *>(&body)};
  moeParallelFor(&context, callBody<Body>, items, args, name);
}
} // namespace polymoe

#endif // MOE_RUNTIME_THREADPOOL_H
