// A violation of every numbered constraint of the dialect's documentation, of routing and
// losses.
// RUN: moe-opt %s --split-input-file --verify-diagnostics

// moe.router (C1)
func.func @f(%x: tensor<?x?x64xf32>, %w: tensor<6x32xf32>) {
  // expected-error@below {{expected an input width of 32, but got 64}}
  %l = moe.router %x, %w : (tensor<?x?x64xf32>, tensor<6x32xf32>) -> tensor<?x?x6xf32>
  return
}
// mended: tensor<?x?x64xf32> => tensor<?x?x32xf32>

// -----

// moe.router (C1)
func.func @f(%x: tensor<?x?x64xf32>, %w: tensor<6x64xf32>) {
  // expected-error@below {{expected a result width of 6, but got 5}}
  %l = moe.router %x, %w : (tensor<?x?x64xf32>, tensor<6x64xf32>) -> tensor<?x?x5xf32>
  return
}
// mended: tensor<?x?x5xf32> => tensor<?x?x6xf32>

// -----

// moe.route (C1)
func.func @f(%l: tensor<?x?x5xf32>) {
  // expected-error@below {{expected logits for each expert of 6, but got 5}}
  %r, %s = moe.route %l : (tensor<?x?x5xf32>) -> (!moe.routes<?x6, 2>, tensor<?x?x2xf32>)
  return
}
// mended: tensor<?x?x5xf32> => tensor<?x?x6xf32>

// -----

// moe.route (C1)
func.func @f(%l: tensor<?x?x6xf32>) {
  // expected-error@below {{expected scores of 2, but got 3}}
  %r, %s = moe.route %l : (tensor<?x?x6xf32>) -> (!moe.routes<?x6, 2>, tensor<?x?x3xf32>)
  return
}
// mended: tensor<?x?x3xf32> => tensor<?x?x2xf32>

// -----

// moe.route (C1)
func.func @f(%l: tensor<2x8x6xf32>) {
  // expected-error@below {{expected a batch of 2, but got 3}}
  %r, %s = moe.route %l : (tensor<2x8x6xf32>) -> (!moe.routes<16x6, 2>, tensor<3x8x2xf32>)
  return
}
// mended: tensor<3x8x2xf32> => tensor<2x8x2xf32>

// -----

// moe.route (C2)
func.func @f(%l: tensor<2x8x2xf32>) {
  // expected-error@below {{expected routed tokens of 16, but got 12}}
  %r, %s = moe.route %l : (tensor<2x8x2xf32>) -> (!moe.routes<12x2, 1>, tensor<2x8x1xf32>)
  return
}
// mended: <12x2, 1> => <16x2, 1>

// -----

// expected-error@below {{expected between 1 and 2 experts a token, but got 3}}
func.func private @f(!moe.routes<?x2, 3>)
// mended: <?x2, 3> => <?x2, 2>

// -----

// expected-error@below {{expected routes of at least one token, but got 0}}
func.func private @f(!moe.routes<0x2, 1>)
// mended: <0x2, 1> => <1x2, 1>

// -----

// expected-error@below {{expected routes of tokens x experts, of which only the tokens may be unknown}}
func.func private @f(!moe.routes<2, 1>)
// mended: <2, 1> => <?x2, 1>

// -----

// moe.route (C3)
func.func @f(%l: tensor<?x?x6xf32>) {
  // expected-error@below {{expected a forced expert in [0, 6), but got -1}}
  %r, %s = moe.route %l {forced_expert = -1 : i64} : (tensor<?x?x6xf32>) -> (!moe.routes<?x6, 1>, tensor<?x?x1xf32>)
  return
}
// mended: forced_expert = -1 => forced_expert = 0

// -----

// moe.route (C3)
func.func @f(%l: tensor<?x?x6xf32>) {
  // expected-error@below {{expected a forced expert in [0, 6), but got 6}}
  %r, %s = moe.route %l {forced_expert = 6 : i64} : (tensor<?x?x6xf32>) -> (!moe.routes<?x6, 1>, tensor<?x?x1xf32>)
  return
}
// mended: forced_expert = 6 => forced_expert = 5

// -----

// moe.route (C3)
func.func @f(%l: tensor<?x?x6xf32>) {
  // expected-error@below {{expected one expert a token, since it is forced, but got 2}}
  %r, %s = moe.route %l {forced_expert = 0 : i64} : (tensor<?x?x6xf32>) -> (!moe.routes<?x6, 2>, tensor<?x?x2xf32>)
  return
}
// mended: 6, 2> => 6, 1>
// mended: tensor<?x?x2xf32> => tensor<?x?x1xf32>

