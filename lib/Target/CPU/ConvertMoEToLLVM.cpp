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
  void lowerKernel(KernelOp kernel);
  void lowerFunction(func::FuncOp function);
  void lowerEntry(func::FuncOp function);
  LLVM::LLVMFuncOp replaceFunction(func::FuncOp function);
  void lowerBody(Block &body);
  void lowerDispatch(OpBuilder &builder, DispatchOp dispatch, Value context);
  Value nameOf(OpBuilder &builder, Location loc, StringRef kernel);

  Type pointer;
  llvm::StringMap<LLVM::GlobalOp> names;
};

constexpr StringLiteral parallelFor = "moeParallelFor";

/// An array of `values` on the stack of the function, whose body is one block.
Value pointerArray(OpBuilder &builder, Location loc, ArrayRef<Value> values) {
  auto pointer = LLVM::LLVMPointerType::get(builder.getContext());
  Value array;
  {
    OpBuilder::InsertionGuard guard(builder);
    builder.setInsertionPointToStart(builder.getInsertionBlock());
    Value count = LLVM::ConstantOp::create(
        builder, loc, builder.getI64Type(),
        builder.getI64IntegerAttr(std::max<size_t>(values.size(), 1)));
    array = LLVM::AllocaOp::create(builder, loc, pointer, pointer, count);
  }
  for (auto [i, value] : llvm::enumerate(values)) {
    Value slot =
        LLVM::GEPOp::create(builder, loc, pointer, pointer, array,
                            ArrayRef<LLVM::GEPArg>{static_cast<int32_t>(i)});
    LLVM::StoreOp::create(builder, loc, value, slot);
  }
  return array;
}

/// Entry `index` of an array of pointers.
Value loadPointer(OpBuilder &builder, Location loc, Value array,
                  LLVM::GEPArg index) {
  auto pointer = LLVM::LLVMPointerType::get(builder.getContext());
  Value slot = LLVM::GEPOp::create(builder, loc, pointer, pointer, array,
                                   ArrayRef<LLVM::GEPArg>{index});
  return LLVM::LoadOp::create(builder, loc, pointer, slot);
}

/// The memref of `type` at an address, for ops that are not lowered yet.
Value asBuffer(OpBuilder &builder, Location loc, Value address,
               MemRefType type) {
  LLVMTypeConverter converter(builder.getContext());
  Value descriptor =
      MemRefDescriptor::fromStaticShape(builder, loc, converter, type, address);
  return UnrealizedConversionCastOp::create(builder, loc, type, descriptor)
      .getResult(0);
}

/// Lowers a read of a table, which is an array of pointers by now.
void lowerTableEntry(TableEntryOp entry) {
  OpBuilder builder(entry);
  Location loc = entry.getLoc();
  Value position = arith::IndexCastOp::create(
      builder, loc, builder.getI64Type(), entry.getPosition());
  Value address = loadPointer(builder, loc, entry->getOperand(0), position);
  entry.getResult().replaceAllUsesWith(
      asBuffer(builder, loc, address, entry.getType()));
  entry.erase();
}

/// Ends a block after every call, since the time of instruction selection grows
/// with the square of a block's length.
void cutAtCalls(Block &body) {
  SmallVector<LLVM::CallOp> calls(body.getOps<LLVM::CallOp>());
  for (LLVM::CallOp call : llvm::reverse(calls)) {
    Block *next = body.splitBlock(call->getNextNode());
    auto builder = OpBuilder::atBlockEnd(&body);
    LLVM::BrOp::create(builder, call.getLoc(), next);
  }
}

} // namespace

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

