//===-- ConvertMoEToLLVM.cpp - launches and entry points to the ABI -------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Dialect/MoE.h"
#include "moe/Runtime/ABI.h"
#include "moe/Target/Passes.h"

#include "mlir/Conversion/LLVMCommon/MemRefBuilder.h"
#include "mlir/Conversion/LLVMCommon/TypeConverter.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"

namespace mlir::moe {
#define GEN_PASS_DEF_CONVERTMOETOLLVM
#include "moe/Target/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

struct ConvertMoEToLLVM : moe::impl::ConvertMoEToLLVMBase<ConvertMoEToLLVM> {
  using ConvertMoEToLLVMBase::ConvertMoEToLLVMBase;

  void runOnOperation() override;

private:
  void addContext(func::FuncOp function);
  void lowerBody(func::FuncOp function);
  void lowerEntry(func::FuncOp function);
  Value lowerTable(OpBuilder &builder, PointerTableOp table);
  void lowerDispatch(OpBuilder &builder, DispatchOp dispatch, Value context);
  Value nameOf(OpBuilder &builder, Location loc, StringRef kernel);

  Type pointer;
  llvm::StringMap<LLVM::GlobalOp> names;
};

constexpr StringLiteral parallelFor = "moeParallelFor";

/// The address of a buffer.
Value addressOf(OpBuilder &builder, Location loc, Value buffer) {
  Value index =
      memref::ExtractAlignedPointerAsIndexOp::create(builder, loc, buffer);
  Value integer =
      arith::IndexCastOp::create(builder, loc, builder.getI64Type(), index);
  return LLVM::IntToPtrOp::create(
      builder, loc, LLVM::LLVMPointerType::get(builder.getContext()), integer);
}

/// An array of pointers on the stack.
Value pointerArray(OpBuilder &builder, Location loc, ArrayRef<Value> values) {
  auto pointer = LLVM::LLVMPointerType::get(builder.getContext());
  Value count = LLVM::ConstantOp::create(
      builder, loc, builder.getI64Type(),
      builder.getI64IntegerAttr(std::max<size_t>(values.size(), 1)));
  Value array = LLVM::AllocaOp::create(builder, loc, pointer, pointer, count);
  for (auto [i, value] : llvm::enumerate(values)) {
    Value slot =
        LLVM::GEPOp::create(builder, loc, pointer, pointer, array,
                            ArrayRef<LLVM::GEPArg>{static_cast<int32_t>(i)});
    LLVM::StoreOp::create(builder, loc, value, slot);
  }
  return array;
}

} // namespace

/// Every function that launches kernels needs the context: it becomes the first
/// argument.
void ConvertMoEToLLVM::addContext(func::FuncOp function) {
  (void)function.insertArgument(0, pointer, {}, function.getLoc());
  Value context = function.getArgument(0);
  function.walk([&](func::CallOp call) {
    call.getOperandsMutable().assign(llvm::to_vector(llvm::concat<Value>(
        SmallVector<Value>{context}, SmallVector<Value>(call.getOperands()))));
  });
}

Value ConvertMoEToLLVM::nameOf(OpBuilder &builder, Location loc,
                               StringRef kernel) {
  LLVM::GlobalOp &global = names[kernel];
  if (!global) {
    std::string text = kernel.str() + '\0';
    OpBuilder::InsertionGuard guard(builder);
    builder.setInsertionPointToStart(getOperation().getBody());
    global = LLVM::GlobalOp::create(
        builder, loc,
        LLVM::LLVMArrayType::get(builder.getI8Type(), text.size()),
        /*isConstant=*/true, LLVM::Linkage::Internal, "name." + kernel.str(),
        builder.getStringAttr(text));
  }
  return LLVM::AddressOfOp::create(builder, loc, global);
}

Value ConvertMoEToLLVM::lowerTable(OpBuilder &builder, PointerTableOp table) {
  SmallVector<Value> entries;
  for (Value buffer : table.getBuffers())
    entries.push_back(addressOf(builder, table.getLoc(), buffer));
  return pointerArray(builder, table.getLoc(), entries);
}

