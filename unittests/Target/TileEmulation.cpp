//===-- TileEmulation.cpp - AMX for machines without it -------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A tile is memory of its own for each instruction that makes one, and what
// branches carry is its address. That holds as long as nobody reads what an
// instruction made the time before, which no sum does.
//
//===----------------------------------------------------------------------===//

#include "TileEmulation.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"

#include <bit>
#include <cstring>

using namespace mlir;

namespace {

constexpr int64_t bytesOfRow = 64, bytesOfTile = 16 * bytesOfRow;

void zero(char *tile, int64_t, int64_t) { std::memset(tile, 0, bytesOfTile); }

void load(char *tile, int64_t rows, int64_t bytes, const char *from,
          int64_t stride) {
  std::memset(tile, 0, bytesOfTile);
  for (int64_t i = 0; i < rows; ++i)
    std::memcpy(tile + i * bytesOfRow, from + i * stride, bytes);
}

void store(int64_t rows, int64_t bytes, char *to, int64_t stride,
           const char *tile) {
  for (int64_t i = 0; i < rows; ++i)
    std::memcpy(to + i * stride, tile + i * bytesOfRow, bytes);
}

float half(uint32_t pair, bool second) {
  return std::bit_cast<float>(second ? pair & 0xffff0000 : pair << 16);
}

void multiplyAdd(char *result, int64_t rows, int64_t bytes, int64_t innerBytes,
                 const char *sums, const char *a, const char *b) {
  constexpr int64_t wordsOfRow = bytesOfRow / 4;
  auto word = [](const char *tile, int64_t i, int64_t j) {
    uint32_t value;
    std::memcpy(&value, tile + (i * wordsOfRow + j) * 4, 4);
    return value;
  };
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < bytes / 4; ++j) {
      float partial[2] = {0, 0};
      for (int64_t k = 0; k < innerBytes / 4; ++k)
        for (bool second : {false, true})
          partial[second] +=
              half(word(a, i, k), second) * half(word(b, k, j), second);
      float sum =
          std::bit_cast<float>(word(sums, i, j)) + (partial[0] + partial[1]);
      std::memcpy(result + (i * wordsOfRow + j) * 4, &sum, 4);
    }
}

} // namespace

/// The address of what does the same, null for other intrinsics.
static void *emulation(StringRef intrinsic) {
  if (intrinsic == "llvm.x86.tilezero.internal")
    return reinterpret_cast<void *>(zero);
  if (intrinsic == "llvm.x86.tileloadd64.internal")
    return reinterpret_cast<void *>(load);
  if (intrinsic == "llvm.x86.tilestored64.internal")
    return reinterpret_cast<void *>(store);
  if (intrinsic == "llvm.x86.tdpbf16ps.internal")
    return reinterpret_cast<void *>(multiplyAdd);
  return nullptr;
}

void polymoe::test::emulateTiles(ModuleOp module) {
  auto pointer = LLVM::LLVMPointerType::get(module.getContext());
  module.walk([&](LLVM::CallIntrinsicOp op) {
    void *function = emulation(op.getIntrin());
    if (!function)
      return;
    ImplicitLocOpBuilder b(op.getLoc(), op);
    auto constant = [&](int64_t value) -> Value {
      return LLVM::ConstantOp::create(b, b.getI64IntegerAttr(value));
    };
    SmallVector<Value> arguments{LLVM::IntToPtrOp::create(
        b, pointer, constant(reinterpret_cast<intptr_t>(function)))};
    if (op.getNumResults() == 1) {
      OpBuilder::InsertionGuard guard(b);
      Region *body =
          op->getParentOfType<LLVM::LLVMFuncOp>().getCallableRegion();
      b.setInsertionPointToStart(&body->front());
      arguments.push_back(LLVM::AllocaOp::create(b, pointer, b.getI8Type(),
                                                 constant(bytesOfTile)));
    }
    SmallVector<Type> types;
    for (Value operand : op.getArgs())
      arguments.push_back(operand.getType().isInteger(16)
                              ? LLVM::ZExtOp::create(b, b.getI64Type(), operand)
                              : operand);
    // Tiles among them become pointers below.
    for (Value argument : ArrayRef(arguments).drop_front())
      types.push_back(argument.getType().isInteger() ? argument.getType()
                                                     : pointer);
    auto type = LLVM::LLVMFunctionType::get(
        LLVM::LLVMVoidType::get(module.getContext()), types);
    LLVM::CallOp::create(b, type, arguments);
    if (op.getNumResults() == 1)
      op.getResult(0).replaceAllUsesWith(arguments[1]);
    op.erase();
  });
  module.walk([&](Block *block) {
    for (BlockArgument argument : block->getArguments())
      if (isa<LLVM::LLVMX86AMXType>(argument.getType()))
        argument.setType(pointer);
  });
}