/// Makes a kernel a function of the work item and an array of pointers
/// (MoeTask in moe/Runtime/ABI.h), which lowerDispatch fills.
void ConvertMoEToLLVM::lowerKernel(KernelOp kernel) {
  OpBuilder builder(kernel);
  Location loc = kernel.getLoc();
  auto function = func::FuncOp::create(
      builder, loc, kernel.getName(),
      builder.getFunctionType({builder.getI64Type(), pointer}, {}));
  function.setPrivate();
  MoEDialect::CostAttrHelper(&getContext())
      .setAttr(function, builder.getDenseF64ArrayAttr(
                             {kernel.getFlops().convertToDouble(),
                              kernel.getBytes().convertToDouble()}));
  Block &body = kernel.getBody().front();
  builder.setInsertionPointToEnd(&body);
  func::ReturnOp::create(builder, loc);
  builder.setInsertionPointToStart(&body);
  auto taken = llvm::to_vector(body.getArguments());
  Value workItem = body.addArgument(builder.getI64Type(), loc);
  Value array = body.addArgument(pointer, loc);
  taken[0].replaceAllUsesWith(arith::IndexCastOp::create(
      builder, loc, builder.getIndexType(), workItem));
  for (auto [i, argument] :
       llvm::enumerate(MutableArrayRef(taken).drop_front())) {
    Value address = loadPointer(builder, loc, array, static_cast<int32_t>(i));
    Value view = address; // of a table
    if (argument.getType().isIndex())
      view = arith::IndexCastOp::create(
          builder, loc, builder.getIndexType(),
          LLVM::PtrToIntOp::create(builder, loc, builder.getI64Type(),
                                   address));
    else if (auto buffer = dyn_cast<MemRefType>(argument.getType()))
      view = asBuffer(builder, loc, address, buffer);
    argument.replaceAllUsesWith(view);
  }
  kernel.walk(lowerTableEntry);
  body.eraseArguments(0, taken.size());
  function.getBody().takeBody(kernel.getBody());
  kernel.erase();
}

/// Makes a private `f(memrefs...)` the function `f(context, pointers...)`. It
/// launches kernels, which needs the context, and only passes buffers on.
void ConvertMoEToLLVM::lowerFunction(func::FuncOp function) {
  Block &body = function.getBody().front();
  body.insertArgument(0u, pointer, function.getLoc());
  for (BlockArgument argument : body.getArguments())
    argument.setType(pointer);
  replaceFunction(function);
}

/// Makes a public `f(memrefs...)` the entry `f(context, array of pointers)`.
void ConvertMoEToLLVM::lowerEntry(func::FuncOp function) {
  SmallVector<Attribute> bindings;
  Location loc = function.getLoc();
  Block &body = function.getBody().front();
  OpBuilder builder(&body.front());
  unsigned count = body.getNumArguments();
  body.addArgument(pointer, loc);
  Value array = body.addArgument(pointer, loc);
  for (unsigned i = 0; i < count; ++i) {
    Value argument = body.getArgument(i);
    auto binding = BindingAttr::ofArgument(function, i);
    if (!binding) {
      function.emitError() << "expected every argument of an entry point to "
                              "have a moe.binding, but number "
                           << i << " has none";
      return signalPassFailure();
    }
    bindings.push_back(BindingAttr::get(&getContext(), binding.getKind(),
                                        binding.getName(), binding.getOffset(),
                                        cast<MemRefType>(argument.getType())));
    argument.replaceAllUsesWith(
        loadPointer(builder, loc, array, static_cast<int32_t>(i)));
  }
  body.eraseArguments(0, count);
  MoEDialect::BindingsAttrHelper(&getContext())
      .setAttr(replaceFunction(function), builder.getArrayAttr(bindings));
}

/// Makes an LLVM function of `function`, whose arguments are pointers already.
LLVM::LLVMFuncOp ConvertMoEToLLVM::replaceFunction(func::FuncOp function) {
  OpBuilder builder(function);
  Block &body = function.getBody().front();
  lowerBody(body);
  cutAtCalls(body);
  auto type =
      LLVM::LLVMFunctionType::get(LLVM::LLVMVoidType::get(&getContext()),
                                  llvm::to_vector(body.getArgumentTypes()));
  auto lowered = LLVM::LLVMFuncOp::create(builder, function.getLoc(),
                                          function.getName(), type);
  if (function.isPrivate())
    lowered.setLinkage(LLVM::Linkage::Internal);
  // The function is a long list of calls, each made once a step. Optimising it
  // would take time and gain nothing.
  lowered.setOptimizeNone(true);
  lowered.setNoInline(true);
  lowered.getBody().takeBody(function.getBody());
  function.erase();
  return lowered;
}

