//===-- ConvertMoEToKernels.cpp - tensors to kernel launches --------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Every result gets a buffer of its own, and every op becomes launches that
// write its results' buffers. In SSA form no value is overwritten, so this
// needs no alias analysis, and copies only arguments that are returned.
// Lifetimes decide afterwards which buffers share memory (moe-plan-arena).
// Three exceptions write in place: a result that is only added to a gradient is
// made in the gradient's buffer, an op may write its result over an operand
// that is not read again (both: BufferReuse.h), and a cache is updated where it
// lies.
//
//===----------------------------------------------------------------------===//

#include "BufferReuse.h"
#include "Kernels/Elementwise.h"
#include "ParameterValues.h"

#include "moe/Runtime/ThreadPool.h"
#include "moe/Target/KernelLowering.h"
#include "moe/Target/Passes.h"

#include "mlir/Dialect/AMX/AMXDialect.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/Dialect/X86Vector/X86VectorDialect.h"
#include "llvm/ADT/MapVector.h"

namespace mlir::moe {
#define GEN_PASS_DEF_CONVERTMOETOKERNELS
#include "moe/Target/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

/// Converts the functions of one module.
class Converter {
public:
  Converter(ModuleOp module, const TargetDescription &target,
            ParameterValues packedOnce, ParameterValues quantised,
            bool writesGradients);

  LogicalResult convertFunction(func::FuncOp function);

private:
  LogicalResult convertOp(Operation *op);
  void convertCall(func::CallOp call);
  LogicalResult convertConstant(arith::ConstantOp constant);
  /// The gradient that `update` adds to.
  Value gradientOf(AccumulateGradientOp update);
  /// The argument of the current function that is bound to `name`, added if
  /// needed.
  Value boundArgument(BindingKind kind, FlatSymbolRefAttr name, Type type);

  bool writesGradients;
  BufferReuse reuse;
  ParameterValues packedOnce, quantised;
  KernelLowering lowering;
  LoweringTable table;
  /// The function that is being made, and the buffers of its results.
  func::FuncOp current;
  SmallVector<Value> returnBuffers;
  llvm::MapVector<std::pair<int, Attribute>, Value> bound;
};

struct ConvertMoEToKernels
    : moe::impl::ConvertMoEToKernelsBase<ConvertMoEToKernels> {
  using ConvertMoEToKernelsBase::ConvertMoEToKernelsBase;

  void runOnOperation() override;

private:
  FailureOr<ParameterValues> weightsToQuantise();
};

/// Whether values of this type have a buffer.
bool isOfFusedLevel(Type type) {
  if (auto routes = dyn_cast<RoutesType>(type))
    return routes.hasStaticShape();
  auto tensor = dyn_cast<RankedTensorType>(type);
  return tensor && tensor.hasStaticShape() && tensor.getNumElements() > 0;
}

/// Checks what every part of the conversion relies on.
LogicalResult verifyFunction(func::FuncOp function) {
  if (!function.getBody().hasOneBlock())
    return function.emitOpError() << "expected a body of one block";
  auto verifyTypes = [](Operation *op, TypeRange types) -> LogicalResult {
    for (Type type : types)
      if (!isOfFusedLevel(type))
        return op->emitOpError() << "expected tensors of static shape with "
                                    "elements, or routes of static size, but "
                                    "got "
                                 << type;
    return success();
  };
  for (Operation &op : function.getBody().front()) {
    if (failed(verifyTypes(&op, op.getResultTypes())))
      return failure();
    if (isa<GetParameterOp, AccumulateGradientOp>(op) && function.isPrivate())
      return op.emitOpError()
             << "expected to be in an entry point, which hands "
                "parameters to the functions that it calls";
  }
  return verifyTypes(function, function.getArgumentTypes());
}

} // namespace

Value Converter::boundArgument(BindingKind kind, FlatSymbolRefAttr name,
                               Type type) {
  Value &argument = bound[{static_cast<int>(kind), name}];
  if (!argument)
    argument =
        addArgument(current, lowering.bufferType(type),
                    BindingAttr::get(type.getContext(), kind, name.getAttr()));
  return argument;
}

