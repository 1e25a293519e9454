// A violation of every numbered constraint of the dialect's documentation, of gradients.
// RUN: moe-opt %s --split-input-file --verify-diagnostics

// moe.embedding_grad (C1)
func.func @f(%t: tensor<2x8xi32>, %dy: tensor<2x8x64xf32>) {
  // expected-error@below {{expected a width of 64, but got 65}}
  %d = moe.embedding_grad %t, %dy : (tensor<2x8xi32>, tensor<2x8x64xf32>) -> tensor<512x65xf32>
  return
}
// mended: tensor<512x65xf32> => tensor<512x64xf32>

// -----

// moe.embedding_grad (C1)
func.func @f(%t: tensor<2x7xi32>, %dy: tensor<2x8x64xf32>) {
  // expected-error@below {{expected a row length of 7, but got 8}}
  %d = moe.embedding_grad %t, %dy : (tensor<2x7xi32>, tensor<2x8x64xf32>) -> tensor<512x64xf32>
  return
}
// mended: tensor<2x8x64xf32> => tensor<2x7x64xf32>

// -----

// moe.rms_norm_grad (C1)
func.func @f(%dy: tensor<2x8x64xf32>, %x: tensor<2x8x32xf32>, %w: tensor<32xf32>) {
  // expected-error@below {{failed to verify that all of {dy, input, dx} have same type}}
  %d = moe.rms_norm_grad %dy, %x, %w {epsilon = 1.0e-5} : (tensor<2x8x64xf32>, tensor<2x8x32xf32>, tensor<32xf32>) -> tensor<2x8x32xf32>
  return
}
// mended: tensor<2x8x32xf32> => tensor<2x8x64xf32>

// -----

// moe.rms_norm_grad (C1)
func.func @f(%dy: tensor<2x8x64xf32>, %x: tensor<2x8x64xf32>, %w: tensor<64xf32>) {
  // expected-error@below {{failed to verify that all of {dy, input, dx} have same type}}
  %d = moe.rms_norm_grad %dy, %x, %w {epsilon = 1.0e-5} : (tensor<2x8x64xf32>, tensor<2x8x64xf32>, tensor<64xf32>) -> tensor<2x8x32xf32>
  return
}
// mended: tensor<2x8x32xf32> => tensor<2x8x64xf32>

// -----

// moe.rms_norm_grad (C2)
func.func @f(%dy: tensor<2x8x64xf32>, %x: tensor<2x8x64xf32>, %w: tensor<48xf32>) {
  // expected-error@below {{expected a width that is a multiple of 48, but got 64}}
  %d = moe.rms_norm_grad %dy, %x, %w {epsilon = 1.0e-5} : (tensor<2x8x64xf32>, tensor<2x8x64xf32>, tensor<48xf32>) -> tensor<2x8x64xf32>
  return
}
// mended: tensor<2x8x64xf32> => tensor<2x8x48xf32>

// -----

// moe.rms_norm_grad (C3)
func.func @f(%dy: tensor<2x8x64xf32>, %x: tensor<2x8x64xf32>, %w: tensor<64xf32>) {
  // expected-error@below {{attribute 'epsilon' failed to satisfy constraint: 64-bit float attribute whose value is positive}}
  %d = moe.rms_norm_grad %dy, %x, %w {epsilon = 0.0} : (tensor<2x8x64xf32>, tensor<2x8x64xf32>, tensor<64xf32>) -> tensor<2x8x64xf32>
  return
}
// mended: epsilon = 0.0 => epsilon = 1.0e-5

// -----

// moe.layer_norm_grad (C1)
func.func @f(%dy: tensor<2x8x64xf32>, %x: tensor<2x8x32xf32>, %w: tensor<32xf32>) {
  // expected-error@below {{failed to verify that all of {dy, input, dx} have same type}}
  %d = moe.layer_norm_grad %dy, %x, %w {epsilon = 1.0e-5} : (tensor<2x8x64xf32>, tensor<2x8x32xf32>, tensor<32xf32>) -> tensor<2x8x32xf32>
  return
}
// mended: tensor<2x8x64xf32> => tensor<2x8x32xf32>

