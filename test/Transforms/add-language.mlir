// RUN: moe-opt %s --moe-add-language="language=tr expert=1" | FileCheck %s
// RUN: moe-opt %s --moe-add-language="language=tr expert=1" | moe-opt | FileCheck %s
// RUN: moe-opt %s --moe-add-language="language=tr expert=0" --moe-add-language="language=cs expert=2" | FileCheck %s --check-prefix=TWO
// RUN: not moe-opt %s --moe-add-language 2>&1 | FileCheck %s --check-prefix=NONE
// RUN: not moe-opt %s --moe-add-language="language=el" 2>&1 | FileCheck %s --check-prefix=KNOWN
// RUN: not moe-opt %s --moe-add-language="language=tr expert=2" 2>&1 | FileCheck %s --check-prefix=RANGE
// RUN: not moe-opt %s --moe-add-language="language=tr" 2>&1 | FileCheck %s --check-prefix=WHICH
// WHICH: error: expected an expert in [0, 2), but got -1; moe-run profile perplexity measures which suits the language
// RUN: not moe-opt %s --moe-route-by-group --moe-add-language="language=tr expert=0" 2>&1 | FileCheck %s --check-prefix=ROUTED

// NONE: error: expected the code of a language that is in no group yet, but got ''
// KNOWN: error: expected the code of a language that is in no group yet, but got 'el'
// RANGE: error: expected an expert in [0, 2), but got 2
// ROUTED: error: 'moe.route' op expected a route that follows its router

