//===-- Elementwise.h - work on each element of a buffer --------*- C++ -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_TARGET_KERNELS_ELEMENTWISE_H
#define MOE_TARGET_KERNELS_ELEMENTWISE_H

#include "moe/Target/KernelLowering.h"

namespace mlir::moe {

/// `to = from`, buffers of one type, of floats or integers.
void launchCopy(KernelLowering &lowering, Operation *op, Value from, Value to);

/// Every element of `to` becomes `value`.
void launchFill(KernelLowering &lowering, Operation *op, double value,
                Value to);

/// `sum = a + b`, where `sum` may be one of them.
void launchAdd(KernelLowering &lowering, Operation *op, StringRef label,
               Value a, Value b, Value sum);

/// The part of addRowLowerings that is in Elementwise.cpp.
void addElementwiseLowerings(LoweringTable &table);

} // namespace mlir::moe

#endif // MOE_TARGET_KERNELS_ELEMENTWISE_H
