//===-- HoistParameterWork.cpp - work on parameters, done once ------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Moves launches from callees to callers, callees first: the buffer that a
// launch writes becomes an argument, and the caller gets the launch and the
// buffer before its call. From an entry point, launches move to another entry
// point, which prepares their results once.
//
//===----------------------------------------------------------------------===//

#include "ParameterValues.h"

#include "moe/Dialect/MoE.h"
#include "moe/Target/Passes.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "llvm/ADT/MapVector.h"

#include <map>
#include <optional>

namespace mlir::moe {
#define GEN_PASS_DEF_HOISTPARAMETERWORK
#include "moe/Target/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

/// A launch that was moved out of its function.
struct Work {
  FlatSymbolRefAttr kernel;
  IntegerAttr workItems;
  StringAttr derives;
  /// The numbers of the function arguments that it reads.
  SmallVector<unsigned> inputs;
  MemRefType type;
};

/// A launch that was moved out of an entry point, with the parameters it reads.
struct PreparedWork {
  Work work;
  SmallVector<std::pair<StringAttr, Type>> parameters;
  bool trains;
};

struct HoistParameterWork
    : moe::impl::HoistParameterWorkBase<HoistParameterWork> {
  using HoistParameterWorkBase::HoistParameterWorkBase;

  void runOnOperation() override;

private:
  void lift(func::FuncOp function);
  void takeFromCallees(func::FuncOp function);
  bool dependsOnFixed(DispatchOp dispatch);
  SmallVector<std::pair<DispatchOp, Work>> findWork(func::FuncOp function);
  Value packedArgument(func::FuncOp entry, const Work &work);
  void makePreparation(StringRef name, bool trains);

  std::optional<SymbolTable> symbols;
  /// The values that do not change between runs.
  ParameterValues fixed;
  /// The launches that each private function needs before a call, in the order
  /// of its last arguments, which hold their results.
  llvm::MapVector<Operation *, SmallVector<Work>> lifted;
  llvm::MapVector<StringAttr, PreparedWork> prepared;
  /// The arguments of entry points that hold prepared results.
  llvm::DenseMap<std::pair<Operation *, Attribute>, Value> packedArguments;
};

} // namespace

/// Puts before every call the launches that its callee needs.
void HoistParameterWork::takeFromCallees(func::FuncOp function) {
  SmallVector<func::CallOp> calls(
      function.getBody().front().getOps<func::CallOp>());
  for (func::CallOp call : calls) {
    auto callee = symbols->lookup<func::FuncOp>(call.getCallee());
    lift(callee);
    OpBuilder builder(call);
    for (const Work &work : lifted[callee]) {
      SmallVector<Value> arguments;
      for (unsigned input : work.inputs)
        arguments.push_back(call.getOperand(input));
      Value buffer = memref::AllocOp::create(builder, call.getLoc(), work.type);
      arguments.push_back(buffer);
      DispatchOp::create(builder, call.getLoc(), work.kernel, work.workItems,
                         work.derives, arguments);
      call.getOperandsMutable().append(buffer);
    }
  }
}

bool HoistParameterWork::dependsOnFixed(DispatchOp dispatch) {
  return llvm::all_of(dispatch.getArguments().drop_back(),
                      [&](Value input) { return fixed.contains(input); });
}

SmallVector<std::pair<DispatchOp, Work>>
HoistParameterWork::findWork(func::FuncOp function) {
  auto dispatches = function.getBody().front().getOps<DispatchOp>();
  // Results of launches that stay, and all results in a table with one of them.
  llvm::DenseSet<Value> staying;
  for (DispatchOp dispatch : dispatches) {
    if (!dispatch.getDerives() || dependsOnFixed(dispatch))
      continue;
    for (Operation *user : dispatch.getArguments().back().getUsers())
      if (auto table = dyn_cast<PointerTableOp>(user))
        staying.insert_range(table.getBuffers());
  }
  SmallVector<std::pair<DispatchOp, Work>> found;
  for (DispatchOp dispatch : dispatches) {
    if (!dispatch.getDerives() || !dependsOnFixed(dispatch))
      continue;
    Value result = dispatch.getArguments().back();
    ValueRange inputs = dispatch.getArguments().drop_back();
    if (!result.getDefiningOp<memref::AllocOp>() || staying.contains(result))
      continue;
    Work work{dispatch.getKernelAttr(),
              dispatch.getWorkItemsAttr(),
              dispatch.getDerivesAttr(),
              {},
              cast<MemRefType>(result.getType())};
    for (Value input : inputs)
      work.inputs.push_back(cast<BlockArgument>(input).getArgNumber());
    found.push_back({dispatch, work});
  }
  return found;
}