// -----

// moe.experts (C1)
func.func @f(%x: tensor<2x8x64xf32>, %s: tensor<2x8x2xf32>, %r: !moe.routes<16x2, 2>, %g0: tensor<96x64xf32>, %u0: tensor<96x64xf32>, %d0: tensor<64x96xf32>, %g1: tensor<96x64xf32>, %u1: tensor<96x64xf32>, %d1: tensor<64x96xf32>) {
  // expected-error@below {{failed to verify that all of {input, result} have same type}}
  %y = moe.experts %x, %s, %r, %g0, %u0, %d0, %g1, %u1, %d1 {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (tensor<2x8x64xf32>, tensor<2x8x2xf32>, !moe.routes<16x2, 2>, tensor<96x64xf32>, tensor<96x64xf32>, tensor<64x96xf32>, tensor<96x64xf32>, tensor<96x64xf32>, tensor<64x96xf32>) -> tensor<2x8x96xf32>
  return
}
// mended: tensor<2x8x96xf32> => tensor<2x8x64xf32>

// -----

// moe.experts (C2)
func.func @f(%x: tensor<2x8x64xf32>, %s: tensor<2x8x1xf32>, %r: !moe.routes<16x2, 1>, %g0: tensor<96x64xf32>, %u0: tensor<96x64xf32>, %d0: tensor<64x96xf32>) {
  // expected-error@below {{expected 6 weights (3 for each expert), but got 3}}
  %y = moe.experts %x, %s, %r, %g0, %u0, %d0 {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (tensor<2x8x64xf32>, tensor<2x8x1xf32>, !moe.routes<16x2, 1>, tensor<96x64xf32>, tensor<96x64xf32>, tensor<64x96xf32>) -> tensor<2x8x64xf32>
  return
}
// mended: <16x2, 1> => <16x1, 1>

// -----

// moe.experts (C3)
func.func @f(%x: tensor<2x8x64xf32>, %s: tensor<2x8x1xf32>, %r: !moe.routes<16x2, 2>, %g0: tensor<96x64xf32>, %u0: tensor<96x64xf32>, %d0: tensor<64x96xf32>, %g1: tensor<96x64xf32>, %u1: tensor<96x64xf32>, %d1: tensor<64x96xf32>) {
  // expected-error@below {{expected scores of 2, but got 1}}
  %y = moe.experts %x, %s, %r, %g0, %u0, %d0, %g1, %u1, %d1 {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (tensor<2x8x64xf32>, tensor<2x8x1xf32>, !moe.routes<16x2, 2>, tensor<96x64xf32>, tensor<96x64xf32>, tensor<64x96xf32>, tensor<96x64xf32>, tensor<96x64xf32>, tensor<64x96xf32>) -> tensor<2x8x64xf32>
  return
}
// mended: tensor<2x8x1xf32> => tensor<2x8x2xf32>

// -----

// moe.experts (C4)
func.func @f(%x: tensor<2x8x64xf32>, %s: tensor<2x8x2xf32>, %r: !moe.routes<16x2, 2>, %g0: tensor<96x64xf32>, %u0: tensor<96x64xf32>, %d0: tensor<64x96xf32>, %g1: tensor<96x64xf32>, %u1: tensor<96x64xf32>, %d1: tensor<64x96xf32>) {
  // expected-error@below {{expected a pre-activation of type 'tensor<32x192xf32>', but got 'tensor<16x192xf32>'}}
  %y, %z = moe.experts %x, %s, %r, %g0, %u0, %d0, %g1, %u1, %d1 {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (tensor<2x8x64xf32>, tensor<2x8x2xf32>, !moe.routes<16x2, 2>, tensor<96x64xf32>, tensor<96x64xf32>, tensor<64x96xf32>, tensor<96x64xf32>, tensor<96x64xf32>, tensor<64x96xf32>) -> (tensor<2x8x64xf32>, tensor<16x192xf32>)
  return
}
// mended: tensor<16x192xf32> => tensor<32x192xf32>

// -----

// moe.cross_entropy (C1)
func.func @f(%l: tensor<2x8x512xf32>, %labels: tensor<2x7xi32>, %w: tensor<f32>) {
  // expected-error@below {{expected a row length of 8, but got 7}}
  %loss = moe.cross_entropy %l, %labels, %w : (tensor<2x8x512xf32>, tensor<2x7xi32>, tensor<f32>) -> tensor<f32>
  return
}
// mended: tensor<2x7xi32> => tensor<2x8xi32>

// -----

// moe.token_logprobs (C1)
func.func @f(%l: tensor<2x8x512xf32>, %labels: tensor<3x8xi32>) {
  // expected-error@below {{expected a batch of 2, but got 3}}
  %p = moe.token_logprobs %l, %labels : (tensor<2x8x512xf32>, tensor<3x8xi32>) -> tensor<2x8xf32>
  return
}
// mended: tensor<3x8xi32> => tensor<2x8xi32>

// -----

// moe.token_logprobs (C1)
func.func @f(%l: tensor<2x8x512xf32>, %labels: tensor<2x8xi32>) {
  // expected-error@below {{expected a row length of 8, but got 7}}
  %p = moe.token_logprobs %l, %labels : (tensor<2x8x512xf32>, tensor<2x8xi32>) -> tensor<2x7xf32>
  return
}
// mended: tensor<2x7xf32> => tensor<2x8xf32>

// -----

// moe.balance_loss (C1)
func.func @f(%l: tensor<?x?x5xf32>, %r: !moe.routes<?x6, 2>, %w: tensor<f32>) {
  // expected-error@below {{expected logits for each expert of 6, but got 5}}
  %loss = moe.balance_loss %l, %r, %w {form = #moe.form<paper>} : (tensor<?x?x5xf32>, !moe.routes<?x6, 2>, tensor<f32>) -> tensor<f32>
  return
}
// mended: tensor<?x?x5xf32> => tensor<?x?x6xf32>

// -----

// moe.language_prior_loss (C1)
func.func @f(%l: tensor<2x8x6xf32>, %old: tensor<2x7xi32>, %w: tensor<f32>) {
  // expected-error@below {{expected a row length of 8, but got 7}}
  %loss = moe.language_prior_loss %l, %old, %w {form = #moe.form<paper>} : (tensor<2x8x6xf32>, tensor<2x7xi32>, tensor<f32>) -> tensor<f32>
  return
}
// mended: tensor<2x7xi32> => tensor<2x8xi32>

// -----

// moe.weighted_sum (C1)
func.func @f(%a: tensor<f32>, %b: tensor<f32>) {
  // expected-error@below {{expected 2 coefficients, but got 1}}
  %loss = moe.weighted_sum %a, %b {coefficients = array<f64: 1.0>} : (tensor<f32>, tensor<f32>) -> tensor<f32>
  return
}
// mended: array<f64: 1.0> => array<f64: 1.0, 0.5>

// -----

// moe.weighted_sum (C1)
func.func @f() {
  // expected-error@below {{expected at least one term}}
  %loss = moe.weighted_sum {coefficients = array<f64>} : () -> tensor<f32>
  return
}
// mended: @f() => @f(%a: tensor<f32>)
// mended: {coefficients = array<f64>} : () => %a {coefficients = array<f64: 1.0>} : (tensor<f32>)

// -----

// moe.route (C4)
func.func @f(%l: tensor<?x?x6xf32>, %g: tensor<?x?x3xf32>) {
  // expected-error@below {{expected classes of 2, but got 3}}
  %r, %s = moe.route %l, %g : (tensor<?x?x6xf32>, tensor<?x?x3xf32>) -> (!moe.routes<?x6, 2>, tensor<?x?x2xf32>)
  return
}
// mended: tensor<?x?x3xf32> => tensor<?x?x2xf32>

// -----

// moe.route (C4)
func.func @f(%l: tensor<2x8x6xf32>, %g: tensor<2x7x2xf32>) {
  // expected-error@below {{expected a row length of 8, but got 7}}
  %r, %s = moe.route %l, %g : (tensor<2x8x6xf32>, tensor<2x7x2xf32>) -> (!moe.routes<16x6, 2>, tensor<2x8x2xf32>)
  return
}
// mended: tensor<2x7x2xf32> => tensor<2x8x2xf32>

// -----

// moe.route (C4)
func.func @f(%l: tensor<?x?x6xf32>, %g: tensor<?x?x2xf32>) {
  // expected-error@below {{expected no gate, since the expert is forced}}
  %r, %s = moe.route %l, %g {forced_expert = 0 : i64} : (tensor<?x?x6xf32>, tensor<?x?x2xf32>) -> (!moe.routes<?x6, 1>, tensor<?x?x1xf32>)
  return
}
// mended: {forced_expert = 0 : i64} => {}

// -----

// moe.route (C5)
func.func @f(%l: tensor<2x8x6xf32>, %g: tensor<2x7xi32>) {
  // expected-error@below {{expected a row length of 8, but got 7}}
  %r, %s = moe.route %l groups(%g) : (tensor<2x8x6xf32>, tensor<2x7xi32>) -> (!moe.routes<16x6, 1>, tensor<2x8x1xf32>)
  return
}
// mended: tensor<2x7xi32> => tensor<2x8xi32>

// -----

// moe.route (C5)
func.func @f(%l: tensor<?x?x6xf32>, %g: tensor<?x?xi32>) {
  // expected-error@below {{expected one expert a token, since tokens go by their groups, but got 2}}
  %r, %s = moe.route %l groups(%g) : (tensor<?x?x6xf32>, tensor<?x?xi32>) -> (!moe.routes<?x6, 2>, tensor<?x?x2xf32>)
  return
}
// mended: <?x6, 2> => <?x6, 1>
// mended: tensor<?x?x2xf32> => tensor<?x?x1xf32>

// -----

// moe.route (C5)
func.func @f(%l: tensor<?x?x6xf32>, %g: tensor<?x?xi32>) {
  // expected-error@below {{expected neither a gate nor a forced expert, since tokens go by their groups}}
  %r, %s = moe.route %l groups(%g) {forced_expert = 0 : i64} : (tensor<?x?x6xf32>, tensor<?x?xi32>) -> (!moe.routes<?x6, 1>, tensor<?x?x1xf32>)
  return
}
// mended: {forced_expert = 0 : i64} => {}

// -----

// moe.route (C5)
func.func @f(%l: tensor<?x?x6xf32>, %c: tensor<?x?x2xf32>, %g: tensor<?x?xi32>) {
  // expected-error@below {{expected neither a gate nor a forced expert, since tokens go by their groups}}
  %r, %s = moe.route %l, %c groups(%g) : (tensor<?x?x6xf32>, tensor<?x?x2xf32>, tensor<?x?xi32>) -> (!moe.routes<?x6, 1>, tensor<?x?x1xf32>)
  return
}
// mended: %l, %c groups(%g) => %l, %c
// mended: (tensor<?x?x6xf32>, tensor<?x?x2xf32>, tensor<?x?xi32>) -> => (tensor<?x?x6xf32>, tensor<?x?x2xf32>) ->

// -----

// moe.language_gate (C1)
func.func @f(%x: tensor<?x?x64xf32>, %w: tensor<2x32xf32>) {
  // expected-error@below {{expected a weight of type 'tensor<2x64xf32>', but got 'tensor<2x32xf32>'}}
  %g = moe.language_gate %x, %w : (tensor<?x?x64xf32>, tensor<2x32xf32>) -> tensor<?x?x2xf32>
  return
}
// mended: tensor<2x32xf32> => tensor<2x64xf32>

// -----

// moe.language_gate (C1)
func.func @f(%x: tensor<?x?x64xf32>, %w: tensor<3x64xf32>) {
  // expected-error@below {{expected classes of 2, but got 3}}
  %g = moe.language_gate %x, %w : (tensor<?x?x64xf32>, tensor<3x64xf32>) -> tensor<?x?x3xf32>
  return
}
// mended: tensor<3x64xf32> => tensor<2x64xf32>
// mended: tensor<?x?x3xf32> => tensor<?x?x2xf32>

// -----

// moe.pool (C1)
func.func @f(%x: tensor<2x8x2xf32>) {
  // expected-error@below {{expected a result of type 'tensor<2x8x2xf32>', but got 'tensor<2x7x2xf32>'}}
  %y = moe.pool %x {kind = #moe.pool<causal_mean>} : (tensor<2x8x2xf32>) -> tensor<2x7x2xf32>
  return
}
// mended: tensor<2x7x2xf32> => tensor<2x8x2xf32>

// -----

// moe.pool (C1)
func.func @f(%x: tensor<2x64x2xf32>, %slots: tensor<3x8xi32>) {
  // expected-error@below {{expected an input of type 'tensor<3x?x2xf32>', but got 'tensor<2x64x2xf32>'}}
  %y = moe.pool %x, %slots {kind = #moe.pool<causal_mean>} : (tensor<2x64x2xf32>, tensor<3x8xi32>) -> tensor<3x8x2xf32>
  return
}
// mended: tensor<2x64x2xf32> => tensor<3x64x2xf32>

// -----

// moe.pool (C2)
func.func @f(%x: tensor<2x64x2xf32>, %slots: tensor<2x7xi32>) {
  // expected-error@below {{expected a row length of 8, but got 7}}
  %y = moe.pool %x, %slots {kind = #moe.pool<causal_mean>} : (tensor<2x64x2xf32>, tensor<2x7xi32>) -> tensor<2x8x2xf32>
  return
}
// mended: tensor<2x7xi32> => tensor<2x8xi32>

// -----

// moe.pool (C3)
func.func @f(%x: tensor<2x64x2xf32>, %slots: tensor<2x8xi32>) {
  // expected-error@below {{expected no slots with sequence_sum, which is not known while a sequence grows}}
  %y = moe.pool %x, %slots {kind = #moe.pool<sequence_sum>} : (tensor<2x64x2xf32>, tensor<2x8xi32>) -> tensor<2x8x2xf32>
  return
}
// mended: sequence_sum => causal_mean

// -----

// moe.classifier_loss (C1)
func.func @f(%l: tensor<2x8x2xf32>, %old: tensor<2x7xi32>, %w: tensor<f32>) {
  // expected-error@below {{expected a row length of 8, but got 7}}
  %loss = moe.classifier_loss %l, %old, %w : (tensor<2x8x2xf32>, tensor<2x7xi32>, tensor<f32>) -> tensor<f32>
  return
}
// mended: tensor<2x7xi32> => tensor<2x8xi32>

// -----

// moe.classifier_loss (C1)
func.func @f(%l: tensor<2x8x6xf32>, %old: tensor<2x8xi32>, %w: tensor<f32>) {
  // expected-error@below {{expected classes of 2, but got 6}}
  %loss = moe.classifier_loss %l, %old, %w : (tensor<2x8x6xf32>, tensor<2x8xi32>, tensor<f32>) -> tensor<f32>
  return
}
// mended: tensor<2x8x6xf32> => tensor<2x8x2xf32>

// -----

// moe.experts (C3)
func.func @f(%x: tensor<2x8x64xf32>, %s: tensor<2x8x1xf32>, %r: !moe.routes<12x1, 1>, %g: tensor<96x64xf32>, %d: tensor<64x96xf32>) {
  // expected-error@below {{expected routed tokens of 16, but got 12}}
  %y = moe.experts %x, %s, %r, %g, %g, %d {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (tensor<2x8x64xf32>, tensor<2x8x1xf32>, !moe.routes<12x1, 1>, tensor<96x64xf32>, tensor<96x64xf32>, tensor<64x96xf32>) -> tensor<2x8x64xf32>
  return
}
// mended: tensor<2x8x => tensor<2x6x

// -----

// moe.balance_loss (C1)
func.func @f(%l: tensor<2x8x6xf32>, %r: !moe.routes<12x6, 2>, %w: tensor<f32>) {
  // expected-error@below {{expected routed tokens of 16, but got 12}}
  %loss = moe.balance_loss %l, %r, %w {form = #moe.form<paper>} : (tensor<2x8x6xf32>, !moe.routes<12x6, 2>, tensor<f32>) -> tensor<f32>
  return
}
// mended: <12x6, 2> => <16x6, 2>

// -----

// moe.direction_sum (C1)
func.func @f(%x: tensor<?x4x64xf32>, %l: tensor<?x5xi32>) {
  // expected-error@below {{expected}}
  %y = moe.direction_sum %x, %l : (tensor<?x4x64xf32>, tensor<?x5xi32>) -> tensor<?x64xf32>
  return
}
// mended: tensor<?x5xi32> => tensor<?x4xi32>

// -----

// moe.direction_sum (C1)
func.func @f(%x: tensor<?x?x64xf32>, %l: tensor<?x?xi32>) {
  // expected-error@below {{expected a sum of type 'tensor<?x64xf32>', but got 'tensor<?x32xf32>'}}
  %y = moe.direction_sum %x, %l : (tensor<?x?x64xf32>, tensor<?x?xi32>) -> tensor<?x32xf32>
  return
}
// mended: tensor<?x32xf32> => tensor<?x64xf32>

// -----

// moe.expert_load (C1)
func.func @f(%r: !moe.routes<12x6, 2>, %l: tensor<3x5xi32>) {
  // expected-error@below {{expected}}
  %y = moe.expert_load %r, %l : (!moe.routes<12x6, 2>, tensor<3x5xi32>) -> tensor<3x6xf32>
  return
}
// mended: tensor<3x5xi32> => tensor<3x4xi32>

// -----

// moe.expert_load (C1)
func.func @f(%r: !moe.routes<?x6, 2>, %l: tensor<?x?xi32>) {
  // expected-error@below {{expected a load of type 'tensor<?x6xf32>', but got 'tensor<?x5xf32>'}}
  %y = moe.expert_load %r, %l : (!moe.routes<?x6, 2>, tensor<?x?xi32>) -> tensor<?x5xf32>
  return
}
// mended: tensor<?x5xf32> => tensor<?x6xf32>
