// RUN: moe-opt %s --split-input-file --verify-diagnostics --moe-insert-cache="capacity=64" | FileCheck %s
// RUN: moe-opt %s --split-input-file --verify-diagnostics --moe-insert-cache="capacity=64" | moe-opt --split-input-file | FileCheck %s

// A gate that looks back reads its own logits from a cache; one that looks at
// the token alone needs none.
// CHECK-LABEL: func.func @extend(
// CHECK-SAME: {moe.binding = #moe.binding<state, "keys.0">}
// CHECK-SAME: {moe.binding = #moe.binding<state, "values.0">}
// CHECK-SAME: tensor<?x64x2xf32> {moe.binding = #moe.binding<state, "gates.0">})
func.func @forward(%x: tensor<?x?x8xf32> {moe.binding = #moe.binding<input, "tokens">}, %slots: tensor<?x?xi32> {moe.binding = #moe.binding<input, "slots">}, %w: tensor<2x8xf32> {moe.binding = #moe.binding<input, "w">}) -> (tensor<?x?x8xf32> {moe.binding = #moe.binding<output, "logits">}) {
  %y = call @layer(%x, %slots, %w) : (tensor<?x?x8xf32>, tensor<?x?xi32>, tensor<2x8xf32>) -> tensor<?x?x8xf32>
  return %y : tensor<?x?x8xf32>
}

// CHECK-LABEL: func.func private @layer(
// CHECK-SAME: %[[SLOTS:[^ ]*]]: tensor<?x?xi32>,
// CHECK-SAME: %[[CACHE:[^ ]*]]: tensor<?x64x2xf32>)
// CHECK: %[[G:.*]] = moe.language_gate
// CHECK: %[[ALL:.*]] = moe.cache_update %[[CACHE]], %[[G]], %[[SLOTS]]
// CHECK: %[[P:.*]] = moe.pool %[[ALL]], %[[SLOTS]] {kind = #moe.pool<causal_mean>} : (tensor<?x64x2xf32>, tensor<?x?xi32>) -> tensor<?x?x2xf32>
// CHECK: moe.route %{{.*}}, %[[P]]
// CHECK: moe.route %{{.*}}, %[[G]]
func.func private @layer(%x: tensor<?x?x8xf32>, %slots: tensor<?x?xi32>, %w: tensor<2x8xf32>) -> tensor<?x?x8xf32> {
  %a = moe.attention %x, %x, %x, %slots {heads = 2 : i64, kv_heads = 2 : i64, scale = 0.5} : (tensor<?x?x8xf32>, tensor<?x?x8xf32>, tensor<?x?x8xf32>, tensor<?x?xi32>) -> tensor<?x?x8xf32>
  %l = moe.router %a, %w : (tensor<?x?x8xf32>, tensor<2x8xf32>) -> tensor<?x?x2xf32>
  %g = moe.language_gate %a, %w : (tensor<?x?x8xf32>, tensor<2x8xf32>) -> tensor<?x?x2xf32>
  %p = moe.pool %g {kind = #moe.pool<causal_mean>} : (tensor<?x?x2xf32>) -> tensor<?x?x2xf32>
  %r, %s = moe.route %l, %p : (tensor<?x?x2xf32>, tensor<?x?x2xf32>) -> (!moe.routes<?x2, 2>, tensor<?x?x2xf32>)
  %r1, %s1 = moe.route %l, %g : (tensor<?x?x2xf32>, tensor<?x?x2xf32>) -> (!moe.routes<?x2, 2>, tensor<?x?x2xf32>)
  return %a : tensor<?x?x8xf32>
}

// -----

func.func @forward(%x: tensor<?x?x2xf32> {moe.binding = #moe.binding<input, "tokens">}, %slots: tensor<?x?xi32> {moe.binding = #moe.binding<input, "slots">}) -> (tensor<?x?x2xf32> {moe.binding = #moe.binding<output, "logits">}) {
  %a = moe.attention %x, %x, %x, %slots {heads = 1 : i64, kv_heads = 1 : i64, scale = 0.5} : (tensor<?x?x2xf32>, tensor<?x?x2xf32>, tensor<?x?x2xf32>, tensor<?x?xi32>) -> tensor<?x?x2xf32>
  // expected-error@below {{'moe.pool' op expected a language gate that looks back, but sequence_sum looks at tokens that are not there yet; pool=token and pool=causal-mean can generate}}
  %p = moe.pool %a {kind = #moe.pool<sequence_sum>} : (tensor<?x?x2xf32>) -> tensor<?x?x2xf32>
  return %p : tensor<?x?x2xf32>
}

// -----

func.func @forward(%x: tensor<?x?x2xf32> {moe.binding = #moe.binding<input, "tokens">}) -> (tensor<?x?x2xf32> {moe.binding = #moe.binding<output, "logits">}) {
  // expected-error@below {{expected a moe.attention in its layer, whose slots its tokens stand in}}
  %p = moe.pool %x {kind = #moe.pool<causal_mean>} : (tensor<?x?x2xf32>) -> tensor<?x?x2xf32>
  return %p : tensor<?x?x2xf32>
}
