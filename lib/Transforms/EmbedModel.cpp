//===-- EmbedModel.cpp - keep a model beside the program made of it -------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Transforms/Passes.h"

#include "mlir/IR/AsmState.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/DialectResourceBlobManager.h"

namespace mlir::moe {
#define GEN_PASS_DEF_EMBEDMODEL
#include "moe/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

struct EmbedModel : moe::impl::EmbedModelBase<EmbedModel> {
  void runOnOperation() override {
    ModuleOp module = getOperation();
    MoEDialect::SourceAttrHelper source(&getContext());
    module->removeAttr(source.getName());
    std::string text;
    llvm::raw_string_ostream stream(text);
    module.print(stream);
    // A resource is printed behind the module, so the module stays readable,
    // which it would not with a string attribute.
    auto type = RankedTensorType::get(
        {static_cast<int64_t>(text.size())},
        IntegerType::get(&getContext(), 8, IntegerType::Unsigned));
    ArrayRef<char> bytes(text.data(), text.size());
    source.setAttr(module, DenseUI8ResourceElementsAttr::get(
                               type, "model",
                               HeapAsmResourceBlob::allocateAndCopyWithAlign(
                                   bytes, alignof(uint8_t))));
  }
};

} // namespace

std::string mlir::moe::embeddedModel(ModuleOp module) {
  DenseUI8ResourceElementsAttr attribute =
      MoEDialect::SourceAttrHelper(module.getContext()).getAttr(module);
  AsmResourceBlob *blob =
      attribute ? attribute.getRawHandle().getBlob() : nullptr;
  if (!blob)
    return {};
  return {blob->getData().data(), blob->getData().size()};
}
