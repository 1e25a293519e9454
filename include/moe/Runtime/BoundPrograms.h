//===-- BoundPrograms.h - programs and the memory of their arguments *- C++
//-*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_RUNTIME_BOUNDPROGRAMS_H
#define MOE_RUNTIME_BOUNDPROGRAMS_H

#include "moe/Runtime/Executor.h"
#include "moe/Runtime/PackedWeights.h"

#include <functional>

namespace polymoe {

/// A program with memory for its arguments.
struct BoundProgram {
  const Program &program;
  /// Gradients, states and the arena may move: each run sets theirs.
  std::vector<void *> arguments = {};
  std::vector<Buffer> buffers = {}; ///< of inputs and outputs

  const EntryPoint &entry() const { return program.entries.front(); }
  /// Calls visit(binding, memory) for the arguments of a kind, in their order.
  template <typename Visit>
  void forEach(Binding::Kind kind, const Visit &visit) const {
    for (size_t i = 0; i < arguments.size(); ++i)
      if (entry().bindings[i].kind == kind)
        visit(entry().bindings[i], arguments[i]);
  }
  /// Copies the output called `name`, converted to F32.
  void read(const std::string &name, std::span<float> to) const;
};

/// Runs programs in the host's memory. All of them share one arena, and one
/// copy of every packed weight.
class BoundPrograms : public Profiled {
public:
  /// Fills an input, or says where a state lies; false if it knows none of that
  /// name.
  using Provide = std::function<bool(const Binding &, void *&)>;

  /// Store and pool must outlive it, and it reads the store's memory in place.
  BoundPrograms(std::unique_ptr<ProgramSource> source, ParameterStore &store,
                ThreadPool &pool);

  BoundProgram &bind(const ProgramUse &use);
  void run(BoundProgram &program, const Provide &provide);

  void setProfile(Profile *profile) override { context.profile = profile; }
  const std::vector<KernelCost> &kernelCosts() const override;
  int64_t packedBytes() const override { return packed.bytes(); }
  int64_t arenaBytes() const override { return arena.size(); }

  const std::unique_ptr<ProgramSource> source;
  ParameterStore &store;
  MoeContext context;
  PackedWeights packed;

private:
  std::map<const Program *, BoundProgram> bound;
  const BoundProgram *latest = nullptr;
  Buffer arena;
};

} // namespace polymoe

#endif // MOE_RUNTIME_BOUNDPROGRAMS_H
