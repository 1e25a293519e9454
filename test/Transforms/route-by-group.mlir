// RUN: moe-opt %s --moe-route-by-group | FileCheck %s
// RUN: moe-opt %s --moe-route-by-group | moe-opt | FileCheck %s
// RUN: moe-opt %s --moe-route-by-group --moe-force-expert="expert=1" | FileCheck %s --check-prefix=FORCED
// A forced route takes no notice of groups.
// FORCED: moe.route %{{[^,]*}} {forced_expert = 1 : i64}
// RUN: moe-opt %s --moe-route-by-group --moe-add-objective="router-cross-entropy=1.28" | FileCheck %s --check-prefix=STEP

// The groups stay with the module.
// CHECK: module attributes {moe.groups = {el = 1 : i64, en = 0 : i64, "zh-Hant" = 1 : i64}}
module attributes {moe.groups = {en = 0, el = 1, "zh-Hant" = 1}} {

moe.parameter backbone @embed : tensor<16x8xf32> from #moe.checkpoint<"m", "embed">
moe.parameter backbone @down : tensor<8x16xf32> from #moe.checkpoint<"m", "down">
moe.parameter router @gate.0 : tensor<3x8xf32> from #moe.init<normal, seed = 0, std = 2.0e-02>
moe.parameter router @gate.1 : tensor<3x8xf32> from #moe.init<normal, seed = 0, std = 2.0e-02>
moe.parameter language_gate @classes : tensor<2x8xf32> from #moe.init<normal, seed = 0, std = 2.0e-02>

// CHECK-LABEL: func.func @forward(
// CHECK-SAME: %[[GROUPS:[^ ]*]]: tensor<?x?xi32> {moe.binding = #moe.binding<input, "groups">})
// CHECK: call @layer(%{{.*}}, %{{.*}}, %[[GROUPS]])
// CHECK: call @layer(%{{.*}}, %{{.*}}, %[[GROUPS]])
// CHECK: call @gated(%{{.*}}, %{{.*}}, %{{.*}}, %[[GROUPS]])
// CHECK: call @dense(%{{[^,]*}}, %{{[^,]*}}, %{{[^,]*}}) :

// The loss reads the same input.
// STEP-LABEL: func.func @step(
// STEP-SAME: %[[GROUPS:[^ ]*]]: tensor<?x?xi32> {moe.binding = #moe.binding<input, "groups">},
// STEP-NOT: #moe.binding<input, "groups">
// STEP-SAME: %[[PW:[^ ]*]]: tensor<f32> {moe.binding = #moe.binding<input, "position_weight">})
// STEP: call @layer(%{{.*}}, %{{.*}}, %[[GROUPS]], %[[PW]], %[[GROUPS]])
func.func @forward(%tokens: tensor<?x?xi32> {moe.binding = #moe.binding<input, "tokens">}) -> (tensor<?x?x16xf32> {moe.binding = #moe.binding<output, "logits">}) {
  %w = moe.get_parameter @embed : tensor<16x8xf32>
  %h = moe.embedding %tokens, %w : (tensor<?x?xi32>, tensor<16x8xf32>) -> tensor<?x?x8xf32>
  %g0 = moe.get_parameter @gate.0 : tensor<3x8xf32>
  %h0 = call @layer(%h, %g0) : (tensor<?x?x8xf32>, tensor<3x8xf32>) -> tensor<?x?x8xf32>
  %g1 = moe.get_parameter @gate.1 : tensor<3x8xf32>
  %h1 = call @layer(%h0, %g1) : (tensor<?x?x8xf32>, tensor<3x8xf32>) -> tensor<?x?x8xf32>
  %c = moe.get_parameter @classes : tensor<2x8xf32>
  %h2 = call @gated(%h1, %g1, %c) : (tensor<?x?x8xf32>, tensor<3x8xf32>, tensor<2x8xf32>) -> tensor<?x?x8xf32>
  %d = moe.get_parameter @down : tensor<8x16xf32>
  %h3 = call @dense(%h2, %w, %d) : (tensor<?x?x8xf32>, tensor<16x8xf32>, tensor<8x16xf32>) -> tensor<?x?x8xf32>
  %logits = moe.linear %h3, %w : (tensor<?x?x8xf32>, tensor<16x8xf32>) -> tensor<?x?x16xf32>
  return %logits : tensor<?x?x16xf32>
}

// CHECK-LABEL: func.func private @layer(
// CHECK-SAME: %[[G:[^ ]*]]: tensor<?x?xi32>)
// CHECK: moe.route %{{.*}} groups(%[[G]]) : (tensor<?x?x3xf32>, tensor<?x?xi32>) -> (!moe.routes<?x3, 1>, tensor<?x?x1xf32>)
func.func private @layer(%x: tensor<?x?x8xf32>, %gate: tensor<3x8xf32>) -> tensor<?x?x8xf32> {
  %l = moe.router %x, %gate : (tensor<?x?x8xf32>, tensor<3x8xf32>) -> tensor<?x?x3xf32>
  %r, %s = moe.route %l {renormalize} : (tensor<?x?x3xf32>) -> (!moe.routes<?x3, 2>, tensor<?x?x2xf32>)
  return %x : tensor<?x?x8xf32>
}

// A language gate decides nothing.
// CHECK-LABEL: func.func private @gated(
// CHECK: moe.route %{{.*}} groups(%{{.*}}) : (tensor<?x?x3xf32>, tensor<?x?xi32>) ->
func.func private @gated(%x: tensor<?x?x8xf32>, %gate: tensor<3x8xf32>, %classes: tensor<2x8xf32>) -> tensor<?x?x8xf32> {
  %l = moe.router %x, %gate : (tensor<?x?x8xf32>, tensor<3x8xf32>) -> tensor<?x?x3xf32>
  %c = moe.language_gate %x, %classes : (tensor<?x?x8xf32>, tensor<2x8xf32>) -> tensor<?x?x2xf32>
  %r, %s = moe.route %l, %c {renormalize} : (tensor<?x?x3xf32>, tensor<?x?x2xf32>) -> (!moe.routes<?x3, 2>, tensor<?x?x2xf32>)
  return %x : tensor<?x?x8xf32>
}

func.func private @dense(%x: tensor<?x?x8xf32>, %w: tensor<16x8xf32>, %d: tensor<8x16xf32>) -> tensor<?x?x8xf32> {
  %y = moe.ffn %x, %w, %d {form = #moe.ffn<plain>, activation = #moe.activation<gelu>} : (tensor<?x?x8xf32>, tensor<16x8xf32>, tensor<8x16xf32>) -> tensor<?x?x8xf32>
  return %y : tensor<?x?x8xf32>
}
}
