// RUN: moe-opt %s --moe-add-objective="balance=0.01" | FileCheck %s
// RUN: moe-opt %s --moe-add-objective="balance=0.01" | moe-opt | FileCheck %s
// RUN: moe-opt %s --moe-add-objective="language-prior=0.1 language-prior-form=reference" | FileCheck %s --check-prefix=PRIOR
// RUN: moe-opt %s --moe-add-objective="balance=0.5 language-prior=0.1" | FileCheck %s --check-prefix=BOTH
// RUN: moe-opt %s --moe-add-objective | FileCheck %s --check-prefix=PLAIN
// RUN: not moe-opt %s --moe-add-objective="balance=-1" 2>&1 | FileCheck %s --check-prefix=NEGATIVE
// RUN: not moe-opt %s --moe-add-objective="balance-form=code" 2>&1 | FileCheck %s --check-prefix=FORM

// NEGATIVE: error: expected balance to be zero or a positive number, but got -1.00
// FORM: error: expected balance-form to be paper or reference, but got 'code'

moe.parameter backbone @embed : tensor<16x8xf32> from #moe.checkpoint<"m", "embed">
moe.parameter router @gate.0 : tensor<2x8xf32> from #moe.init<xavier_normal, seed = 0>
moe.parameter router @gate.1 : tensor<2x8xf32> from #moe.init<xavier_normal, seed = 0>

// CHECK-LABEL: func.func @step(
// CHECK-SAME: %[[TOKENS:[^ ]*]]: tensor<?x?xi32> {moe.binding = #moe.binding<input, "tokens">},
// CHECK-SAME: %[[LABELS:[^ ]*]]: tensor<?x?xi32> {moe.binding = #moe.binding<input, "labels">},
// CHECK-SAME: %[[OLD:[^ ]*]]: tensor<?x?xi32> {moe.binding = #moe.binding<input, "old">},
// CHECK-SAME: %[[TW:.*]]: tensor<f32> {moe.binding = #moe.binding<input, "token_weight">},
// CHECK-SAME: %[[OW:.*]]: tensor<f32> {moe.binding = #moe.binding<input, "old_weight">},
// CHECK-SAME: %[[MW:[^ ]*]]: tensor<f32> {moe.binding = #moe.binding<input, "micro_batch_weight">},
// CHECK-SAME: %{{[^ ]*}}: tensor<f32> {moe.binding = #moe.binding<input, "position_weight">})
// CHECK-SAME: -> (tensor<f32> {moe.binding = #moe.binding<output, "loss">}, tensor<f32> {moe.binding = #moe.binding<output, "next_token">}, tensor<f32> {moe.binding = #moe.binding<output, "balance">})
// CHECK: %[[H0:.*]]:2 = call @layer(%{{.*}}, %{{.*}}, %[[MW]])
// CHECK: %[[H1:.*]]:2 = call @layer(%[[H0]]#0, %{{.*}}, %[[MW]])
// CHECK: %[[LOGITS:.*]] = moe.linear %[[H1]]#0
// CHECK: %[[NT:.*]] = moe.cross_entropy %[[LOGITS]], %[[LABELS]], %[[TW]]
// CHECK: %[[B:.*]] = moe.weighted_sum %[[H0]]#1, %[[H1]]#1 {coefficients = array<f64: 5.000000e-01, 5.000000e-01>}
// CHECK: %[[LOSS:.*]] = moe.weighted_sum %[[NT]], %[[B]] {coefficients = array<f64: 1.000000e+00, 1.000000e-02>}
// CHECK: return %[[LOSS]], %[[NT]], %[[B]]

// PRIOR-LABEL: func.func @step(
// PRIOR-SAME: %[[OLD:[^ ]*]]: tensor<?x?xi32> {moe.binding = #moe.binding<input, "old">},
// PRIOR-SAME: %[[OW:[^ ]*]]: tensor<f32> {moe.binding = #moe.binding<input, "old_weight">},
// PRIOR-SAME: #moe.binding<output, "language_prior">
// PRIOR: call @layer(%{{.*}}, %{{.*}}, %[[OLD]], %[[OW]])

// BOTH: #moe.binding<output, "balance">}, tensor<f32> {moe.binding = #moe.binding<output, "language_prior">})
// BOTH: moe.weighted_sum %{{.*}}#1, %{{.*}}#1 {coefficients
// BOTH: moe.weighted_sum %{{.*}}#2, %{{.*}}#2 {coefficients
// BOTH: {coefficients = array<f64: 1.000000e+00, 5.000000e-01, 1.000000e-01>}

// Without router losses the layers stay as they are.
// PLAIN-LABEL: func.func @step(
// PLAIN-SAME: -> (tensor<f32> {moe.binding = #moe.binding<output, "loss">}, tensor<f32> {moe.binding = #moe.binding<output, "next_token">})
// PLAIN: %{{[^:]*}} = call @layer(%{{[^,]*}}, %{{[^,]*}}) :
// PLAIN: moe.weighted_sum %{{.*}} {coefficients = array<f64: 1.000000e+00>}
func.func @forward(%tokens: tensor<?x?xi32> {moe.binding = #moe.binding<input, "tokens">}) -> (tensor<?x?x16xf32> {moe.binding = #moe.binding<output, "logits">}) {
  %w = moe.get_parameter @embed : tensor<16x8xf32>
  %h = moe.embedding %tokens, %w : (tensor<?x?xi32>, tensor<16x8xf32>) -> tensor<?x?x8xf32>
  %g0 = moe.get_parameter @gate.0 : tensor<2x8xf32>
  %h0 = call @layer(%h, %g0) : (tensor<?x?x8xf32>, tensor<2x8xf32>) -> tensor<?x?x8xf32>
  %g1 = moe.get_parameter @gate.1 : tensor<2x8xf32>
  %h1 = call @layer(%h0, %g1) : (tensor<?x?x8xf32>, tensor<2x8xf32>) -> tensor<?x?x8xf32>
  %logits = moe.linear %h1, %w : (tensor<?x?x8xf32>, tensor<16x8xf32>) -> tensor<?x?x16xf32>
  return %logits : tensor<?x?x16xf32>
}

// CHECK-LABEL: func.func private @layer(
// CHECK-SAME: %{{.*}}: tensor<?x?x8xf32>, %{{.*}}: tensor<2x8xf32>, %[[W:.*]]: tensor<f32>) -> (tensor<?x?x8xf32>, tensor<f32>)
// CHECK: %[[R:.*]], %{{.*}} = moe.route %[[L:.*]] {
// CHECK: %[[LOSS:.*]] = moe.balance_loss %[[L]], %[[R]], %[[W]] {form = #moe.form<paper>}
// CHECK: return %{{.*}}, %[[LOSS]]
// PRIOR: moe.language_prior_loss %{{.*}}, %{{.*}}, %{{.*}} {form = #moe.form<reference>}
// PLAIN: func.func private @layer(%{{[^,]*}}: tensor<?x?x8xf32>, %{{[^,]*}}: tensor<2x8xf32>) -> tensor<?x?x8xf32>
func.func private @layer(%x: tensor<?x?x8xf32>, %gate: tensor<2x8xf32>) -> tensor<?x?x8xf32> {
  %l = moe.router %x, %gate : (tensor<?x?x8xf32>, tensor<2x8xf32>) -> tensor<?x?x2xf32>
  %r, %s = moe.route %l {renormalize} : (tensor<?x?x2xf32>) -> (!moe.routes<?x2, 2>, tensor<?x?x2xf32>)
  return %x : tensor<?x?x8xf32>
}