// -----

// moe.layer_norm_grad (C1)
func.func @f(%dy: tensor<2x8x64xf32>, %x: tensor<2x8x64xf32>, %w: tensor<64xf32>) {
  // expected-error@below {{failed to verify that all of {dy, input, dx} have same type}}
  %d = moe.layer_norm_grad %dy, %x, %w {epsilon = 1.0e-5} : (tensor<2x8x64xf32>, tensor<2x8x64xf32>, tensor<64xf32>) -> tensor<2x8x32xf32>
  return
}
// mended: tensor<2x8x32xf32> => tensor<2x8x64xf32>

// -----

// moe.layer_norm_grad (C2)
func.func @f(%dy: tensor<2x8x64xf32>, %x: tensor<2x8x64xf32>, %w: tensor<32xf32>) {
  // expected-error@below {{expected a weight of 64, but got 32}}
  %d = moe.layer_norm_grad %dy, %x, %w {epsilon = 1.0e-5} : (tensor<2x8x64xf32>, tensor<2x8x64xf32>, tensor<32xf32>) -> tensor<2x8x64xf32>
  return
}
// mended: tensor<32xf32> => tensor<64xf32>

// -----

// moe.layer_norm_grad (C3)
func.func @f(%dy: tensor<2x8x64xf32>, %x: tensor<2x8x64xf32>, %w: tensor<64xf32>) {
  // expected-error@below {{attribute 'epsilon' failed to satisfy constraint: 64-bit float attribute whose value is positive}}
  %d = moe.layer_norm_grad %dy, %x, %w {epsilon = 0.0} : (tensor<2x8x64xf32>, tensor<2x8x64xf32>, tensor<64xf32>) -> tensor<2x8x64xf32>
  return
}
// mended: epsilon = 0.0 => epsilon = 1.0e-5

// -----

// moe.rms_norm_weight_grad (C1)
func.func @f(%dy: tensor<2x8x64xf32>, %x: tensor<2x8x64xbf16>) {
  // expected-error@below {{failed to verify that all of {dy, input} have same type}}
  %d = moe.rms_norm_weight_grad %dy, %x {epsilon = 1.0e-5} : (tensor<2x8x64xf32>, tensor<2x8x64xbf16>) -> tensor<64xf32>
  return
}
// mended: tensor<2x8x64xbf16> => tensor<2x8x64xf32>

// -----

// moe.rms_norm_weight_grad (C2)
func.func @f(%dy: tensor<2x8x64xf32>, %x: tensor<2x8x64xf32>) {
  // expected-error@below {{expected a width that is a multiple of 48, but got 64}}
  %d = moe.rms_norm_weight_grad %dy, %x {epsilon = 1.0e-5} : (tensor<2x8x64xf32>, tensor<2x8x64xf32>) -> tensor<48xf32>
  return
}
// mended: tensor<2x8x64xf32> => tensor<2x8x48xf32>

// -----

// moe.rms_norm_weight_grad (C3)
func.func @f(%dy: tensor<2x8x64xf32>, %x: tensor<2x8x64xf32>) {
  // expected-error@below {{attribute 'epsilon' failed to satisfy constraint: 64-bit float attribute whose value is positive}}
  %d = moe.rms_norm_weight_grad %dy, %x {epsilon = 0.0} : (tensor<2x8x64xf32>, tensor<2x8x64xf32>) -> tensor<64xf32>
  return
}
// mended: epsilon = 0.0 => epsilon = 1.0e-5

// -----

// moe.layer_norm_weight_grad (C1)
func.func @f(%dy: tensor<2x8x64xf32>, %x: tensor<2x8x64xbf16>) {
  // expected-error@below {{failed to verify that all of {dy, input} have same type}}
  %d = moe.layer_norm_weight_grad %dy, %x {epsilon = 1.0e-5} : (tensor<2x8x64xf32>, tensor<2x8x64xbf16>) -> tensor<64xf32>
  return
}
// mended: tensor<2x8x64xbf16> => tensor<2x8x64xf32>

