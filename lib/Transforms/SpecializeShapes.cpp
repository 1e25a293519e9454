//===-- SpecializeShapes.cpp - fixes batch and row length
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Transforms/Passes.h"

#include "mlir/IR/AttrTypeSubElements.h"
#include "mlir/IR/BuiltinOps.h"

namespace mlir::moe {
#define GEN_PASS_DEF_SPECIALIZESHAPES
#include "moe/Transforms/Passes.h.inc"
} // namespace mlir::moe

using namespace mlir;
using namespace mlir::moe;

namespace {

struct SpecializeShapes
    : FailablePass<moe::impl::SpecializeShapesBase<SpecializeShapes>> {
  using FailablePass::FailablePass;

  LogicalResult run(ModuleOp module) override {
    if (rows < 1 || length < 1)
      return module.emitError()
             << "expected rows and length of at least 1, but got "
             << rows.getValue() << " and " << length.getValue();
    // Only the two leading dimensions may be dynamic; any other one is an
    // error.
    RankedTensorType stillDynamic;
    AttrTypeReplacer replacer;
    replacer.addReplacement([&](RankedTensorType type) -> std::optional<Type> {
      SmallVector<int64_t> shape(type.getShape());
      int64_t leading[] = {rows, length};
      for (auto [size, fixed] : llvm::zip(shape, leading))
        if (ShapedType::isDynamic(size))
          size = fixed;
      auto result = RankedTensorType::get(shape, type.getElementType(),
                                          type.getEncoding());
      if (!result.hasStaticShape())
        stillDynamic = type;
      return result;
    });
    replacer.addReplacement([&](RoutesType type) -> std::optional<Type> {
      if (type.hasStaticShape())
        return type;
      return RoutesType::get(&getContext(), rows * length, type.getExperts(),
                             type.getTopK());
    });
    replacer.recursivelyReplaceElementsIn(module, /*replaceAttrs=*/true,
                                          /*replaceLocs=*/false,
                                          /*replaceTypes=*/true);
    if (stillDynamic)
      return module.emitError()
             << "expected at most the two leading dimensions of "
                "every tensor to be dynamic, but got "
             << stillDynamic;
    return success();
  }
};

} // namespace
