//===-- ProgramText.h - programs of the fused level, in words ---*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_UNITTESTS_TARGET_PROGRAMTEXT_H
#define MOE_UNITTESTS_TARGET_PROGRAMTEXT_H

#include <string>
#include <vector>

namespace polymoe::test {

/// An argument or a result. `type` is what stands inside `tensor<>`, or a type
/// with a `!`.
struct Port {
  std::string name;
  std::string type;
  std::string kind = "input";
};

/// The whole type.
std::string typeOf(const Port &port);

/// One entry point: inputs and state, a body that names them `%name`, and the
/// values that it returns. In types and body `$T` is the type of the model,
/// `$P` that of what is kept in f32 (f64 in a f64 model).
struct TestProgram {
  std::vector<Port> inputs;
  std::string body;
  std::vector<Port> results;

  std::string text(const std::string &type) const;
};

} // namespace polymoe::test

#endif // MOE_UNITTESTS_TARGET_PROGRAMTEXT_H