// CHECK: module attributes {moe.groups = {el = 1 : i64, en = 0 : i64, tr = 2 : i64}}
module attributes {moe.groups = {en = 0, el = 1}} {

// What was there is frozen, and what is new trains.
// CHECK: moe.parameter backbone @embed
// CHECK: moe.parameter backbone @l0.gate.weight
// CHECK: moe.parameter trainable router @l0.gate.2.weight : tensor<1x8xf32> from #moe.checkpoint<"run", "gate", rows = [1, 1, 2]>
// CHECK: moe.parameter trainable expert @l0.experts.2.up.weight : tensor<12x8xf32> from #moe.copy<@l0.experts.1.up.weight>
// CHECK: moe.parameter trainable expert @l0.experts.2.down.weight : tensor<8x12xf32> from #moe.copy<@l0.experts.1.down.weight>
// CHECK: moe.parameter backbone @l1.gate.weight
// Rows of a tensor's rows.
// CHECK: moe.parameter trainable router @l1.gate.2.weight : tensor<1x8xf32> from #moe.checkpoint<"run", "gates", rows = [5, 1, 6]>
// CHECK: moe.parameter trainable expert @l1.experts.2.up.weight
// CHECK: moe.parameter backbone @l1.experts.1.up.weight
// TWO: trainable router @l0.gate.3.weight : tensor<1x8xf32> from #moe.copy<@l0.gate.2.weight>
// TWO: trainable expert @l0.experts.3.up.weight : tensor<12x8xf32> from #moe.copy<@l0.experts.2.up.weight>
// TWO: backbone @l0.gate.2.weight : tensor<1x8xf32> from #moe.checkpoint<"run", "gate", rows = [0, 1, 1]>
// TWO: backbone @l0.experts.2.up.weight : tensor<12x8xf32> from #moe.copy<@l0.up.weight>
moe.parameter trainable backbone @embed : tensor<16x8xf32> from #moe.checkpoint<"m", "embed">
moe.parameter backbone @l0.up.weight : tensor<12x8xf32> from #moe.checkpoint<"m", "up">
moe.parameter backbone @l0.down.weight : tensor<8x12xf32> from #moe.checkpoint<"m", "down">
moe.parameter trainable router @l0.gate.weight : tensor<2x8xf32> from #moe.checkpoint<"run", "gate">
moe.parameter expert @l0.experts.1.up.weight : tensor<12x8xf32> from #moe.checkpoint<"run", "up1">
moe.parameter expert @l0.experts.1.down.weight : tensor<8x12xf32> from #moe.checkpoint<"run", "down1">
moe.parameter router @l1.gate.weight : tensor<2x8xf32> from #moe.checkpoint<"run", "gates", rows = [2, 1, 3]>
moe.parameter expert @l1.experts.1.up.weight : tensor<12x8xf32> from #moe.checkpoint<"run", "up1">
moe.parameter expert @l1.experts.1.down.weight : tensor<8x12xf32> from #moe.checkpoint<"run", "down1">

// CHECK-LABEL: func.func @forward(
// CHECK: %[[R:.*]] = moe.get_parameter @l0.gate.2.weight
// CHECK: %[[U:.*]] = moe.get_parameter @l0.experts.2.up.weight
// CHECK: %[[D:.*]] = moe.get_parameter @l0.experts.2.down.weight
// CHECK: call @layer({{.*}}, %[[R]], %[[U]], %[[D]])
// CHECK: call @layer(
func.func @forward(%tokens: tensor<?x?xi32> {moe.binding = #moe.binding<input, "tokens">}) -> (tensor<?x?x16xf32> {moe.binding = #moe.binding<output, "logits">}) {
  %w = moe.get_parameter @embed : tensor<16x8xf32>
  %h = moe.embedding %tokens, %w : (tensor<?x?xi32>, tensor<16x8xf32>) -> tensor<?x?x8xf32>
  %u0 = moe.get_parameter @l0.up.weight : tensor<12x8xf32>
  %d0 = moe.get_parameter @l0.down.weight : tensor<8x12xf32>
  %r0 = moe.get_parameter @l0.gate.weight : tensor<2x8xf32>
  %u1 = moe.get_parameter @l0.experts.1.up.weight : tensor<12x8xf32>
  %d1 = moe.get_parameter @l0.experts.1.down.weight : tensor<8x12xf32>
  %h0 = call @layer(%h, %r0, %u0, %d0, %u1, %d1) : (tensor<?x?x8xf32>, tensor<2x8xf32>, tensor<12x8xf32>, tensor<8x12xf32>, tensor<12x8xf32>, tensor<8x12xf32>) -> tensor<?x?x8xf32>
  %r1 = moe.get_parameter @l1.gate.weight : tensor<2x8xf32>
  %u2 = moe.get_parameter @l1.experts.1.up.weight : tensor<12x8xf32>
  %d2 = moe.get_parameter @l1.experts.1.down.weight : tensor<8x12xf32>
  %h1 = call @layer(%h0, %r1, %u0, %d0, %u2, %d2) : (tensor<?x?x8xf32>, tensor<2x8xf32>, tensor<12x8xf32>, tensor<8x12xf32>, tensor<12x8xf32>, tensor<8x12xf32>) -> tensor<?x?x8xf32>
  %logits = moe.linear %h1, %w : (tensor<?x?x8xf32>, tensor<16x8xf32>) -> tensor<?x?x16xf32>
  return %logits : tensor<?x?x16xf32>
}

// CHECK-LABEL: func.func private @layer(
// CHECK-SAME: %[[R:[^ ]*]]: tensor<1x8xf32>, %[[U:[^ ]*]]: tensor<12x8xf32>, %[[D:[^ ]*]]: tensor<8x12xf32>)
// CHECK: %[[W:.*]] = moe.concat_rows %{{.*}}, %[[R]] : (tensor<2x8xf32>, tensor<1x8xf32>) -> tensor<3x8xf32>
// CHECK: %[[L:.*]] = moe.router %{{.*}}, %[[W]]
// CHECK: moe.route %[[L]] {renormalize} : (tensor<?x?x3xf32>) -> (!moe.routes<?x3, 2>, tensor<?x?x2xf32>)
// CHECK: moe.experts {{.*}}, %[[U]], %[[D]] {
// TWO: moe.concat_rows %{{.*}}, %{{.*}}, %{{.*}} : (tensor<2x8xf32>, tensor<1x8xf32>, tensor<1x8xf32>) -> tensor<4x8xf32>
// TWO-NOT: moe.concat_rows
func.func private @layer(%x: tensor<?x?x8xf32>, %r: tensor<2x8xf32>, %u0: tensor<12x8xf32>, %d0: tensor<8x12xf32>, %u1: tensor<12x8xf32>, %d1: tensor<8x12xf32>) -> tensor<?x?x8xf32> {
  %l = moe.router %x, %r : (tensor<?x?x8xf32>, tensor<2x8xf32>) -> tensor<?x?x2xf32>
  %routes, %s = moe.route %l {renormalize} : (tensor<?x?x2xf32>) -> (!moe.routes<?x2, 2>, tensor<?x?x2xf32>)
  %y = moe.experts %x, %s, %routes, %u0, %d0, %u1, %d1 {form = #moe.ffn<plain>, activation = #moe.activation<gelu>}
    : (tensor<?x?x8xf32>, tensor<?x?x2xf32>, !moe.routes<?x2, 2>, tensor<12x8xf32>, tensor<8x12xf32>, tensor<12x8xf32>, tensor<8x12xf32>) -> tensor<?x?x8xf32>
  return %y : tensor<?x?x8xf32>
}
}
