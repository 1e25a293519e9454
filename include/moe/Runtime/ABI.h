/*===-- moe/Runtime/ABI.h - the wall between compiled code and runtime ----===*\
|*
|* Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
|* SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
|*
|*===----------------------------------------------------------------------===*|
|*
|* Everything that compiled code and the runtime know of each other, in C.
|*
|* A compiled program is a set of entry points. An entry point takes the
|* context that the runtime made and one array of pointers, whose meaning the
|* entry point's bindings give (moe/Runtime/Program.h). All memory belongs to
|* the caller: compiled code allocates nothing. Every buffer that compiled code
|* writes begins at a multiple of 64 bytes, except states: they are aligned to
|* their element type only.
|*
|* A launch of a kernel calls the kernel's task once for every work item in
|* [0, items), in any order, on any thread. Work items write disjoint memory,
|* and their number depends on shapes only, never on the number of threads, so
|* results are the same bits for any number of threads.
|*
\*===----------------------------------------------------------------------===*/

#ifndef MOE_RUNTIME_ABI_H
#define MOE_RUNTIME_ABI_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* This is raised by one whenever a declaration in this file changes its
   meaning. */
#define MOE_ABI_VERSION 2

/* The runtime makes the context; compiled code only passes it on. */
typedef struct MoeContext MoeContext;

/* Computes one work item of a kernel. `args` is the array that moeParallelFor
   was given: each element is a pointer, or an integer cast to one. */
typedef void (*MoeTask)(int64_t item, void *const *args);

/* An entry point of a compiled program. `args[i]` is the memory of its
   binding i. */
typedef void (*MoeEntry)(MoeContext *context, void *const *args);

/* Runs task(item, args) for every item in [0, items) and returns when all are
   done. `name` is a static string that names the kernel in profiles. A task
   must not call this function. */
void moeParallelFor(MoeContext *context, MoeTask task, int64_t items,
                    void *const *args, const char *name);

#ifdef __cplusplus
} /* extern "C" */

static_assert(sizeof(void *) == 8, "the ABI is defined for 64-bit hosts");
static_assert(sizeof(MoeTask) == 8, "function pointers are 64 bits");
#endif

#endif /* MOE_RUNTIME_ABI_H */
