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
|* program's signature gives (moe/Runtime/Program.h). All memory belongs to the
|* caller, compiled code allocates nothing; what it writes begins at a multiple
|* of 64 bytes.
|*
|* Work is done by tasks: a task is called once for every tile in [0, tiles),
|* in any order, on any thread. Tiles write disjoint memory and their number
|* depends on shapes only, never on the number of threads, which is why results
|* are the same bits for any number of threads.
|*
\*===----------------------------------------------------------------------===*/

#ifndef MOE_RUNTIME_ABI_H
#define MOE_RUNTIME_ABI_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Raised by one whenever a declaration in this file changes its meaning. */
#define MOE_ABI_VERSION 2

/* Made by the runtime, opaque to compiled code. */
typedef struct MoeContext MoeContext;

/* One tile of one kernel. `args` is the array that moeParallelFor was given:
   each element is a pointer, or an integer cast to one. */
typedef void (*MoeTask)(int64_t tile, void *const *args);

/* An entry point of a compiled program: `args[i]` is the memory of binding i
   of its signature. */
typedef void (*MoeEntry)(MoeContext *context, void *const *args);

/* Runs task(tile, args) for every tile in [0, tiles) and returns when all are
   done. `name` is a static string naming the kernel, for profiles. Must not
   be called from inside a task. */
void moeParallelFor(MoeContext *context, MoeTask task, int64_t tiles,
                    void *const *args, const char *name);

#ifdef __cplusplus
} /* extern "C" */

static_assert(sizeof(void *) == 8, "the ABI is defined for 64-bit hosts");
static_assert(sizeof(MoeTask) == 8, "function pointers are 64 bits");
#endif

#endif /* MOE_RUNTIME_ABI_H */
