// A violation of every numbered constraint of the dialect's documentation, of fused ops and
// launches.
// RUN: moe-opt %s --split-input-file --verify-diagnostics

// moe.routed_up (C1)
func.func @f(%x: tensor<2x8x64xf32>, %r: !moe.routes<16x2, 1>, %w0: tensor<96x64xf32>, %w1: tensor<96x64xf32>) {
  // expected-error@below {{expected 4 weights (2 for each expert), but got 2}}
  %h = moe.routed_up %x routes(%r) weights(%w0, %w1) {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (tensor<2x8x64xf32>, !moe.routes<16x2, 1>, tensor<96x64xf32>, tensor<96x64xf32>) -> tensor<16x96xf32>
  return
}
// mended: <16x2, 1> => <16x1, 1>

// -----

// moe.routed_up (C1)
func.func @f(%x: tensor<2x8x64xf32>, %r: !moe.routes<16x2, 2>, %w0: tensor<96x64xf32>, %w1: tensor<96x64xf32>, %w2: tensor<96x64xf32>, %w3: tensor<64x96xf32>) {
  // expected-error@below {{expected a weight of type 'tensor<96x64xf32>', but got 'tensor<64x96xf32>'}}
  %h = moe.routed_up %x routes(%r) weights(%w0, %w1, %w2, %w3) {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (tensor<2x8x64xf32>, !moe.routes<16x2, 2>, tensor<96x64xf32>, tensor<96x64xf32>, tensor<96x64xf32>, tensor<64x96xf32>) -> tensor<32x96xf32>
  return
}
// mended: tensor<64x96xf32> => tensor<96x64xf32>

// -----

// moe.routed_up (C2)
func.func @f(%x: tensor<2x8x64xf32>, %r: !moe.routes<16x2, 2>, %w0: tensor<96x64xf32>, %w1: tensor<96x64xf32>, %w2: tensor<96x64xf32>, %w3: tensor<96x64xf32>) {
  // expected-error@below {{expected a result of type 'tensor<32x96xf32>', but got 'tensor<16x96xf32>'}}
  %h = moe.routed_up %x routes(%r) weights(%w0, %w1, %w2, %w3) {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (tensor<2x8x64xf32>, !moe.routes<16x2, 2>, tensor<96x64xf32>, tensor<96x64xf32>, tensor<96x64xf32>, tensor<96x64xf32>) -> tensor<16x96xf32>
  return
}
// mended: tensor<16x96xf32> => tensor<32x96xf32>

// -----

// moe.routed_up (C2)
func.func @f(%x: tensor<2x8x64xf32>, %r: !moe.routes<16x2, 2>, %w0: tensor<96x64xf32>, %w1: tensor<96x64xf32>, %w2: tensor<96x64xf32>, %w3: tensor<96x64xf32>) {
  // expected-error@below {{expected a pre-activation of type 'tensor<32x192xf32>', but got 'tensor<32x96xf32>'}}
  %h, %z = moe.routed_up %x routes(%r) weights(%w0, %w1, %w2, %w3) {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (tensor<2x8x64xf32>, !moe.routes<16x2, 2>, tensor<96x64xf32>, tensor<96x64xf32>, tensor<96x64xf32>, tensor<96x64xf32>) -> (tensor<32x96xf32>, tensor<32x96xf32>)
  return
}
// mended: tensor<32x96xf32>) => tensor<32x192xf32>)

// -----

// moe.routed_down (C1)
func.func @f(%h: tensor<16x96xf32>, %r: !moe.routes<16x2, 1>, %d0: tensor<64x96xf32>) {
  // expected-error@below {{expected 2 weights (1 for each expert), but got 1}}
  %y = moe.routed_down %h routes(%r) weights(%d0) {form = #moe.ffn<gated>}
    : (tensor<16x96xf32>, !moe.routes<16x2, 1>, tensor<64x96xf32>) -> tensor<16x64xf32>
  return
}
// mended: <16x2, 1> => <16x1, 1>

// -----

// moe.routed_down (C1)
func.func @f(%h: tensor<32x96xf32>, %r: !moe.routes<16x2, 2>, %d0: tensor<96x64xf32>, %d1: tensor<96x64xf32>) {
  // expected-error@below {{expected a weight of type 'tensor<64x96xf32>', but got 'tensor<96x64xf32>'}}
  %y = moe.routed_down %h routes(%r) weights(%d0, %d1) {form = #moe.ffn<gated>}
    : (tensor<32x96xf32>, !moe.routes<16x2, 2>, tensor<96x64xf32>, tensor<96x64xf32>) -> tensor<32x64xf32>
  return
}
// mended: tensor<96x64xf32> => tensor<64x96xf32>

// -----

// moe.routed_down (C2)
func.func @f(%h: tensor<32x96xf32>, %r: !moe.routes<16x2, 2>, %d0: tensor<64x96xf32>, %d1: tensor<64x96xf32>) {
  // expected-error@below {{expected a result of type 'tensor<32x64xf32>', but got 'tensor<31x64xf32>'}}
  %y = moe.routed_down %h routes(%r) weights(%d0, %d1) {form = #moe.ffn<gated>}
    : (tensor<32x96xf32>, !moe.routes<16x2, 2>, tensor<64x96xf32>, tensor<64x96xf32>) -> tensor<31x64xf32>
  return
}
// mended: tensor<31x64xf32> => tensor<32x64xf32>

// -----

// moe.routed_down (C2)
func.func @f(%h: tensor<32x96xf32>, %d0: tensor<64x96xf32>) {
  // expected-error@below {{expected a result [B,S,D], since there are no routes, but got 'tensor<32x64xf32>'}}
  %y = moe.routed_down %h weights(%d0) {form = #moe.ffn<gated>}
    : (tensor<32x96xf32>, tensor<64x96xf32>) -> tensor<32x64xf32>
  return
}
// mended: -> tensor<32x64xf32> => -> tensor<4x8x64xf32>

// -----

// moe.combine (C1)
func.func @f(%rows: tensor<16x64xf32>, %r: !moe.routes<16x2, 2>) {
  // expected-error@below {{expected rows of type 'tensor<32x64xf32>', but got 'tensor<16x64xf32>'}}
  %y = moe.combine %rows, %r : (tensor<16x64xf32>, !moe.routes<16x2, 2>) -> tensor<2x8x64xf32>
  return
}
// mended: tensor<16x64xf32> => tensor<32x64xf32>

// -----

// moe.combine (C1)
func.func @f(%rows: tensor<32x64xf32>, %r: !moe.routes<16x2, 2>, %s: tensor<2x8x1xf32>) {
  // expected-error@below {{expected scores of type 'tensor<2x8x2xf32>', but got 'tensor<2x8x1xf32>'}}
  %y = moe.combine %rows, %r, %s : (tensor<32x64xf32>, !moe.routes<16x2, 2>, tensor<2x8x1xf32>) -> tensor<2x8x64xf32>
  return
}
// mended: tensor<2x8x1xf32> => tensor<2x8x2xf32>

// -----

// moe.routed_down_grad (C1)
func.func @f(%dy: tensor<2x8x64xf32>, %r: !moe.routes<16x2, 2>, %z: tensor<32x192xf32>, %d0: tensor<64x96xf32>, %d1: tensor<64x96xf32>) {
  // expected-error@below {{expected scores and routes together}}
  %dz = moe.routed_down_grad %dy routes(%r) preactivation(%z) weights(%d0, %d1) {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (tensor<2x8x64xf32>, !moe.routes<16x2, 2>, tensor<32x192xf32>, tensor<64x96xf32>, tensor<64x96xf32>) -> tensor<32x192xf32>
  return
}
// mended: %r: => %s: tensor<2x8x2xf32>, %r:
// mended: routes(%r) => scores(%s) routes(%r)
// mended: (tensor<2x8x64xf32>, !moe => (tensor<2x8x64xf32>, tensor<2x8x2xf32>, !moe

// -----

// moe.routed_down_grad (C1)
func.func @f(%dy: tensor<2x8x64xf32>, %z: tensor<16x192xf32>, %d0: tensor<64x96xf32>) {
  // expected-error@below {{expected scores, since their gradient is wanted}}
  %dz, %ds = moe.routed_down_grad %dy preactivation(%z) weights(%d0) {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (tensor<2x8x64xf32>, tensor<16x192xf32>, tensor<64x96xf32>) -> tensor<16x192xf32> dscores(tensor<2x8x1xf32>)
  return
}
// mended: %dz, %ds => %dz
// mended: -> tensor<16x192xf32> dscores(tensor<2x8x1xf32>) => -> tensor<16x192xf32>

// -----

// moe.routed_down_grad (C2)
func.func @f(%dy: tensor<2x8x64xf32>, %s: tensor<2x8x2xf32>, %r: !moe.routes<16x2, 2>, %z: tensor<32x192xf32>, %d0: tensor<96x64xf32>, %d1: tensor<96x64xf32>) {
  // expected-error@below {{expected a weight of type 'tensor<64x96xf32>', but got 'tensor<96x64xf32>'}}
  %dz, %scaled, %ds = moe.routed_down_grad %dy scores(%s) routes(%r) preactivation(%z) weights(%d0, %d1) {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (tensor<2x8x64xf32>, tensor<2x8x2xf32>, !moe.routes<16x2, 2>, tensor<32x192xf32>, tensor<96x64xf32>, tensor<96x64xf32>) -> tensor<32x192xf32> scaled(tensor<32x96xf32>) dscores(tensor<2x8x2xf32>)
  return
}
// mended: tensor<96x64xf32> => tensor<64x96xf32>

// -----

// moe.routed_down_grad (C3)
func.func @f(%dy: tensor<2x8x64xf32>, %s: tensor<2x8x2xf32>, %r: !moe.routes<16x2, 2>, %z: tensor<32x192xf32>, %d0: tensor<64x96xf32>, %d1: tensor<64x96xf32>) {
  // expected-error@below {{failed to verify that all of {preactivation, dz} have same type}}
  %dz, %scaled, %ds = moe.routed_down_grad %dy scores(%s) routes(%r) preactivation(%z) weights(%d0, %d1) {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (tensor<2x8x64xf32>, tensor<2x8x2xf32>, !moe.routes<16x2, 2>, tensor<32x192xf32>, tensor<64x96xf32>, tensor<64x96xf32>) -> tensor<32x96xf32> scaled(tensor<32x96xf32>) dscores(tensor<2x8x2xf32>)
  return
}
// mended: -> tensor<32x96xf32> => -> tensor<32x192xf32>

// -----

// moe.routed_down_grad (C3)
func.func @f(%dy: tensor<2x8x64xf32>, %s: tensor<2x8x2xf32>, %r: !moe.routes<16x2, 2>, %z: tensor<32x192xf32>, %d0: tensor<64x96xf32>, %d1: tensor<64x96xf32>) {
  // expected-error@below {{expected scaled rows of type 'tensor<32x96xf32>', but got 'tensor<32x192xf32>'}}
  %dz, %scaled, %ds = moe.routed_down_grad %dy scores(%s) routes(%r) preactivation(%z) weights(%d0, %d1) {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (tensor<2x8x64xf32>, tensor<2x8x2xf32>, !moe.routes<16x2, 2>, tensor<32x192xf32>, tensor<64x96xf32>, tensor<64x96xf32>) -> tensor<32x192xf32> scaled(tensor<32x192xf32>) dscores(tensor<2x8x2xf32>)
  return
}
// mended: scaled(tensor<32x192xf32>) => scaled(tensor<32x96xf32>)

// -----

// moe.routed_input_grad (C1)
func.func @f(%dz: tensor<32x192xf32>, %r: !moe.routes<16x2, 2>, %w0: tensor<96x64xf32>, %w1: tensor<96x64xf32>, %w2: tensor<96x64xf32>) {
  // expected-error@below {{expected 4 weights (2 for each expert), but got 3}}
  %dx = moe.routed_input_grad %dz routes(%r) weights(%w0, %w1, %w2) {form = #moe.ffn<gated>}
    : (tensor<32x192xf32>, !moe.routes<16x2, 2>, tensor<96x64xf32>, tensor<96x64xf32>, tensor<96x64xf32>) -> tensor<32x64xf32>
  return
}
// mended: %w1, %w2) => %w1, %w2, %w2)
// mended: ) -> => , tensor<96x64xf32>) ->

// -----

// moe.routed_input_grad (C2)
func.func @f(%dz: tensor<32x193xf32>, %r: !moe.routes<16x2, 2>, %w0: tensor<96x64xf32>, %w1: tensor<96x64xf32>, %w2: tensor<96x64xf32>, %w3: tensor<96x64xf32>) {
  // expected-error@below {{expected a pre-activation width of 192, but got 193}}
  %dx = moe.routed_input_grad %dz routes(%r) weights(%w0, %w1, %w2, %w3) {form = #moe.ffn<gated>}
    : (tensor<32x193xf32>, !moe.routes<16x2, 2>, tensor<96x64xf32>, tensor<96x64xf32>, tensor<96x64xf32>, tensor<96x64xf32>) -> tensor<32x64xf32>
  return
}
// mended: tensor<32x193xf32> => tensor<32x192xf32>

// -----

// moe.routed_input_grad (C2)
func.func @f(%dz: tensor<32x192xf32>, %w0: tensor<96x64xf32>, %w1: tensor<96x64xf32>) {
  // expected-error@below {{expected tokens of 32, but got 16}}
  %dx = moe.routed_input_grad %dz weights(%w0, %w1) {form = #moe.ffn<gated>}
    : (tensor<32x192xf32>, tensor<96x64xf32>, tensor<96x64xf32>) -> tensor<2x8x64xf32>
  return
}
// mended: tensor<32x192xf32> => tensor<16x192xf32>

// -----

// moe.routed_weight_grad (C1)
func.func @f(%dz: tensor<32x192xf32>, %x: tensor<2x8x64xf32>, %r: !moe.routes<16x2, 2>) {
  // expected-error@below {{expected experts in [0, 2), but got 2}}
  %dw = moe.routed_weight_grad %dz, %x, %r {experts = array<i64: 2>, offset = 0 : i64} : (tensor<32x192xf32>, tensor<2x8x64xf32>, !moe.routes<16x2, 2>) -> tensor<96x64xf32>
  return
}
// mended: <16x2, 2> => <16x3, 2>

// -----

// moe.routed_weight_grad (C1)
func.func @f(%dz: tensor<32x192xf32>, %x: tensor<2x8x64xf32>, %r: !moe.routes<16x2, 2>) {
  // expected-error@below {{expected a result for each of 2 experts, but got 1}}
  %dw = moe.routed_weight_grad %dz, %x, %r {experts = array<i64: 0, 1>, offset = 0 : i64} : (tensor<32x192xf32>, tensor<2x8x64xf32>, !moe.routes<16x2, 2>) -> tensor<96x64xf32>
  return
}
// mended: array<i64: 0, 1> => array<i64: 1>

// -----

// moe.routed_weight_grad (C2)
func.func @f(%dz: tensor<32x192xf32>, %x: tensor<2x8x64xf32>, %r: !moe.routes<16x2, 2>) {
  // expected-error@below {{expected 96 columns within [0, 192), but got those from 128 on}}
  %dw = moe.routed_weight_grad %dz, %x, %r {experts = array<i64: 1>, offset = 128 : i64} : (tensor<32x192xf32>, tensor<2x8x64xf32>, !moe.routes<16x2, 2>) -> tensor<96x64xf32>
  return
}
// mended: offset = 128 => offset = 96

// -----

// moe.routed_weight_grad (C2)
func.func @f(%dz: tensor<32x192xf32>, %x: tensor<2x8x64xf32>, %r: !moe.routes<16x2, 2>) {
  // expected-error@below {{expected a result of type 'tensor<96x64xf32>', but got 'tensor<96x32xf32>'}}
  %dw = moe.routed_weight_grad %dz, %x, %r {experts = array<i64: 1>, offset = 0 : i64} : (tensor<32x192xf32>, tensor<2x8x64xf32>, !moe.routes<16x2, 2>) -> tensor<96x32xf32>
  return
}
// mended: tensor<96x32xf32> => tensor<96x64xf32>

// -----

// moe.routed_weight_grad (C2)
func.func @f(%dz: tensor<192xf32>, %x: tensor<2x8x64xf32>, %r: !moe.routes<16x2, 2>) {
  // expected-error@below {{expected tokens [B,S,width] or rows [R,width], but got 'tensor<192xf32>'}}
  %dw = moe.routed_weight_grad %dz, %x, %r {experts = array<i64: 1>, offset = 0 : i64} : (tensor<192xf32>, tensor<2x8x64xf32>, !moe.routes<16x2, 2>) -> tensor<96x64xf32>
  return
}
// mended: tensor<192xf32> => tensor<32x192xf32>

// -----

// moe.routed_bias_grad (C1)
func.func @f(%dy: tensor<2x8x64xf32>, %r: !moe.routes<16x2, 2>) {
  // expected-error@below {{expected experts in [0, 2), but got -1}}
  %db = moe.routed_bias_grad %dy routes(%r) {experts = array<i64: -1>} : (tensor<2x8x64xf32>, !moe.routes<16x2, 2>) -> tensor<64xf32>
  return
}
// mended: array<i64: -1> => array<i64: 1>

// -----

// moe.routed_bias_grad (C2)
func.func @f(%dy: tensor<2x8x64xf32>, %r: !moe.routes<16x2, 2>) {
  // expected-error@below {{expected a result of type 'tensor<64xf32>', but got 'tensor<96xf32>'}}
  %db = moe.routed_bias_grad %dy routes(%r) {experts = array<i64: 1>} : (tensor<2x8x64xf32>, !moe.routes<16x2, 2>) -> tensor<96xf32>
  return
}
// mended: tensor<96xf32> => tensor<64xf32>

// -----

// moe.linear_cross_entropy (C1)
func.func @f(%h: tensor<2x8x64xf32>, %w: tensor<512x32xf32>, %labels: tensor<2x8xi32>, %weight: tensor<f32>) {
  // expected-error@below {{expected an input width of 32, but got 64}}
  %loss, %dx = moe.linear_cross_entropy %h, %w, %labels, %weight {chunk = 256 : i64}
    : (tensor<2x8x64xf32>, tensor<512x32xf32>, tensor<2x8xi32>, tensor<f32>) -> tensor<f32> dx(tensor<2x8x64xf32>)
  return
}
// mended: tensor<2x8x64xf32> => tensor<2x8x32xf32>

// -----

// moe.linear_cross_entropy (C1)
func.func @f(%h: tensor<2x8x64xf32>, %w: tensor<512x64xf32>, %labels: tensor<2x8xi32>, %weight: tensor<f32>) {
  // expected-error@below {{expected a gradient of the input of type 'tensor<2x8x64xf32>', but got 'tensor<2x8x32xf32>'}}
  %loss, %dx = moe.linear_cross_entropy %h, %w, %labels, %weight {chunk = 256 : i64}
    : (tensor<2x8x64xf32>, tensor<512x64xf32>, tensor<2x8xi32>, tensor<f32>) -> tensor<f32> dx(tensor<2x8x32xf32>)
  return
}
// mended: tensor<2x8x32xf32> => tensor<2x8x64xf32>

// -----

// moe.linear_cross_entropy (C1)
func.func @f(%h: tensor<2x8x64xf32>, %w: tensor<512x64xf32>, %labels: tensor<2x9xi32>, %weight: tensor<f32>) {
  // expected-error@below {{expected a row length of 8, but got 9}}
  %loss, %dx = moe.linear_cross_entropy %h, %w, %labels, %weight {chunk = 256 : i64}
    : (tensor<2x8x64xf32>, tensor<512x64xf32>, tensor<2x9xi32>, tensor<f32>) -> tensor<f32> dx(tensor<2x8x64xf32>)
  return
}
// mended: tensor<2x9xi32> => tensor<2x8xi32>

// -----

// moe.linear_cross_entropy (C2)
func.func @f(%h: tensor<2x8x64xf32>, %w: tensor<512x64xf32>, %labels: tensor<2x8xi32>, %weight: tensor<f32>) {
  // expected-error@below {{attribute 'chunk' failed to satisfy constraint: 64-bit signless integer attribute whose value is positive}}
  %loss, %dx = moe.linear_cross_entropy %h, %w, %labels, %weight {chunk = 0 : i64}
    : (tensor<2x8x64xf32>, tensor<512x64xf32>, tensor<2x8xi32>, tensor<f32>) -> tensor<f32> dx(tensor<2x8x64xf32>)
  return
}
// mended: chunk = 0 => chunk = 1

// -----

// moe.routed_up (C2)
func.func @f(%x: tensor<16x1x64xf32>, %g: tensor<96x64xf32>, %u: tensor<96x64xf32>) {
  // expected-error@below {{expected a result of type 'tensor<16x96xf32>', but got 'tensor<16x96xbf16>'}}
  %h = moe.routed_up %x weights(%g, %u) {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (tensor<16x1x64xf32>, tensor<96x64xf32>, tensor<96x64xf32>) -> tensor<16x96xbf16>
  return
}
// mended: tensor<16x96xbf16> => tensor<16x96xf32>

// -----

// moe.routed_up (C3)
func.func @f(%x: tensor<?x1x64xf32>, %g: tensor<96x64xf32>, %u: tensor<96x64xf32>) {
  // expected-error@below {{failed to verify that operands and results have static shapes}}
  %h = moe.routed_up %x weights(%g, %u) {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (tensor<?x1x64xf32>, tensor<96x64xf32>, tensor<96x64xf32>) -> tensor<?x96xf32>
  return
}
// mended: tensor<?x1x64xf32> => tensor<16x1x64xf32>
// mended: tensor<?x96xf32> => tensor<16x96xf32>

// -----

// moe.routed_down (C2)
func.func @f(%h: tensor<16x96xf32>, %d: tensor<64x96xf32>) {
  // expected-error@below {{expected a result of type 'tensor<2x8x64xf32>', but got 'tensor<2x8x64xf64>'}}
  %y = moe.routed_down %h weights(%d) {form = #moe.ffn<gated>} : (tensor<16x96xf32>, tensor<64x96xf32>) -> tensor<2x8x64xf64>
  return
}
// mended: tensor<2x8x64xf64> => tensor<2x8x64xf32>

// -----

// moe.routed_down (C3)
func.func @f(%h: tensor<?x96xf32>, %d: tensor<64x96xf32>) {
  // expected-error@below {{failed to verify that operands and results have static shapes}}
  %y = moe.routed_down %h weights(%d) {form = #moe.ffn<gated>} : (tensor<?x96xf32>, tensor<64x96xf32>) -> tensor<2x8x64xf32>
  return
}
// mended: tensor<?x96xf32> => tensor<16x96xf32>

// -----

// moe.combine (C2)
func.func @f(%rows: tensor<32x64xf32>, %r: !moe.routes<16x2, 2>) {
  // expected-error@below {{failed to verify that all of {rows, result} have same element type}}
  %y = moe.combine %rows, %r : (tensor<32x64xf32>, !moe.routes<16x2, 2>) -> tensor<2x8x64xbf16>
  return
}
// mended: tensor<2x8x64xbf16> => tensor<2x8x64xf32>

// -----

// moe.combine (C2)
func.func @f(%rows: tensor<32x64xf32>, %r: !moe.routes<16x2, 2>, %s: tensor<2x8x2xf64>) {
  // expected-error@below {{expected scores of type 'tensor<2x8x2xf32>', but got 'tensor<2x8x2xf64>'}}
  %y = moe.combine %rows, %r, %s : (tensor<32x64xf32>, !moe.routes<16x2, 2>, tensor<2x8x2xf64>) -> tensor<2x8x64xf32>
  return
}
// mended: tensor<2x8x2xf64> => tensor<2x8x2xf32>

// -----

// moe.combine (C3)
func.func @f(%rows: tensor<?x64xf32>, %r: !moe.routes<16x2, 2>) {
  // expected-error@below {{failed to verify that operands and results have static shapes}}
  %y = moe.combine %rows, %r : (tensor<?x64xf32>, !moe.routes<16x2, 2>) -> tensor<2x8x64xf32>
  return
}
// mended: tensor<?x64xf32> => tensor<32x64xf32>

// -----

// moe.routed_down_grad (C4)
func.func @f(%dy: tensor<2x8x64xf32>, %s: tensor<2x8x1xf32>, %r: !moe.routes<16x2, 2>, %z: tensor<32x192xf32>, %d0: tensor<64x96xf32>, %d1: tensor<64x96xf32>) {
  // expected-error@below {{expected scores of type 'tensor<2x8x2xf32>', but got 'tensor<2x8x1xf32>'}}
  %dz = moe.routed_down_grad %dy scores(%s) routes(%r) preactivation(%z) weights(%d0, %d1) {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (tensor<2x8x64xf32>, tensor<2x8x1xf32>, !moe.routes<16x2, 2>, tensor<32x192xf32>, tensor<64x96xf32>, tensor<64x96xf32>) -> tensor<32x192xf32>
  return
}
// mended: tensor<2x8x1xf32> => tensor<2x8x2xf32>

// -----

// moe.routed_down_grad (C4)
func.func @f(%dy: tensor<2x8x64xf32>, %z: tensor<16x192xbf16>, %d: tensor<64x96xf32>) {
  // expected-error@below {{failed to verify that all of {dy, preactivation} have same element type}}
  %dz = moe.routed_down_grad %dy preactivation(%z) weights(%d) {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (tensor<2x8x64xf32>, tensor<16x192xbf16>, tensor<64x96xf32>) -> tensor<16x192xbf16>
  return
}
// mended: tensor<16x192xbf16> => tensor<16x192xf32>

// -----

// moe.routed_down_grad (C5)
func.func @f(%dy: tensor<?x8x64xf32>, %z: tensor<16x192xf32>, %d: tensor<64x96xf32>) {
  // expected-error@below {{failed to verify that operands and results have static shapes}}
  %dz = moe.routed_down_grad %dy preactivation(%z) weights(%d) {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (tensor<?x8x64xf32>, tensor<16x192xf32>, tensor<64x96xf32>) -> tensor<16x192xf32>
  return
}
// mended: tensor<?x8x64xf32> => tensor<2x8x64xf32>

// -----

// moe.routed_input_grad (C3)
func.func @f(%dz: tensor<?x96xf32>, %u: tensor<96x64xf32>) {
  // expected-error@below {{failed to verify that operands and results have static shapes}}
  %dx = moe.routed_input_grad %dz weights(%u) {form = #moe.ffn<plain>} : (tensor<?x96xf32>, tensor<96x64xf32>) -> tensor<2x8x64xf32>
  return
}
// mended: tensor<?x96xf32> => tensor<16x96xf32>

// -----

// moe.routed_weight_grad (C1)
func.func @f(%dz: tensor<32x192xf32>, %x: tensor<2x8x64xf32>, %r: !moe.routes<16x2, 2>) {
  // expected-error@below {{expected experts in ascending order, but got 1, 1}}
  %dw:2 = moe.routed_weight_grad %dz, %x, %r {experts = array<i64: 1, 1>} : (tensor<32x192xf32>, tensor<2x8x64xf32>, !moe.routes<16x2, 2>) -> (tensor<96x64xf32>, tensor<96x64xf32>)
  return
}
// mended: 1, 1> => 0, 1>

// -----

// moe.routed_weight_grad (C2)
func.func @f(%dz: tensor<16x192xf32>, %x: tensor<2x8x64xf32>, %r: !moe.routes<16x2, 2>) {
  // expected-error@below {{expected rows of 32, but got 16}}
  %dw = moe.routed_weight_grad %dz, %x, %r {experts = array<i64: 1>} : (tensor<16x192xf32>, tensor<2x8x64xf32>, !moe.routes<16x2, 2>) -> tensor<96x64xf32>
  return
}
// mended: tensor<16x192xf32> => tensor<32x192xf32>

// -----

// moe.routed_weight_grad (C2)
func.func @f(%dz: tensor<32x192xf32>, %x: tensor<2x8x64xf32>, %r: !moe.routes<16x2, 2>) {
  // expected-error@below {{expected a result of type 'tensor<96x64xf32>', but got 'tensor<48x64xf32>'}}
  %dw:2 = moe.routed_weight_grad %dz, %x, %r {experts = array<i64: 0, 1>} : (tensor<32x192xf32>, tensor<2x8x64xf32>, !moe.routes<16x2, 2>) -> (tensor<96x64xf32>, tensor<48x64xf32>)
  return
}
// mended: tensor<48x64xf32> => tensor<96x64xf32>

// -----

// moe.routed_weight_grad (C3)
func.func @f(%dz: tensor<32x192xbf16>, %x: tensor<2x8x64xbf16>, %r: !moe.routes<16x2, 2>) {
  // expected-error@below {{expected a result of type 'tensor<96x64xf32>', but got 'tensor<96x64xbf16>'}}
  %dw = moe.routed_weight_grad %dz, %x, %r {experts = array<i64: 1>} : (tensor<32x192xbf16>, tensor<2x8x64xbf16>, !moe.routes<16x2, 2>) -> tensor<96x64xbf16>
  return
}
// mended: tensor<96x64xbf16> => tensor<96x64xf32>

// -----

// moe.routed_weight_grad (C3)
func.func @f(%dz: tensor<32x192xf32>, %x: tensor<2x8x64xbf16>, %r: !moe.routes<16x2, 2>) {
  // expected-error@below {{failed to verify that all of {lhs, rhs} have same element type}}
  %dw = moe.routed_weight_grad %dz, %x, %r {experts = array<i64: 1>} : (tensor<32x192xf32>, tensor<2x8x64xbf16>, !moe.routes<16x2, 2>) -> tensor<96x64xf32>
  return
}
// mended: tensor<2x8x64xbf16> => tensor<2x8x64xf32>

// -----

// moe.routed_weight_grad (C4)
func.func @f(%dz: tensor<?x192xf32>, %x: tensor<2x8x64xf32>, %r: !moe.routes<16x2, 2>) {
  // expected-error@below {{failed to verify that operands and results have static shapes}}
  %dw = moe.routed_weight_grad %dz, %x, %r {experts = array<i64: 1>} : (tensor<?x192xf32>, tensor<2x8x64xf32>, !moe.routes<16x2, 2>) -> tensor<96x64xf32>
  return
}
// mended: tensor<?x192xf32> => tensor<32x192xf32>

// -----

// moe.routed_bias_grad (C3)
func.func @f(%dy: tensor<2x8x64xf32>, %s: tensor<2x8x1xf32>) {
  // expected-error@below {{expected routes, since there are scores}}
  %db = moe.routed_bias_grad %dy scores(%s) {experts = array<i64: 0>} : (tensor<2x8x64xf32>, tensor<2x8x1xf32>) -> tensor<64xf32>
  return
}
// mended: %s: => %r: !moe.routes<16x1, 1>, %s:
// mended: scores(%s) => routes(%r) scores(%s)
// mended: (tensor<2x8x64xf32>, tensor => (tensor<2x8x64xf32>, !moe.routes<16x1, 1>, tensor

// -----

// moe.routed_bias_grad (C3)
func.func @f(%dy: tensor<2x8x64xf32>, %r: !moe.routes<16x2, 2>, %s: tensor<2x4x2xf32>) {
  // expected-error@below {{expected routed tokens of 8, but got 16}}
  %db = moe.routed_bias_grad %dy routes(%r) scores(%s) {experts = array<i64: 0>} : (tensor<2x8x64xf32>, !moe.routes<16x2, 2>, tensor<2x4x2xf32>) -> tensor<64xf32>
  return
}
// mended: tensor<2x4x2xf32> => tensor<2x8x2xf32>

// -----

// moe.routed_bias_grad (C4)
func.func @f(%dy: tensor<2x8x64xbf16>, %r: !moe.routes<16x2, 2>, %s: tensor<2x8x2xf64>) {
  // expected-error@below {{expected scores of type 'tensor<2x8x2xf32>', but got 'tensor<2x8x2xf64>'}}
  %db = moe.routed_bias_grad %dy routes(%r) scores(%s) {experts = array<i64: 0>} : (tensor<2x8x64xbf16>, !moe.routes<16x2, 2>, tensor<2x8x2xf64>) -> tensor<64xf32>
  return
}
// mended: tensor<2x8x2xf64> => tensor<2x8x2xf32>

// -----

// moe.routed_bias_grad (C5)
func.func @f(%dy: tensor<?x8x64xf32>) {
  // expected-error@below {{failed to verify that operands and results have static shapes}}
  %db = moe.routed_bias_grad %dy {experts = array<i64: 0>} : (tensor<?x8x64xf32>) -> tensor<64xf32>
  return
}
// mended: tensor<?x8x64xf32> => tensor<2x8x64xf32>

// -----

// moe.linear_cross_entropy (C3)
func.func @f(%h: tensor<2x8x64xf32>, %w: tensor<512x64xbf16>, %labels: tensor<2x8xi32>, %weight: tensor<f32>) {
  // expected-error@below {{failed to verify that all of {input, weight} have same element type}}
  %loss = moe.linear_cross_entropy %h, %w, %labels, %weight {chunk = 256 : i64} : (tensor<2x8x64xf32>, tensor<512x64xbf16>, tensor<2x8xi32>, tensor<f32>) -> tensor<f32>
  return
}
// mended: tensor<512x64xbf16> => tensor<512x64xf32>

// -----

// moe.linear_cross_entropy (C3)
func.func @f(%h: tensor<2x8x64xbf16>, %w: tensor<512x64xbf16>, %labels: tensor<2x8xi32>, %weight: tensor<f32>) {
  // expected-error@below {{expected a gradient of the weight of type 'tensor<512x64xf32>', but got 'tensor<512x64xbf16>'}}
  %loss, %dw = moe.linear_cross_entropy %h, %w, %labels, %weight {chunk = 256 : i64} : (tensor<2x8x64xbf16>, tensor<512x64xbf16>, tensor<2x8xi32>, tensor<f32>) -> tensor<f32> dweight(tensor<512x64xbf16>)
  return
}
// mended: dweight(tensor<512x64xbf16>) => dweight(tensor<512x64xf32>)

// -----

// moe.linear_cross_entropy (C4)
func.func @f(%h: tensor<?x8x64xf32>, %w: tensor<512x64xf32>, %labels: tensor<2x8xi32>, %weight: tensor<f32>) {
  // expected-error@below {{failed to verify that operands and results have static shapes}}
  %loss = moe.linear_cross_entropy %h, %w, %labels, %weight {chunk = 256 : i64} : (tensor<?x8x64xf32>, tensor<512x64xf32>, tensor<2x8xi32>, tensor<f32>) -> tensor<f32>
  return
}
// mended: tensor<?x8x64xf32> => tensor<2x8x64xf32>

// -----

// moe.routed_up (C2)
func.func @f(%x: tensor<2x8x64xf32>, %r: !moe.routes<12x1, 1>, %g: tensor<96x64xf32>, %u: tensor<96x64xf32>) {
  // expected-error@below {{expected routed tokens of 16, but got 12}}
  %h = moe.routed_up %x routes(%r) weights(%g, %u) {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (tensor<2x8x64xf32>, !moe.routes<12x1, 1>, tensor<96x64xf32>, tensor<96x64xf32>) -> tensor<12x96xf32>
  return
}
// mended: tensor<2x8x64xf32> => tensor<2x6x64xf32>

// -----

// moe.routed_down (C2)
func.func @f(%h: tensor<16x96xf32>, %r: !moe.routes<12x1, 1>, %d: tensor<64x96xf32>) {
  // expected-error@below {{expected rows of 12, but got 16}}
  %y = moe.routed_down %h routes(%r) weights(%d) {form = #moe.ffn<gated>} : (tensor<16x96xf32>, !moe.routes<12x1, 1>, tensor<64x96xf32>) -> tensor<16x64xf32>
  return
}
// mended: <12x1, 1> => <16x1, 1>

// -----

// moe.combine (C1)
func.func @f(%rows: tensor<12x64xf32>, %r: !moe.routes<12x1, 1>) {
  // expected-error@below {{expected routed tokens of 16, but got 12}}
  %y = moe.combine %rows, %r : (tensor<12x64xf32>, !moe.routes<12x1, 1>) -> tensor<2x8x64xf32>
  return
}
// mended: tensor<2x8x64xf32> => tensor<2x6x64xf32>

// -----

// moe.routed_down_grad (C3)
func.func @f(%dy: tensor<2x8x64xf32>, %s: tensor<2x8x1xf32>, %r: !moe.routes<12x1, 1>, %z: tensor<12x192xf32>, %d: tensor<64x96xf32>) {
  // expected-error@below {{expected routed tokens of 16, but got 12}}
  %dz = moe.routed_down_grad %dy scores(%s) routes(%r) preactivation(%z) weights(%d) {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (tensor<2x8x64xf32>, tensor<2x8x1xf32>, !moe.routes<12x1, 1>, tensor<12x192xf32>, tensor<64x96xf32>) -> tensor<12x192xf32>
  return
}
// mended: tensor<2x8x => tensor<2x6x

// -----

// moe.routed_weight_grad (C4)
func.func @f(%dz: tensor<32x192xf32>, %x: tensor<2x8x64xf32>, %r: !moe.routes<?x2, 2>) {
  // expected-error@below {{failed to verify that operands and results have static shapes}}
  %dw = moe.routed_weight_grad %dz, %x, %r {experts = array<i64: 1>} : (tensor<32x192xf32>, tensor<2x8x64xf32>, !moe.routes<?x2, 2>) -> tensor<96x64xf32>
  return
}
// mended: <?x2, 2> => <16x2, 2>

// -----

// moe.pointer_table (C1)
func.func @f(%w: memref<?x64xf32>) {
  // expected-error@below {{expected buffers of static shape, but got 'memref<?x64xf32>'}}
  %t = moe.pointer_table %w : memref<?x64xf32>
  return
}
// mended: memref<?x64xf32> => memref<4x64xf32>

// -----

// moe.table_entry (C1)
moe.kernel @k(%item: index, %table: !moe.table) {
  // expected-error@below {{result #0 must be statically shaped memref of any type values, but got 'memref<?x64xf32>'}}
  %w = moe.table_entry %table[%item] : memref<?x64xf32>
}
// mended: memref<?x64xf32> => memref<4x64xf32>

// -----

// moe.kernel (C1)
// expected-error@below {{expected the number of the work item, an index, as the first argument}}
moe.kernel @k(%x: memref<8xf32>) {
}
// mended: %x: memref<8xf32> => %item: index, %x: memref<8xf32>

// -----

// moe.kernel (C2)
// expected-error@below {{expected a memref of static shape, a table or an index, but got 'memref<?x64xf32>'}}
moe.kernel @k(%item: index, %x: memref<?x64xf32>) {
}
// mended: memref<?x64xf32> => memref<4x64xf32>

// -----

// moe.dispatch (C1)
func.func private @k(index, memref<4x64xf32>)
func.func @f(%a: memref<4x64xf32>) {
  // expected-error@below {{expected a kernel, but there is none called @k}}
  moe.dispatch @k [4] (%a) : memref<4x64xf32>
  return
}
// mended: func.func private @k(index, memref<4x64xf32>) => moe.kernel @k(%item: index, %x: memref<4x64xf32>) {}

// -----

// moe.dispatch (C1)
// expected-note@below {{the kernel is here}}
moe.kernel @k(%item: index, %x: memref<4x64xf32>, %first: index) {
}
func.func @f(%a: memref<4x64xf32>) {
  // expected-error@below {{expected what the kernel takes, ('memref<4x64xf32>', 'index'), but got ('memref<4x64xf32>')}}
  moe.dispatch @k [4] (%a) : memref<4x64xf32>
  return
}
// mended: xf32>, %first: index) => xf32>)

// -----

// moe.dispatch (C2)
moe.kernel @k(%item: index, %x: memref<4x64xf32>, %first: index) {
}
func.func @f(%a: memref<4x64xf32>, %n: index) {
  // expected-error@below {{expected memrefs to derive from and into, but got ('memref<4x64xf32>', 'index')}}
  moe.dispatch @k [4] (%a, %n) {derives = "something"} : memref<4x64xf32>, index
  return
}
// mended: %first: index => %first: memref<4x64xf32>
// mended: %n: index => %n: memref<4x64xf32>
// mended: : memref<4x64xf32>, index => : memref<4x64xf32>, memref<4x64xf32>
