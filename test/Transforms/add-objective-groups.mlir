// RUN: moe-opt %s --split-input-file --verify-diagnostics --moe-add-objective="router-cross-entropy=1.28" | FileCheck %s
// RUN: moe-opt %s --split-input-file --verify-diagnostics --moe-add-objective="router-cross-entropy=1.28" | moe-opt --split-input-file | FileCheck %s

// CHECK: router_cross_entropy = 1.280000e+00 : f64
module attributes {moe.groups = {el = 1, en = 0}} {
moe.parameter backbone @embed : tensor<16x8xf32> from #moe.checkpoint<"m", "embed">
moe.parameter router @router : tensor<2x8xf32> from #moe.init<normal, seed = 0, std = 2.0e-02>

// CHECK-LABEL: func.func @step(
// CHECK-SAME: %[[PW:[^ ]*]]: tensor<f32> {moe.binding = #moe.binding<input, "position_weight">},
// CHECK-SAME: %[[GROUPS:[^ ]*]]: tensor<?x?xi32> {moe.binding = #moe.binding<input, "groups">})
// CHECK-SAME: #moe.binding<output, "next_token">}, tensor<f32> {moe.binding = #moe.binding<output, "router_cross_entropy">})
// CHECK: %[[H0:.*]]:2 = call @layer(%{{.*}}, %{{.*}}, %[[PW]], %[[GROUPS]])
// CHECK: %[[H1:.*]]:2 = call @layer(%[[H0]]#0, %{{.*}}, %[[PW]], %[[GROUPS]])
// CHECK: %[[L:.*]] = moe.weighted_sum %[[H0]]#1, %[[H1]]#1 {coefficients = array<f64: 5.000000e-01, 5.000000e-01>}
// CHECK: moe.weighted_sum %{{.*}}, %[[L]] {coefficients = array<f64: 1.000000e+00, 1.280000e+00>}
func.func @forward(%tokens: tensor<?x?xi32> {moe.binding = #moe.binding<input, "tokens">}) -> (tensor<?x?x16xf32> {moe.binding = #moe.binding<output, "logits">}) {
  %w = moe.get_parameter @embed : tensor<16x8xf32>
  %h = moe.embedding %tokens, %w : (tensor<?x?xi32>, tensor<16x8xf32>) -> tensor<?x?x8xf32>
  %router = moe.get_parameter @router : tensor<2x8xf32>
  %h0 = call @layer(%h, %router) : (tensor<?x?x8xf32>, tensor<2x8xf32>) -> tensor<?x?x8xf32>
  %h1 = call @layer(%h0, %router) : (tensor<?x?x8xf32>, tensor<2x8xf32>) -> tensor<?x?x8xf32>
  %logits = moe.linear %h1, %w : (tensor<?x?x8xf32>, tensor<16x8xf32>) -> tensor<?x?x16xf32>
  return %logits : tensor<?x?x16xf32>
}

// CHECK-LABEL: func.func private @layer(
// CHECK-SAME: %[[PW:[^ ]*]]: tensor<f32>, %[[GROUPS:[^ ]*]]: tensor<?x?xi32>)
// CHECK: %[[L:.*]] = moe.router
// CHECK: moe.cross_entropy %[[L]], %[[GROUPS]], %[[PW]]
func.func private @layer(%x: tensor<?x?x8xf32>, %router: tensor<2x8xf32>) -> tensor<?x?x8xf32> {
  %l = moe.router %x, %router : (tensor<?x?x8xf32>, tensor<2x8xf32>) -> tensor<?x?x2xf32>
  %r, %s = moe.route %l {renormalize} : (tensor<?x?x2xf32>) -> (!moe.routes<?x2, 2>, tensor<?x?x2xf32>)
  return %x : tensor<?x?x8xf32>
}
}

// -----

// expected-error@below {{expected a model with groups of languages (moe.groups), but it has none; moe-group-languages makes them}}
module {
func.func @forward(%tokens: tensor<?x?xi32> {moe.binding = #moe.binding<input, "tokens">}, %l: tensor<?x?x4xf32> {moe.binding = #moe.binding<input, "l">}) -> (tensor<?x?x4xf32> {moe.binding = #moe.binding<output, "logits">}) {
  %r, %s = moe.route %l {renormalize} : (tensor<?x?x4xf32>) -> (!moe.routes<?x4, 2>, tensor<?x?x2xf32>)
  return %l : tensor<?x?x4xf32>
}
}
