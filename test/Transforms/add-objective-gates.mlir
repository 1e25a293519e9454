// RUN: moe-opt %s --moe-add-objective="classifier=0.1" | FileCheck %s
// RUN: moe-opt %s --moe-add-objective="classifier=0.1" | moe-opt | FileCheck %s
// RUN: moe-opt %s --moe-add-objective="language-prior=0.1 classifier=0.2" | FileCheck %s --check-prefix=BOTH
// RUN: moe-opt %s --moe-drop-untrained-gates --moe-add-objective="classifier=0.1" | FileCheck %s --check-prefix=NONE
// RUN: not moe-opt %s --moe-add-objective="classifier=-1" 2>&1 | FileCheck %s --check-prefix=NEGATIVE

// NEGATIVE: error: expected classifier to be zero or a positive number, but got -1.00

moe.parameter backbone @embed : tensor<16x8xf32> from #moe.checkpoint<"m", "embed">
moe.parameter router @router : tensor<2x8xf32> from #moe.init<xavier_normal, seed = 0>
moe.parameter language_gate @gate : tensor<2x8xf32> from #moe.init<xavier_normal, seed = 0>

// The mean is one over the layers that have a gate.
// CHECK-LABEL: func.func @step(
// CHECK-SAME: %[[OLD:[^ ]*]]: tensor<?x?xi32> {moe.binding = #moe.binding<input, "old">},
// CHECK-SAME: %[[PW:[^ ]*]]: tensor<f32> {moe.binding = #moe.binding<input, "position_weight">})
// CHECK-SAME: #moe.binding<output, "next_token">}, tensor<f32> {moe.binding = #moe.binding<output, "classifier">})
// CHECK: %[[H:.*]]:2 = call @gated(%{{.*}}, %{{.*}}, %{{.*}}, %[[OLD]], %[[PW]])
// CHECK: %[[C:.*]] = moe.weighted_sum %[[H]]#1 {coefficients = array<f64: 1.000000e+00>}
// CHECK: moe.weighted_sum %{{.*}}, %[[C]] {coefficients = array<f64: 1.000000e+00, 1.000000e-01>}

// BOTH: #moe.binding<output, "language_prior">}, tensor<f32> {moe.binding = #moe.binding<output, "classifier">})
// BOTH: %[[H0:.*]]:3 = call @gated
// BOTH: %[[H1:.*]]:2 = call @plain
// BOTH: moe.weighted_sum %[[H0]]#1, %[[H1]]#1
// BOTH: moe.weighted_sum %[[H0]]#2 {

// Without gates there is nothing to teach.
// NONE: func.func @step(
// NONE-SAME: #moe.binding<output, "next_token">})
func.func @forward(%tokens: tensor<?x?xi32> {moe.binding = #moe.binding<input, "tokens">}) -> (tensor<?x?x16xf32> {moe.binding = #moe.binding<output, "logits">}) {
  %w = moe.get_parameter @embed : tensor<16x8xf32>
  %h = moe.embedding %tokens, %w : (tensor<?x?xi32>, tensor<16x8xf32>) -> tensor<?x?x8xf32>
  %router = moe.get_parameter @router : tensor<2x8xf32>
  %gate = moe.get_parameter @gate : tensor<2x8xf32>
  %h0 = call @gated(%h, %router, %gate) : (tensor<?x?x8xf32>, tensor<2x8xf32>, tensor<2x8xf32>) -> tensor<?x?x8xf32>
  %h1 = call @plain(%h0, %router) : (tensor<?x?x8xf32>, tensor<2x8xf32>) -> tensor<?x?x8xf32>
  %logits = moe.linear %h1, %w : (tensor<?x?x8xf32>, tensor<16x8xf32>) -> tensor<?x?x16xf32>
  return %logits : tensor<?x?x16xf32>
}

// CHECK-LABEL: func.func private @gated(
// CHECK-SAME: %[[OLD:[^ ]*]]: tensor<?x?xi32>, %[[PW:[^ ]*]]: tensor<f32>)
// CHECK: %[[G:.*]] = moe.language_gate
// CHECK: moe.classifier_loss %[[G]], %[[OLD]], %[[PW]]
func.func private @gated(%x: tensor<?x?x8xf32>, %router: tensor<2x8xf32>, %gate: tensor<2x8xf32>) -> tensor<?x?x8xf32> {
  %l = moe.router %x, %router : (tensor<?x?x8xf32>, tensor<2x8xf32>) -> tensor<?x?x2xf32>
  %g = moe.language_gate %x, %gate : (tensor<?x?x8xf32>, tensor<2x8xf32>) -> tensor<?x?x2xf32>
  %r, %s = moe.route %l, %g {renormalize} : (tensor<?x?x2xf32>, tensor<?x?x2xf32>) -> (!moe.routes<?x2, 2>, tensor<?x?x2xf32>)
  return %x : tensor<?x?x8xf32>
}

func.func private @plain(%x: tensor<?x?x8xf32>, %router: tensor<2x8xf32>) -> tensor<?x?x8xf32> {
  %l = moe.router %x, %router : (tensor<?x?x8xf32>, tensor<2x8xf32>) -> tensor<?x?x2xf32>
  %r, %s = moe.route %l {renormalize} : (tensor<?x?x2xf32>) -> (!moe.routes<?x2, 2>, tensor<?x?x2xf32>)
  return %x : tensor<?x?x8xf32>
}
