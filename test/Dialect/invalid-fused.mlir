// A violation of every numbered constraint of the dialect's documentation, of fused ops;
// gradients have a file of their own.
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

// moe.linear_cross_entropy (C5)
func.func @f(%h: tensor<2x8x64xf32>, %w: tensor<512x64xf32>, %labels: tensor<2x8xi32>, %weight: tensor<f32>) {
  // expected-error@below {{attribute 'softcap' failed to satisfy constraint: 64-bit float attribute whose value is positive}}
  %loss, %dx = moe.linear_cross_entropy %h, %w, %labels, %weight {chunk = 1 : i64, softcap = 0.0}
    : (tensor<2x8x64xf32>, tensor<512x64xf32>, tensor<2x8xi32>, tensor<f32>) -> tensor<f32> dx(tensor<2x8x64xf32>)
  return
}
// mended: softcap = 0.0 => softcap = 30.0

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

// moe.routed_up (C4)
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

// moe.routed_up (C3)
func.func @f(%x: tensor<2x8x64xf32>, %u: tensor<96x64xf32>, %a: tensor<1xf32>) {
  // expected-error@below {{expected 2 weights (2 for each expert), but got 1}}
  %h = moe.routed_up %x weights(%u) scalars(%a) {form = #moe.ffn<plain>, activation = #moe.activation<xielu>} : (tensor<2x8x64xf32>, tensor<96x64xf32>, tensor<1xf32>) -> tensor<16x96xf32>
  return
}
// mended: scalars(%a) => scalars(%a, %a)
// mended: tensor<1xf32>) -> => tensor<1xf32>, tensor<1xf32>) ->

// -----

// moe.routed_up (C3)
func.func @f(%x: tensor<2x8x64xf32>, %u: tensor<96x64xf32>, %a: tensor<1xf32>) {
  // expected-error@below {{expected 0 weights (0 for each expert), but got 2}}
  %h = moe.routed_up %x weights(%u) scalars(%a, %a) {form = #moe.ffn<plain>, activation = #moe.activation<silu>} : (tensor<2x8x64xf32>, tensor<96x64xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<16x96xf32>
  return
}
// mended: activation<silu> => activation<xielu>