// -----

// moe.layer_norm_weight_grad (C2)
func.func @f(%dy: tensor<2x8x64xf32>, %x: tensor<2x8x64xf32>) {
  // expected-error@below {{expected a result of 64, but got 32}}
  %d = moe.layer_norm_weight_grad %dy, %x {epsilon = 1.0e-5} : (tensor<2x8x64xf32>, tensor<2x8x64xf32>) -> tensor<32xf32>
  return
}
// mended: tensor<32xf32> => tensor<64xf32>

// -----

// moe.layer_norm_weight_grad (C3)
func.func @f(%dy: tensor<2x8x64xf32>, %x: tensor<2x8x64xf32>) {
  // expected-error@below {{attribute 'epsilon' failed to satisfy constraint: 64-bit float attribute whose value is positive}}
  %d = moe.layer_norm_weight_grad %dy, %x {epsilon = 0.0} : (tensor<2x8x64xf32>, tensor<2x8x64xf32>) -> tensor<64xf32>
  return
}
// mended: epsilon = 0.0 => epsilon = 1.0e-5

// -----

// moe.linear_input_grad (C1)
func.func @f(%dy: tensor<2x8x96xf32>, %w: tensor<64x96xf32>) {
  // expected-error@below {{expected a weight of type 'tensor<96x64xf32>', but got 'tensor<64x96xf32>'}}
  %d = moe.linear_input_grad %dy, %w : (tensor<2x8x96xf32>, tensor<64x96xf32>) -> tensor<2x8x64xf32>
  return
}
// mended: tensor<64x96xf32> => tensor<96x64xf32>

// -----

// moe.linear_weight_grad (C1)
func.func @f(%dy: tensor<2x8x96xf32>, %x: tensor<2x8x64xf32>) {
  // expected-error@below {{expected a result of type 'tensor<96x64xf32>', but got 'tensor<64x96xf32>'}}
  %d = moe.linear_weight_grad %dy, %x : (tensor<2x8x96xf32>, tensor<2x8x64xf32>) -> tensor<64x96xf32>
  return
}
// mended: tensor<64x96xf32> => tensor<96x64xf32>

// -----

// moe.linear_weight_grad (C1)
func.func @f(%dy: tensor<2x7x96xf32>, %x: tensor<2x8x64xf32>) {
  // expected-error@below {{expected a row length of 7, but got 8}}
  %d = moe.linear_weight_grad %dy, %x : (tensor<2x7x96xf32>, tensor<2x8x64xf32>) -> tensor<96x64xf32>
  return
}
// mended: tensor<2x8x64xf32> => tensor<2x7x64xf32>

// -----

// moe.column_sum (C1)
func.func @f(%dy: tensor<2x8x96xf32>) {
  // expected-error@below {{expected a result of 96, but got 64}}
  %d = moe.column_sum %dy : (tensor<2x8x96xf32>) -> tensor<64xf32>
  return
}
// mended: tensor<64xf32> => tensor<96xf32>

// -----

// moe.attention_grad (C1)
func.func @f(%do: tensor<2x8x64xf32>, %q: tensor<2x8x64xf32>, %k: tensor<2x8x16xf32>, %v: tensor<2x8x16xf32>, %o: tensor<2x8x64xf32>, %lse: tensor<2x4x8xf32>, %slots: tensor<2x8xi32>) {
  // expected-error@below {{expected keys of type 'tensor<2x8x32xf32>', but got 'tensor<2x8x16xf32>'}}
  %dq, %dk, %dv = moe.attention_grad %do, %q, %k, %v, %o, %lse, %slots {heads = 4 : i64, kv_heads = 2 : i64, scale = 0.25}
    : (tensor<2x8x64xf32>, tensor<2x8x64xf32>, tensor<2x8x16xf32>, tensor<2x8x16xf32>, tensor<2x8x64xf32>, tensor<2x4x8xf32>, tensor<2x8xi32>) -> (tensor<2x8x64xf32>, tensor<2x8x16xf32>, tensor<2x8x16xf32>)
  return
}
// mended: tensor<2x8x16xf32> => tensor<2x8x32xf32>

