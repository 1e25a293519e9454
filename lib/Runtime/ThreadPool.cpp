//===-- ThreadPool.cpp - work items on threads ----------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A job is the work items of one launch. One atomic word, the ticket, holds the
// number of the job and its next work item. A thread takes a work item in three
// steps: it reads the ticket, reads the job, and advances the ticket by a
// compare-and-swap. The ticket is closed before the job changes, so a swap that
// succeeds proves that the job which was read belongs to the ticket. Therefore
// nobody waits for a worker that sleeps through a job, and a worker that wakes
// up late does no harm.
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/ThreadPool.h"
#include "moe/Runtime/Error.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <pthread.h>
#include <sched.h>

using namespace polymoe;

// The bits of the ticket, from the highest: job number, closed flag, next work
// item.
static constexpr uint64_t itemMask = (uint64_t(1) << 32) - 1;
static constexpr uint64_t closedBit = uint64_t(1) << 32;
static constexpr uint64_t jobStep = uint64_t(1) << 33;
static constexpr int64_t maxItemsPerJob = int64_t(1) << 31;

// Idle workers spin for about 20 microseconds, which is longer than the pause
// between two kernels of a step.
static constexpr int spins = 1000;

static thread_local bool insideTask = false;
static thread_local bool onLargeStack = false;

static void pauseBriefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::atomic_signal_fence(std::memory_order_seq_cst);
#endif
}

static int availableProcessors() {
  cpu_set_t set;
  if (::sched_getaffinity(0, sizeof(set), &set) != 0)
    return 1;
  return std::max(1, CPU_COUNT(&set));
}

/// Starts a thread with a large stack.
static pthread_t startThread(void *(*function)(void *), void *argument) {
  pthread_attr_t attributes;
  ::pthread_attr_init(&attributes);
  ::pthread_attr_setstacksize(&attributes, workerStackSize);
  pthread_t thread;
  int error = ::pthread_create(&thread, &attributes, function, argument);
  ::pthread_attr_destroy(&attributes);
  if (error)
    failWithErrno(error, "a thread cannot be started");
  return thread;
}

struct ThreadPool::Impl {
  explicit Impl(int threads);
  ~Impl() { stop(); }

  void stop();
  void publish(MoeTask task, int64_t first, int64_t items, void *const *args);
  int64_t takeItems();
  void work();

  // The ticket and the job share a cache line, since a thread that takes a work
  // item reads all of it. The job is written only while the ticket is closed.
  alignas(64) std::atomic<uint64_t> ticket{closedBit};
  std::atomic<MoeTask> task{nullptr};
  std::atomic<void *const *> args{nullptr};
  std::atomic<int64_t> firstItem{0};
  std::atomic<uint64_t> jobItems{0};
  std::vector<pthread_t> workers;

  alignas(64) std::atomic<uint64_t> completed{0};
  /// The number of jobs so far; idle workers sleep until it changes.
  std::atomic<uint32_t> bell{0};
  int spinLimit = 0;
  std::atomic<bool> stopping{false};
};

ThreadPool::Impl::Impl(int threads) {
  const int processors = availableProcessors();
  if (threads <= 0)
    threads = processors;
  // With more threads than processors, a spinning thread would take the
  // processor from the thread that it waits for.
  spinLimit = threads <= processors ? spins : 0;
  try {
    for (int i = 1; i < threads; ++i)
      workers.push_back(startThread(
          [](void *self) -> void * {
            static_cast<Impl *>(self)->work();
            return nullptr;
          },
          this));
  } catch (...) {
    stop();
    throw;
  }
}

void ThreadPool::Impl::stop() {
  stopping = true;
  bell.fetch_add(1);
  bell.notify_all();
  for (pthread_t worker : workers)
    ::pthread_join(worker, nullptr);
  workers.clear();
}

void ThreadPool::Impl::publish(MoeTask newTask, int64_t first, int64_t items,
                               void *const *newArgs) {
  const uint64_t current = ticket.load(std::memory_order_relaxed);
  task.store(newTask, std::memory_order_release);
  args.store(newArgs, std::memory_order_release);
  firstItem.store(first, std::memory_order_release);
  jobItems.store(uint64_t(items), std::memory_order_release);
  completed.store(0, std::memory_order_relaxed);
  ticket.store((current & ~(itemMask | closedBit)) + jobStep,
               std::memory_order_release);
}

/// Runs work items until none is left to take. Returns how many it ran.
int64_t ThreadPool::Impl::takeItems() {
  int64_t done = 0;
  uint64_t seen = ticket.load(std::memory_order_acquire);
  while (!(seen & closedBit)) {
    MoeTask thisTask = task.load(std::memory_order_acquire);
    void *const *thisArgs = args.load(std::memory_order_acquire);
    int64_t first = firstItem.load(std::memory_order_acquire);
    if ((seen & itemMask) >= jobItems.load(std::memory_order_acquire))
      break;
    if (!ticket.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel,
                                      std::memory_order_acquire))
      continue;
    thisTask(first + int64_t(seen & itemMask), thisArgs);
    ++done;
    seen = ticket.load(std::memory_order_acquire);
  }
  return done;
}