void Converter::convertCall(func::CallOp call) {
  SmallVector<Value> operands;
  for (Value operand : call.getOperands())
    operands.push_back(lowering.buffer(operand));
  for (OpResult result : call->getResults()) {
    auto update = reuse.accumulationOf(call, result.getResultNumber());
    operands.push_back(update ? gradientOf(update) : lowering.result(result));
  }
  func::CallOp::create(lowering.builder(), call.getLoc(), call.getCallee(),
                       TypeRange(), operands);
}

LogicalResult Converter::convertConstant(arith::ConstantOp constant) {
  auto value = dyn_cast<DenseFPElementsAttr>(constant.getValue());
  if (!value || !value.isSplat())
    return constant.emitOpError() << "expected a splat of floats";
  launchFill(lowering, constant,
             value.getSplatValue<APFloat>().convertToDouble(),
             lowering.result(constant));
  return success();
}

Value Converter::gradientOf(AccumulateGradientOp update) {
  BindingKind kind =
      writesGradients ? BindingKind::StepGradient : BindingKind::Gradient;
  FlatSymbolRefAttr name = update.getNameAttr();
  bool isNew = !bound.contains({static_cast<int>(kind), name});
  Value gradient = boundArgument(kind, name, update.getValue().getType());
  if (isNew && writesGradients && !reuse.isOnlyTerm(update))
    launchFill(lowering, update, 0.0, gradient);
  return gradient;
}

LogicalResult Converter::convertOp(Operation *op) {
  OpBuilder &builder = lowering.builder();
  if (auto call = dyn_cast<func::CallOp>(op)) {
    convertCall(call);
  } else if (auto get = dyn_cast<GetParameterOp>(op)) {
    lowering.bind(get, boundArgument(BindingKind::Parameter, get.getNameAttr(),
                                     get.getType()));
  } else if (auto update = dyn_cast<AccumulateGradientOp>(op)) {
    auto call = update.getValue().getDefiningOp<func::CallOp>();
    // Otherwise the called function has added the result already.
    if (!call || !reuse.isOnlyAccumulated(
                     call.getCallee(),
                     cast<OpResult>(update.getValue()).getResultNumber())) {
      Value term = lowering.buffer(update.getValue());
      if (Value sum = gradientOf(update); sum != term)
        launchAdd(lowering, op, "add", sum, term, sum);
    }
  } else if (auto constant = dyn_cast<arith::ConstantOp>(op)) {
    return convertConstant(constant);
  } else if (auto yield = dyn_cast<func::ReturnOp>(op)) {
    StringRef name = op->getParentOfType<func::FuncOp>().getName();
    for (auto [i, value, out] :
         llvm::enumerate(yield.getOperands(), returnBuffers)) {
      if (lowering.isAdded(value))
        continue;
      Value made = lowering.buffer(value);
      if (reuse.isOnlyAccumulated(name, i))
        launchAdd(lowering, op, "add", out, made, out);
      else if (made != out)
        launchCopy(lowering, op, made, out);
    }
    func::ReturnOp::create(builder, op->getLoc());
  } else if (const LoweringTable::Function *lower = table.find(op)) {
    (*lower)(op, lowering);
  } else {
    return op->emitOpError() << "expected an op of the fused level";
  }
  return success();
}

LogicalResult Converter::convertFunction(func::FuncOp function) {
  OpBuilder &builder = lowering.builder();
  // Results become arguments, since the caller owns all memory.
  SmallVector<Type> types;
  SmallVector<DictionaryAttr> attributes;
  for (auto [i, type] : llvm::enumerate(function.getArgumentTypes())) {
    types.push_back(lowering.bufferType(type));
    attributes.push_back(function.getArgAttrDict(i));
  }
  for (auto [i, type] : llvm::enumerate(function.getResultTypes())) {
    types.push_back(lowering.bufferType(type));
    attributes.push_back(function.getResultAttrDict(i));
  }
  builder.setInsertionPoint(function);
  current = func::FuncOp::create(builder, function.getLoc(), function.getName(),
                                 builder.getFunctionType(types, {}),
                                 /*attrs=*/{}, attributes);
  current.setVisibility(function.getVisibility());
  Block *body = current.addEntryBlock();
  builder.setInsertionPointToEnd(body);

  bound.clear();
  Block &old = function.getBody().front();
  for (auto [from, to] : llvm::zip(old.getArguments(), body->getArguments()))
    lowering.bind(from, to);
  returnBuffers.assign(body->args_begin() + old.getNumArguments(),
                       body->args_end());
  // An op of this function that makes a result writes it to the caller's
  // buffer. A result that is an argument, or is returned twice, is copied at
  // the end. A result that callers only add to a gradient is offered for the op
  // to add.
  llvm::SmallPtrSet<Value, 8> placed;
  for (auto update : old.getOps<AccumulateGradientOp>())
    if (reuse.isOnlyTerm(update) && placed.insert(update.getValue()).second)
      lowering.bind(update.getValue(), gradientOf(update));
  for (auto [i, value, out] :
       llvm::enumerate(old.getTerminator()->getOperands(), returnBuffers)) {
    if (reuse.isOnlyAccumulated(function.getName(), i)) {
      if (value.hasOneUse())
        lowering.offerSum(value, out);
    } else if (value.getDefiningOp() &&
               !isa<GetParameterOp, CacheUpdateOp>(value.getDefiningOp()) &&
               placed.insert(value).second) {
      lowering.bind(value, out);
    }
  }

  for (Operation &op : old)
    if (failed(convertOp(&op)))
      return failure();
  function.erase();
  return success();
}