/// The argument of `entry` that holds the result of `work`, added if needed.
Value HoistParameterWork::packedArgument(func::FuncOp entry, const Work &work) {
  OpBuilder builder(entry);
  PreparedWork preparation{work, {}, false};
  std::string text;
  for (unsigned input : work.inputs) {
    StringAttr name = BindingAttr::ofArgument(entry, input).getName();
    preparation.parameters.push_back(
        {name, entry.getArgument(input).getType()});
    preparation.trains |= trains(*symbols, name);
    text += name.str() + ".";
  }
  StringAttr name = builder.getStringAttr(text + work.derives.str());
  prepared.insert({name, preparation});
  auto binding =
      BindingAttr::get(builder.getContext(), BindingKind::Packed, name);
  Value &argument = packedArguments[{entry, binding}];
  if (!argument)
    argument = addArgument(entry, work.type, binding);
  return argument;
}

void HoistParameterWork::lift(func::FuncOp function) {
  if (lifted.contains(function))
    return;
  lifted[function] = {};
  takeFromCallees(function);
  // Equal launches are done once.
  std::map<std::pair<const void *, SmallVector<unsigned>>, Value> done;
  SmallVector<Work> own;
  for (auto &[dispatch, work] : findWork(function)) {
    Value &argument = done[{work.derives.getAsOpaquePointer(), work.inputs}];
    if (!argument && function.isPrivate()) {
      argument = addArgument(function, work.type);
      own.push_back(work);
    } else if (!argument) {
      argument = packedArgument(function, work);
    }
    auto alloc =
        dispatch.getArguments().back().getDefiningOp<memref::AllocOp>();
    dispatch.erase();
    alloc.replaceAllUsesWith(argument);
    alloc.erase();
    ++numHoisted;
  }
  lifted[function] = std::move(own);
}

/// Makes the entry point `name`, with the launches that read parameters that
/// train, or those that read only frozen ones.
void HoistParameterWork::makePreparation(StringRef name, bool trains) {
  auto builder = OpBuilder::atBlockEnd(getOperation().getBody());
  func::FuncOp function;
  llvm::MapVector<StringAttr, Value> parameters;
  auto argument = [&](BindingKind kind, StringAttr bound, Type type) {
    return addArgument(function, type,
                       BindingAttr::get(builder.getContext(), kind, bound));
  };
  for (auto &[packed, preparation] : prepared) {
    if (preparation.trains != trains)
      continue;
    if (!function) {
      function = func::FuncOp::create(builder, getOperation().getLoc(), name,
                                      builder.getFunctionType({}, {}));
      builder.setInsertionPointToStart(function.addEntryBlock());
      auto end = func::ReturnOp::create(builder, function.getLoc());
      builder.setInsertionPoint(end);
    }
    SmallVector<Value> arguments;
    for (auto [parameter, type] : preparation.parameters) {
      Value &known = parameters[parameter];
      if (!known)
        known = argument(BindingKind::Parameter, parameter, type);
      arguments.push_back(known);
    }
    const Work &work = preparation.work;
    arguments.push_back(argument(BindingKind::Packed, packed, work.type));
    DispatchOp::create(builder, function.getLoc(), work.kernel, work.workItems,
                       work.derives, arguments);
  }
}

void HoistParameterWork::runOnOperation() {
  symbols.emplace(getOperation());
  lifted.clear();
  prepared.clear();
  packedArguments.clear();
  fixed = valuesPackedOnce(getOperation(), packedOnce);
  SmallVector<func::FuncOp> functions(getOperation().getOps<func::FuncOp>());
  for (func::FuncOp function : functions)
    lift(function);
  numPrepared = prepared.size();
  makePreparation("prepare_frozen", /*trains=*/false);
  makePreparation("prepare_trainable", /*trains=*/true);
}
