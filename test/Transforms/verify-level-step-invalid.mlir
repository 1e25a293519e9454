// RUN: moe-opt %s --moe-verify-level="level=step" --split-input-file --verify-diagnostics

// A parameter that trains and influences the loss needs a gradient, one that
// is frozen does not.
// expected-error@below {{expected a moe.accumulate_gradient, since it trains and influences the loss}}
moe.parameter trainable backbone @w : tensor<16x8xf32> from #moe.init<zeros, seed = 0>
moe.parameter backbone @frozen : tensor<8xf32> from #moe.init<ones, seed = 0>
func.func @step(%x: tensor<1x4x8xf32> {moe.binding = #moe.binding<input, "x">}, %labels: tensor<1x4xi32> {moe.binding = #moe.binding<input, "labels">}, %t: tensor<f32> {moe.binding = #moe.binding<input, "token_weight">}) -> (tensor<f32> {moe.binding = #moe.binding<output, "loss">}) {
  %w = moe.get_parameter @w : tensor<16x8xf32>
  %n = moe.get_parameter @frozen : tensor<8xf32>
  %l = call @head(%x, %n, %w) : (tensor<1x4x8xf32>, tensor<8xf32>, tensor<16x8xf32>) -> tensor<1x4x16xf32>
  %loss = moe.cross_entropy %l, %labels, %t : (tensor<1x4x16xf32>, tensor<1x4xi32>, tensor<f32>) -> tensor<f32>
  return %loss : tensor<f32>
}
func.func private @head(%x: tensor<1x4x8xf32>, %n: tensor<8xf32>, %w: tensor<16x8xf32>) -> tensor<1x4x16xf32> {
  %y = moe.rms_norm %x, %n {epsilon = 1.0e-5} : (tensor<1x4x8xf32>, tensor<8xf32>) -> tensor<1x4x8xf32>
  %l = moe.linear %y, %w : (tensor<1x4x8xf32>, tensor<16x8xf32>) -> tensor<1x4x16xf32>
  return %l : tensor<1x4x16xf32>
}

// -----

// A router trains in vain where the expert is forced: no error.
moe.parameter trainable router @gate : tensor<1x8xf32> from #moe.init<zeros, seed = 0>
func.func @step(%x: tensor<1x4x8xf32> {moe.binding = #moe.binding<input, "x">}, %u: tensor<12x8xf32> {moe.binding = #moe.binding<input, "u">}, %d: tensor<8x12xf32> {moe.binding = #moe.binding<input, "d">}, %labels: tensor<1x4xi32> {moe.binding = #moe.binding<input, "labels">}, %t: tensor<f32> {moe.binding = #moe.binding<input, "token_weight">}) -> (tensor<f32> {moe.binding = #moe.binding<output, "loss">}) {
  %gate = moe.get_parameter @gate : tensor<1x8xf32>
  %l = moe.router %x, %gate : (tensor<1x4x8xf32>, tensor<1x8xf32>) -> tensor<1x4x1xf32>
  %r, %s = moe.route %l {forced_expert = 0 : i64} : (tensor<1x4x1xf32>) -> (!moe.routes<4x1, 1>, tensor<1x4x1xf32>)
  %y = moe.experts %x, %s, %r, %u, %u, %d {form = #moe.ffn<gated>, activation = #moe.activation<silu>} : (tensor<1x4x8xf32>, tensor<1x4x1xf32>, !moe.routes<4x1, 1>, tensor<12x8xf32>, tensor<12x8xf32>, tensor<8x12xf32>) -> tensor<1x4x8xf32>
  %loss = moe.cross_entropy %y, %labels, %t : (tensor<1x4x8xf32>, tensor<1x4xi32>, tensor<f32>) -> tensor<f32>
  return %loss : tensor<f32>
}

// -----

// expected-error @below {{expected a static number of tokens at level step, but got '!moe.routes<?x2, 1>'}}
func.func private @layer(%r: !moe.routes<?x2, 1>) {
  return
}
