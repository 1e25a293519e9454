//===-- FunctionPairs.h - names of forwards and backwards -------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_LIB_TRANSFORMS_FUNCTIONPAIRS_H
#define MOE_LIB_TRANSFORMS_FUNCTIONPAIRS_H

#include "llvm/ADT/Twine.h"

#include <string>

namespace mlir::moe {

/// The names of a function's forward and backward for its `number`-th pattern:
/// `f.forward`, `f.backward`; then `f.forward_1`, `f.backward_1`; and so on.
inline std::string forwardName(llvm::StringRef function, unsigned number) {
  std::string suffix = number == 0 ? "" : "_" + std::to_string(number);
  return (llvm::Twine(function) + ".forward" + suffix).str();
}

/// The name of the backward of the forward called `name`, empty if that is the
/// name of no forward.
inline std::string backwardName(llvm::StringRef name) {
  size_t at = name.rfind(".forward");
  if (at == llvm::StringRef::npos)
    return "";
  llvm::StringRef suffix = name.substr(at + llvm::StringRef(".forward").size());
  return (llvm::Twine(name.take_front(at)) + ".backward" + suffix).str();
}

} // namespace mlir::moe

#endif // MOE_LIB_TRANSFORMS_FUNCTIONPAIRS_H
