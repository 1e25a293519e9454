//===-- RoutedMatmul.cpp - grouped matrix products ---===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Target/KernelLowering.h"

using namespace mlir;
using namespace mlir::moe;

void mlir::moe::addRoutedMatmulLowerings(LoweringTable &table) {}