// -----

// moe.attention_grad (C1)
func.func @f(%do: tensor<2x8x64xf32>, %q: tensor<2x8x64xf32>, %k: tensor<2x8x32xf32>, %v: tensor<2x8x32xf32>, %o: tensor<2x8x32xf32>, %lse: tensor<2x4x8xf32>, %slots: tensor<2x8xi32>) {
  // expected-error@below {{failed to verify that all of {query, out, dout, dquery} have same type}}
  %dq, %dk, %dv = moe.attention_grad %do, %q, %k, %v, %o, %lse, %slots {heads = 4 : i64, kv_heads = 2 : i64, scale = 0.25}
    : (tensor<2x8x64xf32>, tensor<2x8x64xf32>, tensor<2x8x32xf32>, tensor<2x8x32xf32>, tensor<2x8x32xf32>, tensor<2x4x8xf32>, tensor<2x8xi32>) -> (tensor<2x8x64xf32>, tensor<2x8x32xf32>, tensor<2x8x32xf32>)
  return
}
// mended: %o: tensor<2x8x32xf32> => %o: tensor<2x8x64xf32>
// mended: tensor<2x8x32xf32>, tensor<2x4x8xf32> => tensor<2x8x64xf32>, tensor<2x4x8xf32>

// -----

// moe.attention_grad (C2)
func.func @f(%do: tensor<2x8x64xf32>, %q: tensor<2x8x64xf32>, %k: tensor<2x8x32xf32>, %v: tensor<2x8x32xf32>, %o: tensor<2x8x64xf32>, %lse: tensor<2x4x8xf32>, %slots: tensor<2x8xi32>) {
  // expected-error@below {{expected heads to be a multiple of kv_heads, but got 4 and 3}}
  %dq, %dk, %dv = moe.attention_grad %do, %q, %k, %v, %o, %lse, %slots {heads = 4 : i64, kv_heads = 3 : i64, scale = 0.25}
    : (tensor<2x8x64xf32>, tensor<2x8x64xf32>, tensor<2x8x32xf32>, tensor<2x8x32xf32>, tensor<2x8x64xf32>, tensor<2x4x8xf32>, tensor<2x8xi32>) -> (tensor<2x8x64xf32>, tensor<2x8x32xf32>, tensor<2x8x32xf32>)
  return
}
// mended: kv_heads = 3 => kv_heads = 2

// -----

// moe.soft_cap_grad (C1)
func.func @f(%dy: tensor<2x8x64xf32>, %x: tensor<2x8x64xf32>) {
  // expected-error@below {{requires the same type for all operands and results}}
  %d = "moe.soft_cap_grad"(%dy, %x) {cap = 2.0} : (tensor<2x8x64xf32>, tensor<2x8x64xf32>) -> tensor<2x8x32xf32>
  return
}
// mended: tensor<2x8x32xf32> => tensor<2x8x64xf32>

// -----

// moe.soft_cap_grad (C2)
func.func @f(%dy: tensor<2x8x64xf32>, %x: tensor<2x8x64xf32>) {
  // expected-error@below {{attribute 'cap' failed to satisfy constraint: 64-bit float attribute whose value is positive}}
  %d = moe.soft_cap_grad %dy, %x {cap = -1.0} : tensor<2x8x64xf32>
  return
}
// mended: cap = -1.0 => cap = 1.0

// -----

// moe.attention_grad (C4)
func.func @f(%do: tensor<2x8x64xf32>, %q: tensor<2x8x64xf32>, %k: tensor<2x8x32xf32>, %v: tensor<2x8x32xf32>, %o: tensor<2x8x64xf32>, %lse: tensor<2x4x8xf32>, %slots: tensor<2x8xi32>) {
  // expected-error@below {{attribute 'softcap' failed to satisfy constraint: 64-bit float attribute whose value is positive}}
  %dq, %dk, %dv = moe.attention_grad %do, %q, %k, %v, %o, %lse, %slots {heads = 4 : i64, kv_heads = 2 : i64, scale = 0.25, softcap = 0.0}
    : (tensor<2x8x64xf32>, tensor<2x8x64xf32>, tensor<2x8x32xf32>, tensor<2x8x32xf32>, tensor<2x8x64xf32>, tensor<2x4x8xf32>, tensor<2x8xi32>) -> (tensor<2x8x64xf32>, tensor<2x8x32xf32>, tensor<2x8x32xf32>)
  return
}
// mended: softcap = 0.0 => softcap = 50.0

