//===-- PackedWeights.cpp - values made of parameters ---------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Runtime/PackedWeights.h"
#include "moe/Runtime/Parameters.h"

using namespace polymoe;

void *PackedWeights::memoryOf(const Binding &binding) {
  Buffer &memory = values[binding.name].memory;
  if (memory.size() == 0)
    memory = Buffer(binding.bytes(), binding.name);
  return memory.data();
}

void PackedWeights::prepare(const Program &program) {
  for (const auto &[name, trains] : {std::pair("prepare_frozen", false),
                                     std::pair("prepare_trainable", true)}) {
    const EntryPoint *entry = program.find(name);
    const int64_t needed = trains ? version : 1;
    if (!entry || prepared[entry] >= needed)
      continue;
    bool isCurrent = true;
    std::vector<void *> arguments;
    for (const Binding &binding : entry->bindings) {
      const bool isPacked = binding.kind == Binding::Kind::Packed;
      arguments.push_back(isPacked ? memoryOf(binding)
                                   : store.value(binding.name));
      isCurrent &= !isPacked || values[binding.name].version >= needed;
    }
    prepared[entry] = version;
    if (isCurrent)
      continue;
    entry->function(&context, arguments.data());
    // What is packed is hardly read again: the pages of its checkpoint need not
    // take memory beside it.
    if (!trains)
      store.dropMappedPages();
    for (const Binding &binding : entry->bindings)
      if (binding.kind == Binding::Kind::Packed)
        values[binding.name].version = version;
  }
}

int64_t PackedWeights::bytes() const {
  int64_t bytes = 0;
  for (const auto &[name, value] : values)
    bytes += value.memory.size();
  return bytes;
}
