//===-- PackedWeights.h - values made of parameters -------------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_RUNTIME_PACKEDWEIGHTS_H
#define MOE_RUNTIME_PACKEDWEIGHTS_H

#include "moe/Runtime/Memory.h"
#include "moe/Runtime/ThreadPool.h"

#include <map>
#include <string>
#include <unordered_map>

namespace polymoe {

class ParameterStore;

/// Weights in the form in which kernels read them: one copy for all programs.
class PackedWeights {
public:
  /// Store and context must outlive it.
  PackedWeights(ParameterStore &store, MoeContext &context)
      : store(store), context(context) {}

  /// Memory of the value that `binding` names, the same for every program.
  void *memoryOf(const Binding &binding);
  /// Packs what `program` reads and was never packed, or before the parameters
  /// changed.
  void prepare(const Program &program);
  /// To be called after trainable parameters changed.
  void parametersChanged() { ++version; }

  int64_t bytes() const;

private:
  struct Value {
    Buffer memory;
    int64_t version = 0; ///< of the parameters that it was made of
  };
  ParameterStore &store;
  MoeContext &context;
  std::map<std::string, Value> values;
  /// For which version the values that an entry point makes are known to be
  /// made.
  std::unordered_map<const EntryPoint *, int64_t> prepared;
  int64_t version = 1;
};

} // namespace polymoe

#endif // MOE_RUNTIME_PACKEDWEIGHTS_H