// -----

// moe.attention_grad (C3)
func.func @f(%do: tensor<2x8x64xf32>, %q: tensor<2x8x64xf32>, %k: tensor<2x8x32xf32>, %v: tensor<2x8x32xf32>, %o: tensor<2x8x64xf32>, %lse: tensor<2x8x4xf32>, %slots: tensor<2x8xi32>) {
  // expected-error@below {{expected a log-sum-exp of type 'tensor<2x4x8xf32>', but got 'tensor<2x8x4xf32>'}}
  %dq, %dk, %dv = moe.attention_grad %do, %q, %k, %v, %o, %lse, %slots {heads = 4 : i64, kv_heads = 2 : i64, scale = 0.25}
    : (tensor<2x8x64xf32>, tensor<2x8x64xf32>, tensor<2x8x32xf32>, tensor<2x8x32xf32>, tensor<2x8x64xf32>, tensor<2x8x4xf32>, tensor<2x8xi32>) -> (tensor<2x8x64xf32>, tensor<2x8x32xf32>, tensor<2x8x32xf32>)
  return
}
// mended: tensor<2x8x4xf32> => tensor<2x4x8xf32>

// -----

// moe.experts_grad (C1)
func.func @f(%dy: tensor<2x8x64xf32>, %x: tensor<2x8x64xf32>, %s: tensor<2x8x1xf32>, %r: !moe.routes<16x1, 1>, %z: tensor<16x192xf32>, %g: tensor<96x64xf32>, %u: tensor<96x64xf32>, %d: tensor<64x96xf32>) {
  // expected-error@below {{expected a wanted flag for each of 3 weights, but got 2}}
  %dx, %ds, %dd = moe.experts_grad %dy, %x scores(%s) routes(%r) preactivation(%z) weights(%g, %u, %d) {form = #moe.ffn<gated>, activation = #moe.activation<silu>, wanted = array<i1: false, true>}
    : (tensor<2x8x64xf32>, tensor<2x8x64xf32>, tensor<2x8x1xf32>, !moe.routes<16x1, 1>, tensor<16x192xf32>, tensor<96x64xf32>, tensor<96x64xf32>, tensor<64x96xf32>) -> dx(tensor<2x8x64xf32>) dscores(tensor<2x8x1xf32>) dweights(tensor<64x96xf32>)
  return
}
// mended: array<i1: false, true> => array<i1: false, false, true>

// -----

// moe.experts_grad (C1)
func.func @f(%dy: tensor<2x8x64xf32>, %x: tensor<2x8x64xf32>, %s: tensor<2x8x1xf32>, %r: !moe.routes<16x1, 1>, %z: tensor<16x192xf32>, %g: tensor<96x64xf32>, %u: tensor<96x64xf32>, %d: tensor<64x96xf32>) {
  // expected-error@below {{expected a gradient for each wanted weight, but got 1}}
  %dx, %ds, %dd = moe.experts_grad %dy, %x scores(%s) routes(%r) preactivation(%z) weights(%g, %u, %d) {form = #moe.ffn<gated>, activation = #moe.activation<silu>, wanted = array<i1: false, true, true>}
    : (tensor<2x8x64xf32>, tensor<2x8x64xf32>, tensor<2x8x1xf32>, !moe.routes<16x1, 1>, tensor<16x192xf32>, tensor<96x64xf32>, tensor<96x64xf32>, tensor<64x96xf32>) -> dx(tensor<2x8x64xf32>) dscores(tensor<2x8x1xf32>) dweights(tensor<64x96xf32>)
  return
}
// mended: false, true, true => false, false, true

// -----

// moe.experts_grad (C2)
func.func @f(%dy: tensor<2x8x64xf32>, %x: tensor<2x8x64xf32>, %s: tensor<2x8x1xf32>, %z: tensor<16x192xf32>, %g: tensor<96x64xf32>, %u: tensor<96x64xf32>, %d: tensor<64x96xf32>) {
  // expected-error@below {{expected scores and routes together}}
  %dx, %ds, %dd = moe.experts_grad %dy, %x scores(%s) preactivation(%z) weights(%g, %u, %d) {form = #moe.ffn<gated>, activation = #moe.activation<silu>, wanted = array<i1: false, false, true>}
    : (tensor<2x8x64xf32>, tensor<2x8x64xf32>, tensor<2x8x1xf32>, tensor<16x192xf32>, tensor<96x64xf32>, tensor<96x64xf32>, tensor<64x96xf32>) -> dx(tensor<2x8x64xf32>) dscores(tensor<2x8x1xf32>) dweights(tensor<64x96xf32>)
  return
}
// mended: %z: => %r: !moe.routes<16x1, 1>, %z:
// mended: scores(%s) => scores(%s) routes(%r)
// mended: tensor<2x8x1xf32>, tensor<16x192xf32> => tensor<2x8x1xf32>, !moe.routes<16x1, 1>, tensor<16x192xf32>

// -----

// moe.experts_grad (C2)
func.func @f(%dy: tensor<2x8x64xf32>, %x: tensor<2x8x64xf32>, %z: tensor<16x192xf32>, %g: tensor<96x64xf32>, %u: tensor<96x64xf32>, %d: tensor<64x96xf32>) {
  // expected-error@below {{expected scores, since their gradient is wanted}}
  %dx, %ds, %dd = moe.experts_grad %dy, %x preactivation(%z) weights(%g, %u, %d) {form = #moe.ffn<gated>, activation = #moe.activation<silu>, wanted = array<i1: false, false, true>}
    : (tensor<2x8x64xf32>, tensor<2x8x64xf32>, tensor<16x192xf32>, tensor<96x64xf32>, tensor<96x64xf32>, tensor<64x96xf32>) -> dx(tensor<2x8x64xf32>) dscores(tensor<2x8x1xf32>) dweights(tensor<64x96xf32>)
  return
}
// mended: %dx, %ds, %dd => %dx, %dd
// mended: dscores(tensor<2x8x1xf32>) dweights => dweights

// -----

// moe.experts_grad (C3)
func.func @f(%dy: tensor<2x8x32xf32>, %x: tensor<2x8x64xf32>, %s: tensor<2x8x1xf32>, %r: !moe.routes<16x1, 1>, %z: tensor<16x192xf32>, %g: tensor<96x64xf32>, %u: tensor<96x64xf32>, %d: tensor<64x96xf32>) {
  // expected-error@below {{failed to verify that all of {dy, input} have same type}}
  %dx, %ds, %dd = moe.experts_grad %dy, %x scores(%s) routes(%r) preactivation(%z) weights(%g, %u, %d) {form = #moe.ffn<gated>, activation = #moe.activation<silu>, wanted = array<i1: false, false, true>}
    : (tensor<2x8x32xf32>, tensor<2x8x64xf32>, tensor<2x8x1xf32>, !moe.routes<16x1, 1>, tensor<16x192xf32>, tensor<96x64xf32>, tensor<96x64xf32>, tensor<64x96xf32>) -> dx(tensor<2x8x64xf32>) dscores(tensor<2x8x1xf32>) dweights(tensor<64x96xf32>)
  return
}
// mended: tensor<2x8x64xf32> => tensor<2x8x32xf32>

// -----

// moe.route_grad (C1)
func.func @f(%ds: tensor<2x8x2xf32>, %l: tensor<2x8x5xf32>, %r: !moe.routes<16x6, 2>) {
  // expected-error@below {{expected logits for each expert of 6, but got 5}}
  %d = moe.route_grad %ds, %l, %r : (tensor<2x8x2xf32>, tensor<2x8x5xf32>, !moe.routes<16x6, 2>) -> tensor<2x8x5xf32>
  return
}
// mended: tensor<2x8x5xf32> => tensor<2x8x6xf32>

// -----

// moe.route_grad (C1)
func.func @f(%ds: tensor<2x8x1xf32>, %l: tensor<2x8x6xf32>, %r: !moe.routes<16x6, 2>) {
  // expected-error@below {{expected scores of 2, but got 1}}
  %d = moe.route_grad %ds, %l, %r : (tensor<2x8x1xf32>, tensor<2x8x6xf32>, !moe.routes<16x6, 2>) -> tensor<2x8x6xf32>
  return
}
// mended: tensor<2x8x1xf32> => tensor<2x8x2xf32>

// -----

// moe.cross_entropy_grad (C1)
func.func @f(%g: tensor<f32>, %l: tensor<2x8x512xf32>, %labels: tensor<2x8xi32>, %w: tensor<f32>) {
  // expected-error@below {{failed to verify that all of {logits, dlogits} have same type}}
  %d = moe.cross_entropy_grad %g, %l, %labels, %w : (tensor<f32>, tensor<2x8x512xf32>, tensor<2x8xi32>, tensor<f32>) -> tensor<2x8x500xf32>
  return
}
// mended: tensor<2x8x500xf32> => tensor<2x8x512xf32>

// -----

// moe.cross_entropy_grad (C1)
func.func @f(%g: tensor<f32>, %l: tensor<2x8x512xf32>, %labels: tensor<2x7xi32>, %w: tensor<f32>) {
  // expected-error@below {{expected a row length of 8, but got 7}}
  %d = moe.cross_entropy_grad %g, %l, %labels, %w : (tensor<f32>, tensor<2x8x512xf32>, tensor<2x7xi32>, tensor<f32>) -> tensor<2x8x512xf32>
  return
}
// mended: tensor<2x7xi32> => tensor<2x8xi32>

// -----

// moe.balance_loss_grad (C1)
func.func @f(%g: tensor<f32>, %l: tensor<2x8x6xf32>, %r: !moe.routes<16x5, 2>, %w: tensor<f32>) {
  // expected-error@below {{expected logits for each expert of 5, but got 6}}
  %d = moe.balance_loss_grad %g, %l, %r, %w {form = #moe.form<paper>} : (tensor<f32>, tensor<2x8x6xf32>, !moe.routes<16x5, 2>, tensor<f32>) -> tensor<2x8x6xf32>
  return
}
// mended: tensor<2x8x6xf32> => tensor<2x8x5xf32>

// -----

// moe.language_prior_loss_grad (C1)
func.func @f(%g: tensor<f32>, %l: tensor<2x8x6xf32>, %old: tensor<2x7xi32>, %w: tensor<f32>) {
  // expected-error@below {{expected a row length of 8, but got 7}}
  %d = moe.language_prior_loss_grad %g, %l, %old, %w {form = #moe.form<paper>} : (tensor<f32>, tensor<2x8x6xf32>, tensor<2x7xi32>, tensor<f32>) -> tensor<2x8x6xf32>
  return
}
// mended: tensor<2x7xi32> => tensor<2x8xi32>

// -----

// moe.route_grad (C2)
func.func @f(%ds: tensor<2x8x2xf32>, %l: tensor<2x8x6xf32>, %r: !moe.routes<16x6, 2>, %g: tensor<2x8x3xf32>) {
  // expected-error@below {{expected classes of 2, but got 3}}
  %dl = moe.route_grad %ds, %l, %r, %g : (tensor<2x8x2xf32>, tensor<2x8x6xf32>, !moe.routes<16x6, 2>, tensor<2x8x3xf32>) -> tensor<2x8x6xf32>
  return
}
// mended: tensor<2x8x3xf32> => tensor<2x8x2xf32>

// -----

// moe.pool_grad (C1)
func.func @f(%dy: tensor<2x8x2xf32>) {
  // expected-error@below {{requires the same type for all operands and results}}
  %dx = moe.pool_grad %dy {kind = #moe.pool<causal_mean>} : (tensor<2x8x2xf32>) -> tensor<2x7x2xf32>
  return
}
// mended: tensor<2x7x2xf32> => tensor<2x8x2xf32>

// -----

// moe.classifier_loss_grad (C1)
func.func @f(%d: tensor<f32>, %l: tensor<2x8x6xf32>, %old: tensor<2x8xi32>, %w: tensor<f32>) {
  // expected-error@below {{expected classes of 2, but got 6}}
  %dl = moe.classifier_loss_grad %d, %l, %old, %w : (tensor<f32>, tensor<2x8x6xf32>, tensor<2x8xi32>, tensor<f32>) -> tensor<2x8x6xf32>
  return
}
// mended: tensor<2x8x6xf32> => tensor<2x8x2xf32>

// -----

// moe.experts_grad (C3)
func.func @f(%x: tensor<2x8x64xf32>, %s: tensor<2x8x1xf32>, %r: !moe.routes<12x1, 1>, %z: tensor<12x192xf32>, %g: tensor<96x64xf32>, %d: tensor<64x96xf32>) {
  // expected-error@below {{expected routed tokens of 16, but got 12}}
  %dx = moe.experts_grad %x, %x scores(%s) routes(%r) preactivation(%z) weights(%g, %g, %d) {form = #moe.ffn<gated>, activation = #moe.activation<silu>, wanted = array<i1: false, false, false>}
    : (tensor<2x8x64xf32>, tensor<2x8x64xf32>, tensor<2x8x1xf32>, !moe.routes<12x1, 1>, tensor<12x192xf32>, tensor<96x64xf32>, tensor<96x64xf32>, tensor<64x96xf32>) -> dx(tensor<2x8x64xf32>)
  return
}
// mended: tensor<2x8x => tensor<2x6x

// -----

// moe.route_grad (C1)
func.func @f(%ds: tensor<2x8x2xf32>, %l: tensor<2x8x6xf32>, %r: !moe.routes<12x6, 2>) {
  // expected-error@below {{expected routed tokens of 16, but got 12}}
  %d = moe.route_grad %ds, %l, %r : (tensor<2x8x2xf32>, tensor<2x8x6xf32>, !moe.routes<12x6, 2>) -> tensor<2x8x6xf32>
  return
}
// mended: <12x6, 2> => <16x6, 2>

// -----

// moe.balance_loss_grad (C1)
func.func @f(%g: tensor<f32>, %l: tensor<2x8x6xf32>, %r: !moe.routes<12x6, 2>, %w: tensor<f32>) {
  // expected-error@below {{expected routed tokens of 16, but got 12}}
  %d = moe.balance_loss_grad %g, %l, %r, %w {form = #moe.form<paper>} : (tensor<f32>, tensor<2x8x6xf32>, !moe.routes<12x6, 2>, tensor<f32>) -> tensor<2x8x6xf32>
  return
}
// mended: <12x6, 2> => <16x6, 2>

// -----

// moe.take_rows (C1)
func.func @f(%g: tensor<7x64xf32>) {
  // expected-error@below {{expected a result of type 'tensor<1x64xf32>', but got 'tensor<1x32xf32>'}}
  %d = moe.take_rows %g {first = 6 : i64} : (tensor<7x64xf32>) -> tensor<1x32xf32>
  return
}
// mended: tensor<1x32xf32> => tensor<1x64xf32>

// -----

// moe.take_rows (C2)
func.func @f(%g: tensor<7x64xf32>) {
  // expected-error@below {{expected rows in [0, 7], but got 6 to 8}}
  %d = moe.take_rows %g {first = 6 : i64} : (tensor<7x64xf32>) -> tensor<2x64xf32>
  return
}
// mended: first = 6 => first = 5

// -----

// moe.take_rows (C2)
func.func @f(%g: tensor<7x64xf32>) {
  // expected-error@below {{expected rows in [0, 7], but got -1 to 0}}
  %d = moe.take_rows %g {first = -1 : i64} : (tensor<7x64xf32>) -> tensor<1x64xf32>
  return
}
// mended: first = -1 => first = 0