void ConvertMoEToLLVM::lowerDispatch(OpBuilder &builder, DispatchOp dispatch,
                                     Value context) {
  Location loc = dispatch.getLoc();
  SmallVector<Value> arguments;
  for (Value argument : dispatch.getArguments()) {
    bool isNumber = !isa<LLVM::LLVMPointerType>(argument.getType());
    arguments.push_back(
        isNumber ? LLVM::IntToPtrOp::create(builder, loc, pointer, argument)
                 : argument);
  }
  Value array = pointerArray(builder, loc, arguments);
  auto kernelType =
      builder.getFunctionType({builder.getI64Type(), pointer}, {});
  Value kernel = func::ConstantOp::create(builder, loc, kernelType,
                                          dispatch.getKernelAttr());
  Value address =
      UnrealizedConversionCastOp::create(builder, loc, pointer, kernel)
          .getResult(0);
  Value workItems = LLVM::ConstantOp::create(builder, loc, builder.getI64Type(),
                                             dispatch.getWorkItemsAttr());
  LLVM::CallOp::create(builder, loc, TypeRange(), parallelFor,
                       ValueRange{context, address, workItems, array,
                                  nameOf(builder, loc, dispatch.getKernel())});
}

/// Lowers ops in order, so the operands of an op are lowered before it: buffers
/// to pointers, numbers to i64.
void ConvertMoEToLLVM::lowerBody(Block &body) {
  Value context = body.getArgument(0);
  for (Operation &op : llvm::make_early_inc_range(body)) {
    OpBuilder builder(&op);
    Location loc = op.getLoc();
    if (auto constant = dyn_cast<arith::ConstantIndexOp>(op)) {
      Value lowered = LLVM::ConstantOp::create(
          builder, loc, builder.getI64IntegerAttr(constant.value()));
      op.getResult(0).replaceAllUsesWith(lowered);
    } else if (isa<memref::ViewOp>(op)) {
      Value arena = op.getOperand(0), offset = op.getOperand(1);
      Value address =
          LLVM::GEPOp::create(builder, loc, pointer, builder.getI8Type(), arena,
                              ArrayRef<LLVM::GEPArg>{offset});
      op.getResult(0).replaceAllUsesWith(address);
    } else if (auto table = dyn_cast<PointerTableOp>(op)) {
      op.getResult(0).replaceAllUsesWith(
          pointerArray(builder, loc, llvm::to_vector(table.getBuffers())));
    } else if (auto dispatch = dyn_cast<DispatchOp>(op)) {
      lowerDispatch(builder, dispatch, context);
    } else if (auto call = dyn_cast<func::CallOp>(op)) {
      SmallVector<Value> operands{context};
      llvm::append_range(operands, call.getOperands());
      LLVM::CallOp::create(builder, loc, TypeRange(), call.getCallee(),
                           operands);
    } else if (isa<func::ReturnOp>(op)) {
      LLVM::ReturnOp::create(builder, loc, ValueRange());
    } else {
      if (!isa<LLVM::LLVMDialect>(op.getDialect())) {
        op.emitOpError() << "expected launches of kernels, calls and views of "
                            "the arena, as moe-plan-arena leaves them";
        signalPassFailure();
      }
      continue;
    }
    op.erase();
  }
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

  for (auto function :
       llvm::make_early_inc_range(module.getOps<func::FuncOp>())) {
    if (!function.getBody().hasOneBlock()) {
      function.emitOpError() << "expected a body of one block";
      return signalPassFailure();
    }
    if (function.isPrivate())
      lowerFunction(function);
    else
      lowerEntry(function);
  }
  for (auto kernel : llvm::make_early_inc_range(module.getOps<KernelOp>()))
    lowerKernel(kernel);
  MoEDialect::TargetAttrHelper(&getContext())
      .setAttr(module,
               builder.getDictionaryAttr(
                   {builder.getNamedAttr(
                        "abi", builder.getI64IntegerAttr(MOE_ABI_VERSION)),
                    builder.getNamedAttr("variant",
                                         builder.getStringAttr(variant))}));
  // The bindings have the names of the parameters, whose symbols are not needed
  // any more.
  for (auto parameter :
       llvm::make_early_inc_range(module.getOps<ParameterOp>()))
    parameter.erase();
}
