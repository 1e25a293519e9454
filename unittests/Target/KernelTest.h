//===-- KernelTest.h - runs IR through the compiler and back ----*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A test states a function of the fused level, gives its inputs, and compares
// its outputs with loops written plainly in double.
//
//===----------------------------------------------------------------------===//

#ifndef MOE_UNITTESTS_TARGET_KERNELTEST_H
#define MOE_UNITTESTS_TARGET_KERNELTEST_H

#include "moe/Target/CPU/Compiler.h"

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace polymoe::test {

using mlir::moe::Bf16Products;
using mlir::moe::FrozenWeights;

/// A tensor in double (whole numbers for integer types), with what the program
/// stores it as taken from its binding.
struct Tensor {
  std::vector<int64_t> shape;
  std::vector<double> values;

  int64_t size() const { return values.size(); }
  double &operator[](int64_t i) { return values[i]; }
  double operator[](int64_t i) const { return values[i]; }
};

using Tensors = std::map<std::string, Tensor>;

/// Numbers in [-1, 1), the same for a seed everywhere.
Tensor randomTensor(std::vector<int64_t> shape, uint64_t seed);
/// Whole numbers in [low, high).
Tensor randomIntegers(std::vector<int64_t> shape, int64_t low, int64_t high,
                      uint64_t seed);

/// Compiles `ir`, whose one public function has a moe.binding on every argument
/// and result, for vectors of `vectorBytes` (0: the host's), and runs it with
/// `threads` threads. AMX tiles are emulated where the host has pairs only, or
/// with `emulate`; for other products that the host lacks, see ofHost.
/// `inputs` are read by binding name; those of kind gradient and state are read
/// and written. Returns everything written, packed weights too.
Tensors runProgram(const std::string &ir, const Tensors &inputs,
                   int threads = 1, int64_t vectorBytes = 0,
                   Bf16Products bf16Products = mlir::moe::hostBf16Products(),
                   FrozenWeights frozenWeights = FrozenWeights::AsIs,
                   bool emulate = mlir::moe::hostBf16Products() ==
                                  Bf16Products::Pairs);

/// The tensor rounded to bf16 and back.
Tensor roundToBf16(const Tensor &tensor);

/// Fails the current test unless all elements agree within `tolerance` of the
/// largest expected magnitude.
void expectClose(const Tensor &actual, const Tensor &expected, double tolerance,
                 const std::string &what);

} // namespace polymoe::test

#endif // MOE_UNITTESTS_TARGET_KERNELTEST_H
