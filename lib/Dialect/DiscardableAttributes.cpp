//===-- DiscardableAttributes.cpp - verifiers of the dialect's attributes
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Dialect/MoE.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/IR/BuiltinOps.h"

using namespace mlir;
using namespace mlir::moe;

namespace {

/// What a dictionary holds under a name.
struct Entry {
  StringRef name;
  /// A description for errors, and whether an attribute is such.
  StringRef what;
  bool (*isValid)(Attribute);
  bool isOptional = false;
};

} // namespace

static bool isString(Attribute value) { return isa<StringAttr>(value); }
static bool isInteger(Attribute value) { return isa<IntegerAttr>(value); }
static bool isFloat(Attribute value) { return isa<FloatAttr>(value); }
static bool isStrings(Attribute value) {
  auto array = dyn_cast<ArrayAttr>(value);
  return array && llvm::all_of(array, isString);
}
static bool isLossForm(Attribute value) {
  return isString(value) && symbolizeLossForm(cast<StringAttr>(value));
}
static bool isTypedBinding(Attribute value) {
  auto binding = dyn_cast<BindingAttr>(value);
  return binding && binding.getType();
}

/// Checks that `attribute` is a dictionary of `entries` and nothing else.
static LogicalResult verifyDictionary(Operation *op, NamedAttribute attribute,
                                      ArrayRef<Entry> entries) {
  auto dictionary = dyn_cast<DictionaryAttr>(attribute.getValue());
  if (!dictionary)
    return op->emitOpError()
           << "expected " << attribute.getName()
           << " to be a dictionary, but got " << attribute.getValue();
  for (const Entry &entry : entries) {
    Attribute value = dictionary.get(entry.name);
    if (value ? !entry.isValid(value) : !entry.isOptional) {
      InFlightDiagnostic diag =
          op->emitOpError() << "expected " << attribute.getName() << " to have "
                            << entry.what << " '" << entry.name << "'";
      return value ? diag << ", but got " << value : diag;
    }
  }
  for (NamedAttribute other : dictionary)
    if (llvm::none_of(entries, [&](const Entry &entry) {
          return entry.name == other.getName();
        }))
      return op->emitOpError() << "expected " << attribute.getName()
                               << " to have no entry " << other.getName();
  return success();
}

LogicalResult MoEDialect::verifyOperationAttribute(Operation *op,
                                                   NamedAttribute attribute) {
  StringAttr name = attribute.getName();
  Attribute value = attribute.getValue();
  auto expectOn = [&](bool isPlace, StringRef place) -> LogicalResult {
    if (isPlace)
      return success();
    return op->emitOpError() << "expected " << name << " on " << place;
  };
  auto expectToBe = [&](bool holds, StringRef what) -> LogicalResult {
    if (holds)
      return success();
    return op->emitOpError()
           << "expected " << name << " to be " << what << ", but got " << value;
  };

  if (name == getBackwardAttrHelper().getName()) {
    auto symbol = dyn_cast<FlatSymbolRefAttr>(value);
    if (failed(expectOn(isa<func::FuncOp>(op), "a func.func")))
      return failure();
    return expectToBe(
        symbol &&
            SymbolTable::lookupNearestSymbolFrom<func::FuncOp>(op, symbol),
        "the name of a func.func");
  }
  if (name == getKernelAttrHelper().getName() ||
      name == getCostAttrHelper().getName()) {
    if (failed(expectOn(isa<FunctionOpInterface>(op), "a function")))
      return failure();
    if (name == getKernelAttrHelper().getName())
      return expectToBe(isa<UnitAttr>(value), "a unit attribute");
    auto cost = dyn_cast<DenseF64ArrayAttr>(value);
    return expectToBe(cost && cost.size() == 2, "array<f64: FLOPs, bytes>");
  }
  if (name == getBindingsAttrHelper().getName()) {
    auto bindings = dyn_cast<ArrayAttr>(value);
    if (failed(expectOn(isa<LLVM::LLVMFuncOp>(op), "an llvm.func")))
      return failure();
    return expectToBe(bindings && llvm::all_of(bindings, isTypedBinding),
                      "an array of #moe.binding with types");
  }

  bool isOfModule = name == getModelAttrHelper().getName() ||
                    name == getObjectiveAttrHelper().getName() ||
                    name == getTargetAttrHelper().getName() ||
                    name == getSourceAttrHelper().getName();
  if (!isOfModule)
    return op->emitOpError()
           << "expected an attribute of operations, but got " << name;
  if (failed(expectOn(isa<ModuleOp>(op), "a module")))
    return failure();
  if (name == getModelAttrHelper().getName())
    return verifyDictionary(
        op, attribute,
        {{"family", "a string", isString},
         {"config", "a string", isString},
         {"tokenizer", "a string", isString, /*isOptional=*/true},
         {"ignored", "strings", isStrings, /*isOptional=*/true}});
  if (name == getObjectiveAttrHelper().getName())
    return verifyDictionary(
        op, attribute,
        {{"balance", "a float", isFloat},
         {"balance_form", "a form of a router loss", isLossForm},
         {"language_prior", "a float", isFloat},
         {"language_prior_form", "a form of a router loss", isLossForm},
         {"classifier", "a float", isFloat}});
  if (name == getTargetAttrHelper().getName())
    return verifyDictionary(
        op, attribute,
        {{"abi", "an integer", isInteger}, {"variant", "a string", isString}});
  return expectToBe(isa<DenseUI8ResourceElementsAttr>(value),
                    "a resource of bytes");
}

/// Arguments and results have but one attribute: what they are bound to.
static LogicalResult verifyBinding(Operation *op, NamedAttribute attribute) {
  StringRef name = MoEDialect::BindingAttrHelper::getNameStr();
  if (attribute.getName() != name)
    return op->emitOpError() << "expected an attribute of arguments and "
                                "results, but got "
                             << attribute.getName();
  auto binding = dyn_cast<BindingAttr>(attribute.getValue());
  if (!binding || binding.getType())
    return op->emitOpError()
           << "expected " << name << " to be a #moe.binding without a type, "
           << "which the argument or result has, but got "
           << attribute.getValue();
  if (SymbolTable::getSymbolVisibility(op) == SymbolTable::Visibility::Private)
    return op->emitOpError() << "expected " << name
                             << " on an entry point, not a private function";
  return success();
}

LogicalResult MoEDialect::verifyRegionArgAttribute(Operation *op, unsigned,
                                                   unsigned,
                                                   NamedAttribute attribute) {
  return verifyBinding(op, attribute);
}

LogicalResult
MoEDialect::verifyRegionResultAttribute(Operation *op, unsigned, unsigned,
                                        NamedAttribute attribute) {
  return verifyBinding(op, attribute);
}

BindingAttr BindingAttr::ofArgument(FunctionOpInterface function,
                                    unsigned index) {
  return function.getArgAttrOfType<BindingAttr>(
      index, MoEDialect::BindingAttrHelper::getNameStr());
}

BindingAttr BindingAttr::ofResult(FunctionOpInterface function,
                                  unsigned index) {
  return function.getResultAttrOfType<BindingAttr>(
      index, MoEDialect::BindingAttrHelper::getNameStr());
}

DictionaryAttr BindingAttr::asAttributes() {
  MoEDialect::BindingAttrHelper helper(getContext());
  return DictionaryAttr::get(getContext(),
                             NamedAttribute(helper.getName(), *this));
}