void ThreadPool::Impl::work() {
  insideTask = true;
  uint32_t heard = 0;
  while (!stopping.load(std::memory_order_acquire)) {
    uint32_t now = bell.load(std::memory_order_acquire);
    for (int i = 0; i < spinLimit && now == heard; ++i) {
      pauseBriefly();
      now = bell.load(std::memory_order_acquire);
    }
    if (now == heard) {
      bell.wait(heard, std::memory_order_acquire);
      continue;
    }
    heard = now;
    if (int64_t done = takeItems()) {
      // The caller may return, and publish another job, as soon as the count is
      // full: read the total first.
      const uint64_t total = jobItems.load(std::memory_order_relaxed);
      if (completed.fetch_add(uint64_t(done), std::memory_order_acq_rel) +
              uint64_t(done) ==
          total)
        completed.notify_one();
    }
  }
}

ThreadPool::ThreadPool(int threads) : impl(std::make_unique<Impl>(threads)) {}
ThreadPool::~ThreadPool() = default;

int ThreadPool::threads() const { return int(impl->workers.size()) + 1; }

void ThreadPool::run(MoeTask task, int64_t items, void *const *args) {
  if (insideTask) {
    std::fputs("fatal: moeParallelFor was called from inside a task\n", stderr);
    std::abort();
  }
  insideTask = true;
  if (items == 1 || impl->workers.empty()) {
    for (int64_t item = 0; item < items; ++item)
      task(item, args);
    insideTask = false;
    return;
  }
  for (int64_t first = 0; first < items; first += maxItemsPerJob) {
    const int64_t count = std::min(items - first, maxItemsPerJob);
    impl->publish(task, first, count, args);
    impl->bell.fetch_add(1, std::memory_order_release);
    if (count > int64_t(impl->workers.size()))
      impl->bell.notify_all();
    else
      for (int64_t i = 1; i < count; ++i)
        impl->bell.notify_one();

    uint64_t done = uint64_t(impl->takeItems());
    done += impl->completed.fetch_add(done, std::memory_order_acq_rel);
    for (int i = 0; done != uint64_t(count); ++i) {
      if (i < impl->spinLimit)
        pauseBriefly();
      else
        impl->completed.wait(done, std::memory_order_acquire);
      done = impl->completed.load(std::memory_order_acquire);
    }
    impl->ticket.fetch_or(closedBit, std::memory_order_acq_rel);
  }
  insideTask = false;
}

//===----------------------------------------------------------------------===//
// Profile, large stacks
//===----------------------------------------------------------------------===//

std::string Profile::toChromeTrace() const {
  std::string text = "[";
  char line[256];
  for (const Event &event : events) {
    std::snprintf(line, sizeof(line),
                  "%s\n{\"name\": \"%s\", \"ph\": \"X\", \"pid\": 1, \"tid\": "
                  "1, \"ts\": %.3f, \"dur\": %.3f, \"args\": {\"items\": "
                  "%lld}}",
                  text.size() > 1 ? "," : "", event.name,
                  double(event.begin) / 1e3,
                  double(event.end - event.begin) / 1e3,
                  static_cast<long long>(event.items));
    text += line;
  }
  return text + "\n]\n";
}

void polymoe::runOnLargeStack(const std::function<void()> &body) {
  if (onLargeStack)
    return body();
  struct Call {
    const std::function<void()> &body;
    std::exception_ptr thrown;
  } call{body, nullptr};
  pthread_t thread = startThread(
      [](void *pointer) -> void * {
        onLargeStack = true;
        auto *call = static_cast<Call *>(pointer);
        try {
          call->body();
        } catch (...) {
          call->thrown = std::current_exception();
        }
        return nullptr;
      },
      &call);
  ::pthread_join(thread, nullptr);
  if (call.thrown)
    std::rethrow_exception(call.thrown);
}

//===----------------------------------------------------------------------===//
// ABI
//===----------------------------------------------------------------------===//

static int64_t nanoseconds() {
  return std::chrono::steady_clock::now().time_since_epoch() /
         std::chrono::nanoseconds(1);
}

void moeParallelFor(MoeContext *context, MoeTask task, int64_t items,
                    void *const *args, const char *name) {
  if (!context->profile)
    return context->pool->run(task, items, args);
  const int64_t begin = nanoseconds();
  context->pool->run(task, items, args);
  context->profile->record({name, items, begin, nanoseconds()});
}

const std::vector<AbiSymbol> &polymoe::abiSymbols() {
  static const std::vector<AbiSymbol> symbols = {
#define MOE_SYMBOL(function) {#function, reinterpret_cast<void *>(&(function))},
#include "moe/Runtime/Symbols.def"
  };
  return symbols;
}
