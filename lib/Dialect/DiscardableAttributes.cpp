//===-- DiscardableAttributes.cpp - discardable attributes --------------===//
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

/// On which ops an attribute may stand and which values it may have.
struct Rule {
  StringRef name;
  StringRef holder;
  bool (*isHolder)(Operation *);
  StringRef what;
  bool (*isValid)(Operation *, Attribute);
};

/// An entry that a dictionary holds.
struct Entry {
  StringRef name;
  bool (*isValid)(Attribute);
  bool isOptional = false;
};

template <typename T> bool is(Operation *op) { return isa<T>(op); }
template <typename T> bool is(Attribute value) { return isa<T>(value); }
template <typename T> bool is(Operation *, Attribute value) {
  return isa<T>(value);
}

bool isLossForm(Attribute value) {
  auto form = dyn_cast<StringAttr>(value);
  return form && symbolizeLossForm(form);
}

bool isArrayOf(Attribute value, bool (*isElement)(Attribute)) {
  auto array = dyn_cast<ArrayAttr>(value);
  return array && llvm::all_of(array, isElement);
}

bool isDictionaryOf(Attribute value, ArrayRef<Entry> entries) {
  auto dictionary = dyn_cast<DictionaryAttr>(value);
  size_t found = 0;
  for (const Entry &entry : entries) {
    Attribute held = dictionary ? dictionary.get(entry.name) : Attribute();
    if (held ? !entry.isValid(held) : !entry.isOptional)
      return false;
    found += held != nullptr;
  }
  return found == dictionary.size();
}

/// Groups are numbered from 0 on, and none is empty.
bool isGroupOfEach(Operation *, Attribute value) {
  auto dictionary = dyn_cast<DictionaryAttr>(value);
  if (!dictionary || dictionary.empty())
    return false;
  llvm::SmallDenseSet<int64_t> groups;
  int64_t largest = 0;
  for (NamedAttribute entry : dictionary) {
    auto group = dyn_cast<IntegerAttr>(entry.getValue());
    if (!group || !group.getType().isSignlessInteger(64) || group.getInt() < 0)
      return false;
    groups.insert(group.getInt());
    largest = std::max(largest, group.getInt());
  }
  return largest + 1 == static_cast<int64_t>(groups.size());
}

constexpr Rule rules[] = {
    {MoEDialect::BackwardAttrHelper::getNameStr(), "a func.func",
     is<func::FuncOp>, "the name of a func.func",
     [](Operation *op, Attribute value) {
       auto name = dyn_cast<FlatSymbolRefAttr>(value);
       return name &&
              SymbolTable::lookupNearestSymbolFrom<func::FuncOp>(op, name);
     }},
    {MoEDialect::CostAttrHelper::getNameStr(), "a function",
     is<FunctionOpInterface>, "array<f64: FLOPs, bytes>",
     [](Operation *, Attribute value) {
       auto cost = dyn_cast<DenseF64ArrayAttr>(value);
       return cost && cost.size() == 2;
     }},
    {MoEDialect::BindingsAttrHelper::getNameStr(), "an llvm.func",
     is<LLVM::LLVMFuncOp>, "an array of #moe.binding with types",
     [](Operation *, Attribute value) {
       return isArrayOf(value, [](Attribute element) {
         auto binding = dyn_cast<BindingAttr>(element);
         return binding && binding.getType();
       });
     }},
    {MoEDialect::ModelAttrHelper::getNameStr(), "a module", is<ModuleOp>,
     "{family, config} and where known tokenizer, ignored tensors and ignored "
     "keys of the configuration, strings",
     [](Operation *, Attribute value) {
       auto isStrings = [](Attribute keys) {
         return isArrayOf(keys, is<StringAttr>);
       };
       return isDictionaryOf(
           value, {{"family", is<StringAttr>},
                   {"config", is<StringAttr>},
                   {"tokenizer", is<StringAttr>, /*isOptional=*/true},
                   {"ignored", isStrings, /*isOptional=*/true},
                   {"ignored_config", isStrings, /*isOptional=*/true}});
     }},
    {MoEDialect::ObjectiveAttrHelper::getNameStr(), "a module", is<ModuleOp>,
     "{balance, balance_form, classifier, language_prior, "
     "language_prior_form, router_cross_entropy}, floats and forms of router "
     "losses",
     [](Operation *, Attribute value) {
       return isDictionaryOf(value, {{"balance", is<FloatAttr>},
                                     {"balance_form", isLossForm},
                                     {"classifier", is<FloatAttr>},
                                     {"language_prior", is<FloatAttr>},
                                     {"language_prior_form", isLossForm},
                                     {"router_cross_entropy", is<FloatAttr>}});
     }},
    {MoEDialect::GroupsAttrHelper::getNameStr(), "a module", is<ModuleOp>,
     "{language = group, ...}, integers of 64 bits that count from 0 without a "
     "gap",
     isGroupOfEach},
    {MoEDialect::TargetAttrHelper::getNameStr(), "a module", is<ModuleOp>,
     "{abi, variant}, an integer and a string",
     [](Operation *, Attribute value) {
       return isDictionaryOf(
           value, {{"abi", is<IntegerAttr>}, {"variant", is<StringAttr>}});
     }},
    {MoEDialect::SourceAttrHelper::getNameStr(), "a module", is<ModuleOp>,
     "a resource of bytes", is<DenseUI8ResourceElementsAttr>}};

} // namespace

LogicalResult MoEDialect::verifyOperationAttribute(Operation *op,
                                                   NamedAttribute attribute) {
  StringRef name = attribute.getName();
  const Rule *rule =
      llvm::find_if(rules, [&](const Rule &rule) { return rule.name == name; });
  if (rule == std::end(rules))
    return op->emitOpError()
           << "expected an attribute of operations, but got " << name;
  if (!rule->isHolder(op))
    return op->emitOpError() << "expected " << name << " on " << rule->holder;
  if (!rule->isValid(op, attribute.getValue()))
    return op->emitOpError() << "expected " << name << " to be " << rule->what
                             << ", but got " << attribute.getValue();
  return success();
}

/// The only attribute of arguments and results is their binding.
static LogicalResult verifyBinding(Operation *op, NamedAttribute attribute) {
  StringRef name = attribute.getName();
  if (name != MoEDialect::BindingAttrHelper::getNameStr())
    return op->emitOpError()
           << "expected an attribute of arguments and results, but got "
           << name;
  auto binding = dyn_cast<BindingAttr>(attribute.getValue());
  if (!binding || binding.getType())
    return op->emitOpError() << "expected " << name
                             << " to be a #moe.binding without a type, which "
                                "the argument or result has, but got "
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

BlockArgument mlir::moe::addArgument(func::FuncOp function, Type type,
                                     BindingAttr binding) {
  unsigned index = function.getNumArguments();
  LogicalResult inserted = function.insertArgument(
      index, type, binding ? binding.asAttributes() : DictionaryAttr(),
      function.getLoc());
  assert(succeeded(inserted) && "func.func takes any argument");
  (void)inserted;
  return function.getArgument(index);
}