void ConvertMoEToLLVM::lowerDispatch(OpBuilder &builder, DispatchOp dispatch,
                                     Value context) {
  Location loc = dispatch.getLoc();
  SmallVector<Value> arguments;
  for (Value argument : dispatch.getArguments()) {
    if (isa<MemRefType>(argument.getType()))
      arguments.push_back(addressOf(builder, loc, argument));
    else if (auto cast = argument.getDefiningOp<UnrealizedConversionCastOp>())
      arguments.push_back(cast.getOperand(0));
    else
      arguments.push_back(
          LLVM::IntToPtrOp::create(builder, loc, pointer, argument));
  }
  Value array = pointerArray(builder, loc, arguments);
  auto kernelType =
      builder.getFunctionType({builder.getI64Type(), pointer}, {});
  Value kernel = func::ConstantOp::create(builder, loc, kernelType,
                                          dispatch.getKernelAttr());
  Value address =
      UnrealizedConversionCastOp::create(builder, loc, pointer, kernel)
          .getResult(0);
  Value tiles = LLVM::ConstantOp::create(builder, loc, builder.getI64Type(),
                                         dispatch.getTilesAttr());
  LLVM::CallOp::create(builder, loc, TypeRange(), parallelFor,
                       ValueRange{context, address, tiles, array,
                                  nameOf(builder, loc, dispatch.getKernel())});
}

void ConvertMoEToLLVM::lowerBody(func::FuncOp function) {
  OpBuilder builder(function);
  Value context = function.getArgument(0);
  function.walk([&](PointerTableOp table) {
    builder.setInsertionPoint(table);
    Value array = lowerTable(builder, table);
    auto cast = UnrealizedConversionCastOp::create(builder, table.getLoc(),
                                                   table.getType(), array);
    table.replaceAllUsesWith(cast);
    table.erase();
  });
  function.walk([&](DispatchOp dispatch) {
    builder.setInsertionPoint(dispatch);
    lowerDispatch(builder, dispatch, context);
    dispatch.erase();
  });
  function.walk([&](UnrealizedConversionCastOp cast) {
    if (isa<TableType>(cast.getResult(0).getType()) && cast.use_empty())
      cast.erase();
  });
}

/// Makes `f(context, memrefs...)` the entry `f(context, pointers)`.
void ConvertMoEToLLVM::lowerEntry(func::FuncOp function) {
  SmallVector<Attribute> bindings;
  for (unsigned i = 1; i < function.getNumArguments(); ++i) {
    Attribute binding = function.getArgAttr(i, "moe.binding");
    bindings.push_back(binding);
    bindings.push_back(TypeAttr::get(function.getArgument(i).getType()));
  }
  LLVMTypeConverter converter(&getContext());
  OpBuilder builder(&function.getBody().front().front());
  Location loc = function.getLoc();
  unsigned count = function.getNumArguments();
  (void)function.insertArgument(count, pointer, {}, loc);
  Value array = function.getArgument(count);
  for (unsigned i = 1; i < count; ++i) {
    Value argument = function.getArgument(i);
    Value slot = LLVM::GEPOp::create(
        builder, loc, pointer, pointer, array,
        ArrayRef<LLVM::GEPArg>{static_cast<int32_t>(i - 1)});
    Value address = LLVM::LoadOp::create(builder, loc, pointer, slot);
    Value descriptor = MemRefDescriptor::fromStaticShape(
        builder, loc, converter, cast<MemRefType>(argument.getType()), address);
    Value buffer = UnrealizedConversionCastOp::create(
                       builder, loc, argument.getType(), descriptor)
                       .getResult(0);
    argument.replaceAllUsesWith(buffer);
  }
  llvm::BitVector erased(count + 1);
  erased.set(1, count);
  (void)function.eraseArguments(erased);
  function->setAttr("moe.bindings", builder.getArrayAttr(bindings));
}

void ConvertMoEToLLVM::runOnOperation() {
  ModuleOp module = getOperation();
  OpBuilder builder(module.getBodyRegion());
  pointer = LLVM::LLVMPointerType::get(&getContext());
  names.clear();
  LLVM::LLVMFuncOp::create(
      builder, module.getLoc(), parallelFor,
      LLVM::LLVMFunctionType::get(
          LLVM::LLVMVoidType::get(&getContext()),
          {pointer, pointer, builder.getI64Type(), pointer, pointer}));

  SmallVector<func::FuncOp> functions;
  for (auto function : module.getOps<func::FuncOp>())
    if (!function->hasAttr("moe.kernel"))
      functions.push_back(function);
  for (func::FuncOp function : functions)
    addContext(function);
  for (func::FuncOp function : functions)
    lowerBody(function);
  for (func::FuncOp function : functions)
    if (!function.isPrivate())
      lowerEntry(function);
  module->setAttr(
      "moe.target",
      builder.getDictionaryAttr(
          {builder.getNamedAttr("abi",
                                builder.getI64IntegerAttr(MOE_ABI_VERSION)),
           builder.getNamedAttr("variant", builder.getStringAttr(variant))}));
  // The bindings name the parameters now; machine code has no symbols for them.
  for (auto parameter :
       llvm::make_early_inc_range(module.getOps<ParameterOp>()))
    parameter.erase();
}
