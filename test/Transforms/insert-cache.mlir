// RUN: moe-opt %s --moe-insert-cache="capacity=64" | FileCheck %s
// RUN: moe-opt %s --moe-insert-cache="capacity=64" | moe-opt | FileCheck %s
// RUN: moe-opt %s --moe-insert-cache="capacity=64" --moe-specialize-shapes="rows=2 length=5" --moe-verify-level="level=objective" | FileCheck %s --check-prefix=STATIC
// RUN: not moe-opt %s --moe-insert-cache="capacity=0" 2>&1 | FileCheck %s --check-prefix=ZERO

// ZERO: error: expected a capacity of at least 1, but got 0

moe.parameter backbone @embed : tensor<16x8xf32> from #moe.checkpoint<"m", "embed">
moe.parameter backbone @norm : tensor<8xf32> from #moe.checkpoint<"m", "norm">
moe.parameter backbone @kv.0 : tensor<4x8xf32> from #moe.checkpoint<"m", "kv.0">
moe.parameter backbone @kv.1 : tensor<4x8xf32> from #moe.checkpoint<"m", "kv.1">

// The segments are gone, each layer has its caches, and whatever follows the
// last layer works on one token.
// CHECK-LABEL: func.func @extend(
// CHECK-SAME: %[[TOKENS:[^ ]*]]: tensor<?x?xi32> {moe.binding = #moe.binding<input, "tokens">},
// CHECK-SAME: %[[SLOTS:[^ ]*]]: tensor<?x?xi32> {moe.binding = #moe.binding<input, "slots">},
// CHECK-SAME: %[[K0:[^ ]*]]: tensor<?x64x4xf32> {moe.binding = #moe.binding<state, "keys.0">},
// CHECK-SAME: %[[V0:[^ ]*]]: tensor<?x64x4xf32> {moe.binding = #moe.binding<state, "values.0">},
// CHECK-SAME: %[[K1:[^ ]*]]: tensor<?x64x4xf32> {moe.binding = #moe.binding<state, "keys.1">},
// CHECK-SAME: %[[V1:[^ ]*]]: tensor<?x64x4xf32> {moe.binding = #moe.binding<state, "values.1">})
// CHECK-SAME: -> (tensor<?x1x16xf32> {moe.binding = #moe.binding<output, "logits">})
// CHECK: %[[H0:.*]] = call @layer(%{{.*}}, %{{.*}}, %[[SLOTS]], %[[K0]], %[[V0]])
// CHECK: %[[H1:.*]] = call @layer(%[[H0]], %{{.*}}, %[[SLOTS]], %[[K1]], %[[V1]])
// CHECK: %[[LAST:.*]] = moe.last_token %[[H1]] : (tensor<?x?x8xf32>) -> tensor<?x1x8xf32>
// CHECK: %[[N:.*]] = moe.rms_norm %[[LAST]], %{{.*}} -> tensor<?x1x8xf32>
// CHECK: %[[M:.*]] = moe.scale %[[N]] {factor = 6.250000e-02 : f64} : tensor<?x1x8xf32>
// CHECK: %[[L:.*]] = moe.linear %[[M]], %{{.*}} -> tensor<?x1x16xf32>
// CHECK: %[[C:.*]] = moe.soft_cap %[[L]] {cap = 3.000000e+01 : f64} : tensor<?x1x16xf32>
// CHECK: return %[[C]]

// STATIC: func.func @extend({{.*}}tensor<2x64x4xf32> {moe.binding = #moe.binding<state, "values.1">}) -> (tensor<2x1x16xf32>
// STATIC: moe.last_token %{{.*}} : (tensor<2x5x8xf32>) -> tensor<2x1x8xf32>
func.func @forward(%tokens: tensor<?x?xi32> {moe.binding = #moe.binding<input, "tokens">}, %slots: tensor<?x?xi32> {moe.binding = #moe.binding<input, "slots">}, %segments: tensor<?x?xi32> {moe.binding = #moe.binding<input, "segments">}) -> (tensor<?x?x16xf32> {moe.binding = #moe.binding<output, "logits">}) {
  %w = moe.get_parameter @embed : tensor<16x8xf32>
  %h = moe.embedding %tokens, %w : (tensor<?x?xi32>, tensor<16x8xf32>) -> tensor<?x?x8xf32>
  %kv0 = moe.get_parameter @kv.0 : tensor<4x8xf32>
  %h0 = call @layer(%h, %kv0, %slots, %segments) : (tensor<?x?x8xf32>, tensor<4x8xf32>, tensor<?x?xi32>, tensor<?x?xi32>) -> tensor<?x?x8xf32>
  %kv1 = moe.get_parameter @kv.1 : tensor<4x8xf32>
  %h1 = call @layer(%h0, %kv1, %slots, %segments) : (tensor<?x?x8xf32>, tensor<4x8xf32>, tensor<?x?xi32>, tensor<?x?xi32>) -> tensor<?x?x8xf32>
  %norm = moe.get_parameter @norm : tensor<8xf32>
  %n = moe.rms_norm %h1, %norm {epsilon = 1.0e-5} : (tensor<?x?x8xf32>, tensor<8xf32>) -> tensor<?x?x8xf32>
  %m = moe.scale %n {factor = 0.0625} : tensor<?x?x8xf32>
  %all = moe.linear %m, %w : (tensor<?x?x8xf32>, tensor<16x8xf32>) -> tensor<?x?x16xf32>
  %logits = moe.soft_cap %all {cap = 30.0} : tensor<?x?x16xf32>
  return %logits : tensor<?x?x16xf32>
}

// CHECK-LABEL: func.func private @layer(
// CHECK-SAME: %[[X:[^ ]*]]: tensor<?x?x8xf32>, %{{[^ ]*}}: tensor<4x8xf32>, %[[S:[^ ]*]]: tensor<?x?xi32>, %[[KC:[^ ]*]]: tensor<?x64x4xf32>, %[[VC:[^ ]*]]: tensor<?x64x4xf32>)
// CHECK: %[[KV:.*]] = moe.linear
// CHECK: %[[K:.*]] = moe.cache_update %[[KC]], %[[KV]], %[[S]]
// CHECK: %[[V:.*]] = moe.cache_update %[[VC]], %[[KV]], %[[S]]
// CHECK: moe.attention %[[X]], %[[K]], %[[V]], %[[S]] {{.*}} : (tensor<?x?x8xf32>, tensor<?x64x4xf32>, tensor<?x64x4xf32>, tensor<?x?xi32>) -> tensor<?x?x8xf32>
func.func private @layer(%x: tensor<?x?x8xf32>, %w: tensor<4x8xf32>, %slots: tensor<?x?xi32>, %segments: tensor<?x?xi32>) -> tensor<?x?x8xf32> {
  %kv = moe.linear %x, %w : (tensor<?x?x8xf32>, tensor<4x8xf32>) -> tensor<?x?x4xf32>
  %o = moe.attention %x, %kv, %kv, %slots, %segments {heads = 2 : i64, kv_heads = 1 : i64, scale = 0.5} : (tensor<?x?x8xf32>, tensor<?x?x4xf32>, tensor<?x?x4xf32>, tensor<?x?xi32>, tensor<?x?xi32>) -> tensor<?x?x8xf32>
  return %o : tensor<?x?x8xf32>
}