Converter::Converter(ModuleOp module, const TargetDescription &target,
                     ParameterValues packedOnce, ParameterValues quantised,
                     bool writesGradients)
    : writesGradients(writesGradients), reuse(module, writesGradients),
      packedOnce(std::move(packedOnce)), quantised(std::move(quantised)),
      lowering(module, target, reuse, this->packedOnce, this->quantised) {
  addMatmulLowerings(table);
  addRoutedMatmulLowerings(table);
  addRoutedMatmulGradLowerings(table);
  addRoutedParameterGradLowerings(table);
  addAttentionLowerings(table);
  addAttentionGradLowerings(table);
  addRowLowerings(table);
  addRoutingLowerings(table);
  addLossLowerings(table);
  addProbeLowerings(table);
  addLinearCrossEntropyLowering(table);
}

/// Refuses kernels whose scratch buffers do not fit the stack of a thread.
static LogicalResult checkScratch(ModuleOp module) {
  constexpr auto limit = static_cast<int64_t>(polymoe::kernelScratchSize);
  for (auto kernel : module.getOps<KernelOp>()) {
    int64_t bytes = 0;
    kernel.walk([&](memref::AllocaOp scratch) {
      MemRefType type = scratch.getType();
      // Each begins on a cache line.
      bytes += int64_t(llvm::alignTo(
          llvm::divideCeil(
              type.getNumElements() * type.getElementTypeBitWidth(), 8),
          64));
    });
    if (bytes > limit)
      return emitError(kernel.getLoc())
             << "kernel " << kernel.getName() << ": expected at most " << limit
             << " bytes of scratch memory, which "
                "is on the stack of a thread, "
                "but it takes "
             << bytes;
  }
  return success();
}

/// The parameters that do not train, if frozen-weights=int8.
FailureOr<ParameterValues> ConvertMoEToKernels::weightsToQuantise() {
  if (frozenWeights == FrozenWeights::AsIs)
    return ParameterValues();
  // A backward would read the weights as they are, which the forward did not
  // multiply by.
  AccumulateGradientOp gradient;
  getOperation().walk([&](AccumulateGradientOp op) {
    gradient = op;
    return WalkResult::interrupt();
  });
  if (gradient)
    return gradient.emitOpError()
           << "expected a program without gradients for frozen-weights=int8";
  return valuesPackedOnce(getOperation(), PackedOnce::Frozen);
}

void ConvertMoEToKernels::runOnOperation() {
  ModuleOp module = getOperation();
  SmallVector<func::FuncOp> functions(module.getOps<func::FuncOp>());
  FailureOr<ParameterValues> quantised = weightsToQuantise();
  if (failed(quantised) || llvm::any_of(functions, [](func::FuncOp function) {
        return failed(verifyFunction(function));
      }))
    return signalPassFailure();
  Converter converter(module,
                      TargetDescription{.vectorBytes = vectorBytes,
                                        .bf16Products = bf16Products,
                                        .l2Bytes = l2Bytes},
                      valuesPackedOnce(module, packedOnce),
                      std::move(*quantised), writesGradients);
  for (func::FuncOp function : functions)
    if (failed(converter.convertFunction(function)))
      return signalPassFailure();
  if (failed(checkScratch(module)))
    signalPassFailure();
}
