//===-- CostsTest.cpp -----------------------------------------------------===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "moe/Dialect/MoE.h"

#include "mlir/AsmParser/AsmParser.h"
#include "mlir/Parser/Parser.h"

#include <cmath>
#include <gtest/gtest.h>

using namespace mlir;
using namespace mlir::moe;

namespace {

/// Two rows of 8 tokens, a width of 5, three experts of width 7 and a
/// vocabulary of 11; each op bears its FLOPs, worked out by hand.
constexpr const char *ops = R"(
func.func @step(%x: tensor<2x8x5xf32>, %w: tensor<11x5xf32>, %b: tensor<11xf32>, %dy: tensor<2x8x11xf32>,
                %u: tensor<7x5xf32>, %ub: tensor<7xf32>, %d: tensor<5x7xf32>, %db: tensor<5xf32>,
                %r: !moe.routes<16x3, 2>, %s: tensor<2x8x2xf32>, %z: tensor<32x7xf32>,
                %q: tensor<2x8x12xf32>, %k: tensor<2x8x6xf32>, %c: tensor<2x9x6xf32>, %lse: tensor<2x2x8xf32>,
                %ids: tensor<2x8xi32>, %n: tensor<5xf32>, %one: tensor<f32>) {
  // Nothing but products counts, and no bias.
  %0 = moe.rms_norm %x, %n {epsilon = 1.0e-5, flops = 0} : (tensor<2x8x5xf32>, tensor<5xf32>) -> tensor<2x8x5xf32>
  // 2 * 16 tokens * 11 * 5
  %1 = moe.linear %x, %w, %b {flops = 1760} : (tensor<2x8x5xf32>, tensor<11x5xf32>, tensor<11xf32>) -> tensor<2x8x11xf32>
  %2 = moe.router %x, %w {flops = 1760} : (tensor<2x8x5xf32>, tensor<11x5xf32>) -> tensor<2x8x11xf32>
  %3 = moe.linear_input_grad %dy, %w {flops = 1760} : (tensor<2x8x11xf32>, tensor<11x5xf32>) -> tensor<2x8x5xf32>
  %4 = moe.linear_weight_grad %dy, %x {flops = 1760} : (tensor<2x8x11xf32>, tensor<2x8x5xf32>) -> tensor<11x5xf32>
  // 2 * 16 tokens * 7 * 5, twice
  %5 = moe.ffn %x, %u, %ub, %d, %db {form = #moe.ffn<plain>, activation = #moe.activation<gelu>, flops = 2240}
    : (tensor<2x8x5xf32>, tensor<7x5xf32>, tensor<7xf32>, tensor<5x7xf32>, tensor<5xf32>) -> tensor<2x8x5xf32>
  // The same for each of two experts that a token goes to.
  %6 = moe.experts %x, %s, %r, %u, %ub, %d, %db, %u, %ub, %d, %db, %u, %ub, %d, %db {form = #moe.ffn<plain>, activation = #moe.activation<gelu>, flops = 4480}
    : (tensor<2x8x5xf32>, tensor<2x8x2xf32>, !moe.routes<16x3, 2>, tensor<7x5xf32>, tensor<7xf32>, tensor<5x7xf32>, tensor<5xf32>, tensor<7x5xf32>, tensor<7xf32>, tensor<5x7xf32>, tensor<5xf32>, tensor<7x5xf32>, tensor<7xf32>, tensor<5x7xf32>, tensor<5xf32>) -> tensor<2x8x5xf32>
  // Of `down` with respect to its input, 2 * 32 rows * 7 * 5; of all of an
  // expert's weights, 2 * 32 / 3 rows * 7 * 5 each.
  %du, %dub, %dd, %ddb = moe.experts_grad %x, %x scores(%s) routes(%r) preactivation(%z) weights(%u, %ub, %d, %db, %u, %ub, %d, %db, %u, %ub, %d, %db)
      {form = #moe.ffn<plain>, activation = #moe.activation<gelu>, wanted = array<i1: true, true, true, true, false, false, false, false, false, false, false, false>, flops = 3733}
    : (tensor<2x8x5xf32>, tensor<2x8x5xf32>, tensor<2x8x2xf32>, !moe.routes<16x3, 2>, tensor<32x7xf32>, tensor<7x5xf32>, tensor<7xf32>, tensor<5x7xf32>, tensor<5xf32>, tensor<7x5xf32>, tensor<7xf32>, tensor<5x7xf32>, tensor<5xf32>, tensor<7x5xf32>, tensor<7xf32>, tensor<5x7xf32>, tensor<5xf32>)
      -> dweights(tensor<7x5xf32>, tensor<7xf32>, tensor<5x7xf32>, tensor<5xf32>)
  // 2 * 32 rows * 7 * 5
  %h = moe.routed_up %x routes(%r) weights(%u, %ub, %u, %ub, %u, %ub) {form = #moe.ffn<plain>, activation = #moe.activation<gelu>, flops = 2240}
    : (tensor<2x8x5xf32>, !moe.routes<16x3, 2>, tensor<7x5xf32>, tensor<7xf32>, tensor<7x5xf32>, tensor<7xf32>, tensor<7x5xf32>, tensor<7xf32>) -> tensor<32x7xf32>
  // 2 * 32 rows / 3 * 7 * 5 for each of two experts
  %g1, %g2 = moe.routed_weight_grad %z, %x, %r {experts = array<i64: 1, 2>, flops = 1493} : (tensor<32x7xf32>, tensor<2x8x5xf32>, !moe.routes<16x3, 2>) -> (tensor<7x5xf32>, tensor<7x5xf32>)
  // 2 rows * 36 pairs of query and key, for 2 products of 2 * 12
  %7 = moe.attention %q, %k, %k, %ids {heads = 2 : i64, kv_heads = 1 : i64, scale = 1.0, flops = 3456} : (tensor<2x8x12xf32>, tensor<2x8x6xf32>, tensor<2x8x6xf32>, tensor<2x8xi32>) -> tensor<2x8x12xf32>
  // 1 + 2 + 6 * 3 = 21 pairs
  %8 = moe.attention %q, %k, %k, %ids {heads = 2 : i64, kv_heads = 1 : i64, scale = 1.0, window = 3 : i64, flops = 2016} : (tensor<2x8x12xf32>, tensor<2x8x6xf32>, tensor<2x8x6xf32>, tensor<2x8xi32>) -> tensor<2x8x12xf32>
  // What is seen of a cache is data.
  %9 = moe.attention %q, %c, %c, %ids {heads = 2 : i64, kv_heads = 1 : i64, scale = 1.0, flops = 0} : (tensor<2x8x12xf32>, tensor<2x9x6xf32>, tensor<2x9x6xf32>, tensor<2x8xi32>) -> tensor<2x8x12xf32>
  // 5 products
  %10:3 = moe.attention_grad %q, %q, %k, %k, %q, %lse, %ids {heads = 2 : i64, kv_heads = 1 : i64, scale = 1.0, flops = 8640}
    : (tensor<2x8x12xf32>, tensor<2x8x12xf32>, tensor<2x8x6xf32>, tensor<2x8x6xf32>, tensor<2x8x12xf32>, tensor<2x2x8xf32>, tensor<2x8xi32>) -> (tensor<2x8x12xf32>, tensor<2x8x6xf32>, tensor<2x8x6xf32>)
  // Logits and their way back to the input, 1760 each
  %11, %dx = moe.linear_cross_entropy %x, %w, %ids, %one {chunk = 4 : i64, flops = 3520}
    : (tensor<2x8x5xf32>, tensor<11x5xf32>, tensor<2x8xi32>, tensor<f32>) -> tensor<f32> dx(tensor<2x8x5xf32>)
  // Without biases nothing changes.
  %12 = moe.ffn %x, %u, %d {form = #moe.ffn<plain>, activation = #moe.activation<gelu>, flops = 2240} : (tensor<2x8x5xf32>, tensor<7x5xf32>, tensor<5x7xf32>) -> tensor<2x8x5xf32>
  %du2, %dd2 = moe.experts_grad %x, %x scores(%s) routes(%r) preactivation(%z) weights(%u, %d, %u, %d, %u, %d)
      {form = #moe.ffn<plain>, activation = #moe.activation<gelu>, wanted = array<i1: true, true, false, false, false, false>, flops = 3733}
    : (tensor<2x8x5xf32>, tensor<2x8x5xf32>, tensor<2x8x2xf32>, !moe.routes<16x3, 2>, tensor<32x7xf32>, tensor<7x5xf32>, tensor<5x7xf32>, tensor<7x5xf32>, tensor<5x7xf32>, tensor<7x5xf32>, tensor<5x7xf32>)
      -> dweights(tensor<7x5xf32>, tensor<5x7xf32>)
  return
})";

class Costs : public testing::Test {
protected:
  Costs() {
    context.loadDialect<MoEDialect, func::FuncDialect>();
    module = parseSourceString<ModuleOp>(ops, &context);
  }

  MLIRContext context;
  OwningOpRef<ModuleOp> module;
};

} // namespace

TEST_F(Costs, AreThoseWorkedOutByHand) {
  ASSERT_TRUE(module);
  int64_t numOps = 0;
  module->walk([&](Operation *op) {
    if (auto flops = op->getAttrOfType<IntegerAttr>("flops")) {
      EXPECT_EQ(std::floor(flopsOf(op) + 0.01), flops.getInt())
          << op->getName().getStringRef().str();
      ++numOps;
    }
  });
  EXPECT_EQ(numOps, 17);
}

TEST_F(Costs, NameTheWeights) {
  ASSERT_TRUE(module);
  module->walk([&](FfnOp op) {
    SmallVector<MatrixProduct> products = op.getProducts();
    ASSERT_EQ(products.size(), 2u);
    EXPECT_EQ(products[0].weight, op.getWeights()[0]);
    FfnLayout layout(op.getForm(), op.getActivation(), op.getWeights());
    EXPECT_EQ(products[1].weight, op.getWeights()[layout.down()]);
  });
  module->walk([&](AttentionOp op) {
    for (const MatrixProduct &product : op.getProducts())
      EXPECT_FALSE(product.weight);
  });
}

TEST_F(Costs, CountBytes) {
  auto size = [&](const char *type) {
    return sizeInBytes(parseType(type, &context));
  };
  EXPECT_EQ(size("tensor<3x5xbf16>"), 30);
  EXPECT_EQ(size("memref<3x5xf64>"), 120);
  // A row of each route and a route of each row, and where 4 experts begin.
  EXPECT_EQ(size("!moe.routes<16x3, 2>"), 4 * (32 + 32 + 4));
  EXPECT_EQ(size("!moe.table"), 0);
}
