// RUN: moe-opt %s --split-input-file --verify-diagnostics --moe-drop-untrained-gates | FileCheck %s
// RUN: moe-opt %s --split-input-file --verify-diagnostics --moe-drop-untrained-gates | moe-opt --split-input-file | FileCheck %s

moe.parameter router @router : tensor<3x8xf32> from #moe.init<zeros, seed = 0>
moe.parameter language_gate @drawn : tensor<2x8xf32> from #moe.init<xavier_normal, seed = 0>
moe.parameter language_gate @trained : tensor<2x8xf32> from #moe.checkpoint<"m", "trained">
moe.parameter trainable language_gate @training : tensor<2x8xf32> from #moe.init<xavier_normal, seed = 0>

func.func @forward(%x: tensor<?x?x8xf32> {moe.binding = #moe.binding<input, "tokens">}) -> (tensor<?x?x8xf32> {moe.binding = #moe.binding<output, "logits">}) {
  %w = moe.get_parameter @router : tensor<3x8xf32>
  %g0 = moe.get_parameter @drawn : tensor<2x8xf32>
  %g1 = moe.get_parameter @trained : tensor<2x8xf32>
  %g2 = moe.get_parameter @training : tensor<2x8xf32>
  %h0 = call @drawn_layer(%x, %w, %g0) : (tensor<?x?x8xf32>, tensor<3x8xf32>, tensor<2x8xf32>) -> tensor<?x?x8xf32>
  %h1 = call @trained_layer(%h0, %w, %g1) : (tensor<?x?x8xf32>, tensor<3x8xf32>, tensor<2x8xf32>) -> tensor<?x?x8xf32>
  %h2 = call @trained_layer(%h1, %w, %g2) : (tensor<?x?x8xf32>, tensor<3x8xf32>, tensor<2x8xf32>) -> tensor<?x?x8xf32>
  return %h2 : tensor<?x?x8xf32>
}

// CHECK-LABEL: func.func private @drawn_layer(
// CHECK-NEXT: %[[L:.*]] = moe.router
// CHECK-NEXT: moe.route %[[L]] {renormalize} : (tensor<?x?x3xf32>) ->
func.func private @drawn_layer(%x: tensor<?x?x8xf32>, %w: tensor<3x8xf32>, %g: tensor<2x8xf32>) -> tensor<?x?x8xf32> {
  %l = moe.router %x, %w : (tensor<?x?x8xf32>, tensor<3x8xf32>) -> tensor<?x?x3xf32>
  %c = moe.language_gate %x, %g : (tensor<?x?x8xf32>, tensor<2x8xf32>) -> tensor<?x?x2xf32>
  %p = moe.pool %c {kind = #moe.pool<causal_mean>} : (tensor<?x?x2xf32>) -> tensor<?x?x2xf32>
  %r, %s = moe.route %l, %p {renormalize} : (tensor<?x?x3xf32>, tensor<?x?x2xf32>) -> (!moe.routes<?x3, 2>, tensor<?x?x2xf32>)
  return %x : tensor<?x?x8xf32>
}

// CHECK-LABEL: func.func private @trained_layer(
// CHECK: %[[G:.*]] = moe.language_gate
// CHECK: moe.route %{{.*}}, %[[G]] {renormalize}
func.func private @trained_layer(%x: tensor<?x?x8xf32>, %w: tensor<3x8xf32>, %g: tensor<2x8xf32>) -> tensor<?x?x8xf32> {
  %l = moe.router %x, %w : (tensor<?x?x8xf32>, tensor<3x8xf32>) -> tensor<?x?x3xf32>
  %c = moe.language_gate %x, %g : (tensor<?x?x8xf32>, tensor<2x8xf32>) -> tensor<?x?x2xf32>
  %r, %s = moe.route %l, %c {renormalize} : (tensor<?x?x3xf32>, tensor<?x?x2xf32>) -> (!moe.routes<?x3, 2>, tensor<?x?x2xf32>)
  return %x : tensor<?x?x8xf32>
}

// -----

moe.parameter router @router : tensor<3x8xf32> from #moe.init<zeros, seed = 0>
moe.parameter language_gate @drawn : tensor<2x8xf32> from #moe.init<xavier_normal, seed = 0>
moe.parameter language_gate @trained : tensor<2x8xf32> from #moe.checkpoint<"m", "trained">

func.func @forward(%x: tensor<?x?x8xf32> {moe.binding = #moe.binding<input, "tokens">}) -> (tensor<?x?x8xf32> {moe.binding = #moe.binding<output, "logits">}) {
  %w = moe.get_parameter @router : tensor<3x8xf32>
  %g0 = moe.get_parameter @drawn : tensor<2x8xf32>
  %g1 = moe.get_parameter @trained : tensor<2x8xf32>
  %h0 = call @layer(%x, %w, %g0) : (tensor<?x?x8xf32>, tensor<3x8xf32>, tensor<2x8xf32>) -> tensor<?x?x8xf32>
  %h1 = call @layer(%h0, %w, %g1) : (tensor<?x?x8xf32>, tensor<3x8xf32>, tensor<2x8xf32>) -> tensor<?x?x8xf32>
  return %h1 : tensor<?x?x8xf32>
}
func.func private @layer(%x: tensor<?x?x8xf32>, %w: tensor<3x8xf32>, %g: tensor<2x8xf32>) -> tensor<?x?x8xf32> {
  %l = moe.router %x, %w : (tensor<?x?x8xf32>, tensor<3x8xf32>) -> tensor<?x?x3xf32>
  %c = moe.language_gate %x, %g : (tensor<?x?x8xf32>, tensor<2x8xf32>) -> tensor<?x?x2xf32>
  // expected-error@below {{expected the gates of layers that share a function to be trained together, but @}}
  %r, %s = moe.route %l, %c {renormalize} : (tensor<?x?x3xf32>, tensor<?x?x2xf32>) -> (!moe.routes<?x3, 2>, tensor<?x?x2xf32>)
  return %x : tensor<?x?x8xf32>
}
