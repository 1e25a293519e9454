//===-- BoundPrograms.cpp - programs and the memory of their arguments ----===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/BoundPrograms.h"
#include "moe/Runtime/Error.h"
#include "moe/Runtime/Parameters.h"

using namespace polymoe;
using Kind = Binding::Kind;

void BoundProgram::read(const std::string &name, std::span<float> to) const {
  for (size_t i = 0; i < arguments.size(); ++i) {
    const Binding &binding = entry().bindings[i];
    if (binding.kind != Kind::Output || binding.name != name)
      continue;
    const int64_t count = binding.elements();
    if (int64_t(to.size()) != count)
      fail("expected ", count, " numbers of '", name, "', but got ", to.size());
    return convert(binding.dtype, arguments[i], DType::F32, to.data(), count);
  }
  fail("expected a program that returns '", name, "'");
}

BoundPrograms::BoundPrograms(std::unique_ptr<ProgramSource> source,
                             ParameterStore &store, ThreadPool &pool)
    : source(std::move(source)), store(store), context{&pool},
      packed(store, context) {}

BoundProgram &BoundPrograms::bind(const ProgramUse &use) {
  const Program &program = source->get(use);
  if (auto known = bound.find(&program); known != bound.end())
    return known->second;
  BoundProgram made{program};
  for (const Binding &binding : made.entry().bindings) {
    void *memory = nullptr; // of other kinds: known at each run
    if (binding.kind == Kind::Input || binding.kind == Kind::Output)
      memory = made.buffers.emplace_back(binding.bytes(), binding.name).data();
    else if (binding.kind == Kind::Parameter)
      memory = store.value(binding.name);
    else if (binding.kind == Kind::Packed)
      memory = packed.memoryOf(binding);
    made.arguments.push_back(memory);
  }
  return bound.emplace(&program, std::move(made)).first->second;
}

void BoundPrograms::run(BoundProgram &program, const Provide &provide) {
  const EntryPoint &entry = program.entry();
  latest = &program;
  for (size_t i = 0; i < entry.bindings.size(); ++i) {
    const Binding &binding = entry.bindings[i];
    void *&memory = program.arguments[i];
    if (binding.kind == Kind::Input || binding.kind == Kind::State) {
      if (!provide(binding, memory))
        fail("expected an input that the driver knows, but the program needs '",
             binding.name, "'");
    } else if (binding.kind == Kind::Gradient) {
      memory = store.gradient(binding.name); // may have been placed elsewhere
    } else if (binding.kind == Kind::Arena) {
      if (arena.size() < binding.bytes())
        arena = Buffer(binding.bytes(), "the arena of " + entry.name);
      memory = arena.data();
    }
  }
  for (size_t i = 0; i < entry.bindings.size(); ++i)
    if (entry.bindings[i].kind == Kind::StepGradient)
      program.arguments[i] = arena.as<std::byte>() + entry.bindings[i].offset;
  // Kernels keep their scratch on the stack, and this thread runs some too.
  runOnLargeStack([&] {
    packed.prepare(program.program);
    entry.function(&context, program.arguments.data());
  });
}

const std::vector<KernelCost> &BoundPrograms::kernelCosts() const {
  static const std::vector<KernelCost> none;
  return latest ? latest->program.kernels : none;
}
