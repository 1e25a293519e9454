// The gradients among the fused ops, where they violate a constraint.
// RUN: moe-opt %s --split-input-file --verify-diagnostics

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

// moe.routed_down_grad (C6)
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

// moe.routed_down_grad (C5)
func.func @f(%dy: tensor<2x8x64xf32>, %z: tensor<16x96xf32>, %d: tensor<64x96xf32>, %a: tensor<1xf32>, %b: tensor<96xf32>) {
  // expected-error@below {{expected a weight of type 'tensor<1xf32>', but got 'tensor<96xf32>'}}
  %dz = moe.routed_down_grad %dy preactivation(%z) weights(%d) scalars(%a, %b) {form = #moe.ffn<plain>, activation = #moe.activation<xielu>} : (tensor<2x8x64xf32>, tensor<16x96xf32>, tensor<64x96xf32>, tensor<1xf32>, tensor<96xf32>) -> tensor<16x96xf32>
  return
}
// mended: scalars(%a, %b) => scalars(%a, %a)
// mended: tensor<1xf32>, tensor<96xf32>) => tensor<1xf32>, tensor<1xf32>)

// -----

// moe.routed_down_grad (C5)
func.func @f(%dy: tensor<2x8x64xf32>, %z: tensor<16x96xf32>, %d: tensor<64x96xf32>, %a: tensor<1xf32>) {
  // expected-error@below {{expected 2 gradients of scalars or none, but got 1}}
  %dz, %da = moe.routed_down_grad %dy preactivation(%z) weights(%d) scalars(%a, %a) {form = #moe.ffn<plain>, activation = #moe.activation<xielu>}
    : (tensor<2x8x64xf32>, tensor<16x96xf32>, tensor<64x96xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<16x96xf32> dscalars(tensor<16x1xf32>)
  return
}
// mended: %dz, %da => %dz, %da:2
// mended: dscalars(tensor<16x1xf32>) => dscalars(tensor<16x1xf32>, tensor<16x1xf32>)

// -----

// moe.routed_down_grad (C5)
func.func @f(%dy: tensor<2x8x64xbf16>, %z: tensor<16x96xbf16>, %d: tensor<64x96xbf16>, %a: tensor<1xbf16>) {
  // expected-error@below {{expected a gradient of a scalar of type 'tensor<16x1xf32>', but got 'tensor<16x1xbf16>'}}
  %dz, %da:2 = moe.routed_down_grad %dy preactivation(%z) weights(%d) scalars(%a, %a) {form = #moe.ffn<plain>, activation = #moe.activation<xielu>}
    : (tensor<2x8x64xbf16>, tensor<16x96xbf16>, tensor<64x96xbf16>, tensor<1xbf16>, tensor<1xbf16>) -> tensor<16x96xbf16> dscalars(tensor<16x1xbf16>, tensor<16x1xbf16>)
  return
}
// mended: dscalars(tensor<16x1xbf16>, tensor<16x1xbf16>) => dscalars(tensor<16x1xf32>, tensor<16x1xf32>)
