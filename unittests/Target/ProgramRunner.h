//===-- ProgramRunner.h - a compiled program and its memory -----*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_UNITTESTS_TARGET_PROGRAMRUNNER_H
#define MOE_UNITTESTS_TARGET_PROGRAMRUNNER_H

#include "GuardedBuffer.h"

#include "moe/Runtime/ThreadPool.h"
#include "moe/Target/CPU/Compiler.h"

#include <memory>
#include <string>
#include <vector>

namespace polymoe::test {

/// Compiles a module of the fused level, whose one public function has a
/// moe.binding on every argument and result, and holds memory for all of them.
class ProgramRunner {
public:
  /// Throws std::runtime_error where `ir` does not parse or compile. `change`
  /// gets the module before it becomes machine code.
  ProgramRunner(
      const std::string &ir, const mlir::moe::CompilerOptions &options,
      int threads,
      llvm::function_ref<void(mlir::ModuleOp)> change = [](mlir::ModuleOp) {});

  /// Of the function; what prepares packed weights is another entry point.
  const std::vector<Binding> &bindings() const { return entry().bindings; }
  /// Memory of binding `i`, all ones until somebody writes it: what is read and
  /// was never written shows, and so does what is touched beyond its end.
  void *data(size_t i) { return storage[i].data(); }
  static int64_t elements(const Binding &binding);

  /// Packs what is packed once, from parameters as they are. Like run(), it
  /// needs the stack of a worker (runOnLargeStack).
  void prepare();
  void run() { call(entry(), nullptr); }
  /// The same; notes in `profile` what ran when.
  void run(Profile &profile) { call(entry(), &profile); }

private:
  const EntryPoint &entry() const { return compiled->program().entries.at(0); }
  void call(const EntryPoint &called, Profile *profile);

  std::unique_ptr<mlir::moe::CompiledProgram> compiled;
  ThreadPool pool;
  std::vector<GuardedBuffer> storage;
};

} // namespace polymoe::test

#endif // MOE_UNITTESTS_TARGET_PROGRAMRUNNER_H
