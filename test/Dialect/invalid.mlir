// A violation of every numbered constraint of the dialect's documentation, of parameters and the
// backbone, and what mends it, as constraints.py says.
// RUN: moe-opt %s --split-input-file --verify-diagnostics

// moe.parameter (C1)
// expected-error@below {{expected a static shape, but got 'tensor<?xf32>'}}
moe.parameter backbone @w : tensor<?xf32> from #moe.init<zeros, seed = 0>
// mended: tensor<?xf32> => tensor<4xf32>

// -----

// moe.parameter (C1)
// expected-error@below {{failed to satisfy constraint: type attribute of ranked tensor of 64-bit float or 32-bit float or bfloat16 type values}}
moe.parameter backbone @w : tensor<4xi32> from #moe.init<zeros, seed = 0>
// mended: tensor<4xi32> => tensor<4xf32>

// -----

// moe.parameter (C2)
// expected-error@below {{failed to satisfy constraint: origin of a parameter}}
moe.parameter backbone @w : tensor<4xf32> from "somewhere"
// mended: "somewhere" => #moe.init<zeros, seed = 0>

// -----

// moe.parameter (C3)
// expected-error@below {{expected the origin to name a parameter, but there is no @u}}
moe.parameter expert @w : tensor<4xf32> from #moe.copy<@u>
// mended: #moe.copy<@u> => #moe.init<zeros, seed = 0>

// -----

// moe.parameter (C3)
// expected-note@below {{the origin is here}}
moe.parameter backbone @u : tensor<5xf32> from #moe.init<zeros, seed = 0>
// expected-error@below {{expected the type of its origin, 'tensor<5xf32>', but got 'tensor<4xf32>'}}
moe.parameter expert @w : tensor<4xf32> from #moe.copy<@u>
// mended: tensor<4xf32> => tensor<5xf32>

// -----

// moe.get_parameter (C1)
func.func @f() {
  // expected-error@below {{expected a moe.parameter, but there is no @w}}
  %w = moe.get_parameter @w : tensor<4xf32>
  return
}
// mended: func.func @f => moe.parameter backbone @w : tensor<4xf32> from #moe.init<zeros, seed = 0> func.func @f

// -----

// moe.get_parameter (C1)
// expected-note@below {{the parameter is here}}
moe.parameter backbone @w : tensor<4xf32> from #moe.init<zeros, seed = 0>
func.func @f() {
  // expected-error@below {{expected the type of @w, 'tensor<4xf32>', but got 'tensor<4xbf16>'}}
  %w = moe.get_parameter @w : tensor<4xbf16>
  return
}
// mended: tensor<4xbf16> => tensor<4xf32>

// -----

// moe.accumulate_gradient (C1)
moe.parameter backbone @w : tensor<4xf32> from #moe.init<zeros, seed = 0>
func.func @f(%g: tensor<4xf32>) {
  // expected-error@below {{expected a trainable parameter, but @w is frozen}}
  moe.accumulate_gradient @w, %g : tensor<4xf32>
  return
}
// mended: backbone => trainable backbone

// -----

// moe.accumulate_gradient (C1)
// expected-note@below {{the parameter is here}}
moe.parameter trainable backbone @w : tensor<4xbf16> from #moe.init<zeros, seed = 0>
func.func @f(%g: tensor<5xf32>) {
  // expected-error@below {{expected the type of @w, 'tensor<4xbf16>', but got 'tensor<5xf32>'}}
  moe.accumulate_gradient @w, %g : tensor<5xf32>
  return
}
// mended: tensor<5xf32> => tensor<4xf32>

// -----

// moe.accumulate_gradient (C2)
moe.parameter trainable backbone @w : tensor<4xbf16> from #moe.init<zeros, seed = 0>
func.func @f(%g: tensor<4xbf16>) {
  // expected-error@below {{expected a gradient in 'f32', but got 'tensor<4xbf16>'}}
  moe.accumulate_gradient @w, %g : tensor<4xbf16>
  return
}
// mended: %g: tensor<4xbf16> => %g: tensor<4xf32>
// mended: %g : tensor<4xbf16> => %g : tensor<4xf32>

// -----

// moe.embedding (C1)
func.func @f(%t: tensor<?x?xi32>, %w: tensor<512x64xf32>) {
  // expected-error@below {{expected a width of 64, but got 65}}
  %h = moe.embedding %t, %w : (tensor<?x?xi32>, tensor<512x64xf32>) -> tensor<?x?x65xf32>
  return
}
// mended: tensor<?x?x65xf32> => tensor<?x?x64xf32>

// -----

// moe.embedding (C1)
func.func @f(%t: tensor<2x8xi32>, %w: tensor<512x64xf32>) {
  // expected-error@below {{expected a row length of 8, but got 9}}
  %h = moe.embedding %t, %w : (tensor<2x8xi32>, tensor<512x64xf32>) -> tensor<2x9x64xf32>
  return
}
// mended: tensor<2x9x64xf32> => tensor<2x8x64xf32>

// -----

// moe.embedding (C1)
func.func @f(%t: tensor<?x?xi32>, %w: tensor<512x64xf32>) {
  // expected-error@below {{expected element type 'f32', but got 'bf16'}}
  %h = moe.embedding %t, %w : (tensor<?x?xi32>, tensor<512x64xf32>) -> tensor<?x?x64xbf16>
  return
}
// mended: tensor<?x?x64xbf16> => tensor<?x?x64xf32>

// -----

// moe.rms_norm (C1)
func.func @f(%x: tensor<?x?x64xf32>, %w: tensor<64xf32>) {
  // expected-error@below {{failed to verify that all of {input, result} have same type}}
  %y = moe.rms_norm %x, %w {epsilon = 1.0e-5} : (tensor<?x?x64xf32>, tensor<64xf32>) -> tensor<?x?x64xbf16>
  return
}
// mended: tensor<?x?x64xbf16> => tensor<?x?x64xf32>

// -----

// moe.rms_norm (C2)
func.func @f(%x: tensor<?x?x64xf32>, %w: tensor<48xf32>) {
  // expected-error@below {{expected a width that is a multiple of 48, but got 64}}
  %y = moe.rms_norm %x, %w {epsilon = 1.0e-5} : (tensor<?x?x64xf32>, tensor<48xf32>) -> tensor<?x?x64xf32>
  return
}
// mended: tensor<?x?x64xf32> => tensor<?x?x48xf32>

// -----

// moe.rms_norm (C2)
func.func @f(%x: tensor<?x?x64xf32>, %w: tensor<64xbf16>) {
  // expected-error@below {{failed to verify that all of {input, weight} have same element type}}
  %y = moe.rms_norm %x, %w {epsilon = 1.0e-5} : (tensor<?x?x64xf32>, tensor<64xbf16>) -> tensor<?x?x64xf32>
  return
}
// mended: tensor<64xbf16> => tensor<64xf32>

// -----

// moe.rms_norm (C3)
func.func @f(%x: tensor<?x?x64xf32>, %w: tensor<64xf32>) {
  // expected-error@below {{attribute 'epsilon' failed to satisfy constraint: 64-bit float attribute whose value is positive}}
  %y = moe.rms_norm %x, %w {epsilon = 0.0} : (tensor<?x?x64xf32>, tensor<64xf32>) -> tensor<?x?x64xf32>
  return
}
// mended: epsilon = 0.0 => epsilon = 1.0e-5

// -----

// moe.layer_norm (C1)
func.func @f(%x: tensor<?x?x64xf32>, %w: tensor<64xf32>, %b: tensor<64xf32>) {
  // expected-error@below {{failed to verify that all of {input, result} have same type}}
  %y = moe.layer_norm %x, %w, %b {epsilon = 1.0e-5} : (tensor<?x?x64xf32>, tensor<64xf32>, tensor<64xf32>) -> tensor<?x?x32xf32>
  return
}
// mended: tensor<?x?x32xf32> => tensor<?x?x64xf32>

// -----

// moe.layer_norm (C2)
func.func @f(%x: tensor<?x?x64xf32>, %w: tensor<32xf32>, %b: tensor<32xf32>) {
  // expected-error@below {{expected a weight of 64, but got 32}}
  %y = moe.layer_norm %x, %w, %b {epsilon = 1.0e-5} : (tensor<?x?x64xf32>, tensor<32xf32>, tensor<32xf32>) -> tensor<?x?x64xf32>
  return
}
// mended: tensor<32xf32> => tensor<64xf32>

// -----

// moe.layer_norm (C2)
func.func @f(%x: tensor<?x?x64xf32>, %w: tensor<64xf32>, %b: tensor<32xf32>) {
  // expected-error@below {{expected a bias of type 'tensor<64xf32>', but got 'tensor<32xf32>'}}
  %y = moe.layer_norm %x, %w, %b {epsilon = 1.0e-5} : (tensor<?x?x64xf32>, tensor<64xf32>, tensor<32xf32>) -> tensor<?x?x64xf32>
  return
}
// mended: tensor<32xf32> => tensor<64xf32>

// -----

// moe.layer_norm (C3)
func.func @f(%x: tensor<?x?x64xf32>, %w: tensor<64xf32>, %b: tensor<64xf32>) {
  // expected-error@below {{attribute 'epsilon' failed to satisfy constraint: 64-bit float attribute whose value is positive}}
  %y = moe.layer_norm %x, %w, %b {epsilon = -1.0e-5} : (tensor<?x?x64xf32>, tensor<64xf32>, tensor<64xf32>) -> tensor<?x?x64xf32>
  return
}
// mended: epsilon = -1.0e-5 => epsilon = 1.0e-5

// -----

// moe.concat_rows (C1)
func.func @f(%a: tensor<6x64xf32>, %b: tensor<1x32xf32>) {
  // expected-error@below {{expected an input of type 'tensor<1x64xf32>', but got 'tensor<1x32xf32>'}}
  %y = moe.concat_rows %a, %b : (tensor<6x64xf32>, tensor<1x32xf32>) -> tensor<7x64xf32>
  return
}
// mended: tensor<1x32xf32> => tensor<1x64xf32>

// -----

// moe.concat_rows (C1)
func.func @f(%a: tensor<6x64xf32>, %b: tensor<1x64xf32>) {
  // expected-error@below {{expected rows of 7, but got 6}}
  %y = moe.concat_rows %a, %b : (tensor<6x64xf32>, tensor<1x64xf32>) -> tensor<6x64xf32>
  return
}
// mended: -> tensor<6x64xf32> => -> tensor<7x64xf32>

// -----

// moe.concat_rows (C1)
func.func @f() {
  // expected-error@below {{expected at least one input}}
  %y = moe.concat_rows : () -> tensor<6x64xf32>
  return
}
// mended: @f() => @f(%a: tensor<6x64xf32>)
// mended: moe.concat_rows : () => moe.concat_rows %a : (tensor<6x64xf32>)

// -----

// moe.linear (C1)
func.func @f(%x: tensor<?x?x64xf32>, %w: tensor<96x32xf32>) {
  // expected-error@below {{expected an input width of 32, but got 64}}
  %y = moe.linear %x, %w : (tensor<?x?x64xf32>, tensor<96x32xf32>) -> tensor<?x?x96xf32>
  return
}
// mended: tensor<?x?x64xf32> => tensor<?x?x32xf32>

// -----

// moe.linear (C1)
func.func @f(%x: tensor<?x?x64xf32>, %w: tensor<96x64xf32>) {
  // expected-error@below {{expected a result width of 96, but got 64}}
  %y = moe.linear %x, %w : (tensor<?x?x64xf32>, tensor<96x64xf32>) -> tensor<?x?x64xf32>
  return
}
// mended: -> tensor<?x?x64xf32> => -> tensor<?x?x96xf32>

// -----

// moe.linear (C1)
func.func @f(%x: tensor<?x?x64xf32>, %w: tensor<96x64xf32>, %b: tensor<64xf32>) {
  // expected-error@below {{expected a bias of 96, but got 64}}
  %y = moe.linear %x, %w, %b : (tensor<?x?x64xf32>, tensor<96x64xf32>, tensor<64xf32>) -> tensor<?x?x96xf32>
  return
}
// mended: tensor<64xf32> => tensor<96xf32>

// -----

// moe.linear (C1)
func.func @f(%x: tensor<?x?x64xf32>, %w: tensor<96x64xbf16>) {
  // expected-error@below {{failed to verify that all of {input, weight, result} have same element type}}
  %y = moe.linear %x, %w : (tensor<?x?x64xf32>, tensor<96x64xbf16>) -> tensor<?x?x96xf32>
  return
}
// mended: tensor<96x64xbf16> => tensor<96x64xf32>

// -----

// moe.add (C1)
func.func @f(%a: tensor<?x?x64xf32>, %b: tensor<?x?x32xf32>) {
  // expected-error@below {{requires the same type for all operands and results}}
  %y = moe.add %a, %b : (tensor<?x?x64xf32>, tensor<?x?x32xf32>) -> tensor<?x?x64xf32>
  return
}
// mended: tensor<?x?x64xf32> => tensor<?x?x32xf32>

// -----

// moe.scale (C1)
func.func @f(%x: tensor<?x?x64xf32>) {
  // expected-error@below {{requires the same type for all operands and results}}
  %y = "moe.scale"(%x) {factor = 2.0} : (tensor<?x?x64xf32>) -> tensor<?x?x32xf32>
  return
}
// mended: tensor<?x?x32xf32> => tensor<?x?x64xf32>

// -----

// moe.soft_cap (C1)
func.func @f(%x: tensor<?x?x64xf32>) {
  // expected-error@below {{requires the same type for all operands and results}}
  %y = "moe.soft_cap"(%x) {cap = 2.0} : (tensor<?x?x64xf32>) -> tensor<?x?x64xbf16>
  return
}
// mended: tensor<?x?x64xbf16> => tensor<?x?x64xf32>

// -----

// moe.soft_cap (C2)
func.func @f(%x: tensor<?x?x64xf32>) {
  // expected-error@below {{attribute 'cap' failed to satisfy constraint: 64-bit float attribute whose value is positive}}
  %y = moe.soft_cap %x {cap = 0.0} : tensor<?x?x64xf32>
  return
}
// mended: cap = 0.0 => cap = 2.0

// -----

// moe.rotary_table (C1)
func.func @f(%p: tensor<?x?xi32>) {
  // expected-error@below {{expected a table width of 2, but got 3}}
  %c, %s = moe.rotary_table %p {frequencies = array<f32: 1.0, 0.1>} : (tensor<?x?xi32>) -> (tensor<?x?x2xf32>, tensor<?x?x3xf32>)
  return
}
// mended: tensor<?x?x3xf32> => tensor<?x?x2xf32>

// -----

// moe.rotary_table (C2)
func.func @f(%p: tensor<?x?xi32>) {
  // expected-error@below {{attribute 'max_length' failed to satisfy constraint: 64-bit signless integer attribute whose value is positive}}
  %c, %s = moe.rotary_table %p {frequencies = array<f32: 1.0, 0.1>, max_length = 0 : i64} : (tensor<?x?xi32>) -> (tensor<?x?x2xf32>, tensor<?x?x2xf32>)
  return
}
// mended: max_length = 0 => max_length = 1

// -----

// moe.rotary_table (C2)
func.func @f(%p: tensor<2x9xi32>) {
  // expected-error@below {{expected sequences of at most 8 tokens, for which its frequencies are, but got 9; moe-translate --import-hf --context=N makes a model for longer ones}}
  %c, %s = moe.rotary_table %p {frequencies = array<f32: 1.0, 0.1>, max_length = 8 : i64} : (tensor<2x9xi32>) -> (tensor<2x9x2xf32>, tensor<2x9x2xf32>)
  return
}
// mended: max_length = 8 => max_length = 9

// -----

// moe.rotary (C1)
func.func @f(%q: tensor<?x?x64xf32>, %c: tensor<?x?x8xf32>, %s: tensor<?x?x8xf32>) {
  // expected-error@below {{failed to verify that all of {input, result} have same type}}
  %y = moe.rotary %q, %c, %s : (tensor<?x?x64xf32>, tensor<?x?x8xf32>, tensor<?x?x8xf32>) -> tensor<?x?x32xf32>
  return
}
// mended: tensor<?x?x32xf32> => tensor<?x?x64xf32>

// -----

// moe.rotary (C2)
func.func @f(%q: tensor<?x?x64xf32>, %c: tensor<?x?x12xf32>, %s: tensor<?x?x12xf32>) {
  // expected-error@below {{expected a width that is a multiple of 24, but got 64}}
  %y = moe.rotary %q, %c, %s : (tensor<?x?x64xf32>, tensor<?x?x12xf32>, tensor<?x?x12xf32>) -> tensor<?x?x64xf32>
  return
}
// mended: tensor<?x?x64xf32> => tensor<?x?x24xf32>

// -----

// moe.rotary (C2)
func.func @f(%q: tensor<?x?x64xf32>, %c: tensor<?x?x8xf32>, %s: tensor<?x?x4xf32>) {
  // expected-error@below {{failed to verify that all of {cos, sin} have same type}}
  %y = moe.rotary %q, %c, %s : (tensor<?x?x64xf32>, tensor<?x?x8xf32>, tensor<?x?x4xf32>) -> tensor<?x?x64xf32>
  return
}
// mended: tensor<?x?x4xf32> => tensor<?x?x8xf32>

// -----

// moe.rotary (C2)
func.func @f(%q: tensor<?x?x64xf32>, %c: tensor<?x?x8xf32>, %s: tensor<?x?x8xf32>) {
  // expected-error@below {{expected a width that is a multiple of 24, but got 64}}
  %y = moe.rotary %q, %c, %s {head_dim = 24 : i64} : (tensor<?x?x64xf32>, tensor<?x?x8xf32>, tensor<?x?x8xf32>) -> tensor<?x?x64xf32>
  return
}
// mended: head_dim = 24 => head_dim = 32

// -----

// moe.rotary (C3)
func.func @f(%q: tensor<?x?x64xf32>, %c: tensor<?x?x8xf32>, %s: tensor<?x?x8xf32>) {
  // expected-error@below {{expected heads of at least 16 elements, which rotate, but got 8}}
  %y = moe.rotary %q, %c, %s {head_dim = 8 : i64} : (tensor<?x?x64xf32>, tensor<?x?x8xf32>, tensor<?x?x8xf32>) -> tensor<?x?x64xf32>
  return
}
// mended: head_dim = 8 => head_dim = 16

// -----

// moe.attention (C1)
func.func @f(%q: tensor<2x8x64xf32>, %k: tensor<2x8x16xf32>, %v: tensor<2x8x32xf32>, %slots: tensor<2x8xi32>) {
  // expected-error@below {{failed to verify that all of {key, value} have same type}}
  %o = moe.attention %q, %k, %v, %slots {heads = 4 : i64, kv_heads = 2 : i64, scale = 0.25}
    : (tensor<2x8x64xf32>, tensor<2x8x16xf32>, tensor<2x8x32xf32>, tensor<2x8xi32>) -> tensor<2x8x64xf32>
  return
}
// mended: tensor<2x8x16xf32> => tensor<2x8x32xf32>

// -----

// moe.attention (C1)
func.func @f(%q: tensor<2x8x64xf32>, %k: tensor<2x8x16xf32>, %v: tensor<2x8x16xf32>, %slots: tensor<2x8xi32>) {
  // expected-error@below {{expected keys of type 'tensor<2x8x32xf32>', but got 'tensor<2x8x16xf32>'}}
  %o = moe.attention %q, %k, %v, %slots {heads = 4 : i64, kv_heads = 2 : i64, scale = 0.25}
    : (tensor<2x8x64xf32>, tensor<2x8x16xf32>, tensor<2x8x16xf32>, tensor<2x8xi32>) -> tensor<2x8x64xf32>
  return
}
// mended: tensor<2x8x16xf32> => tensor<2x8x32xf32>

// -----

// moe.attention (C1)
func.func @f(%q: tensor<2x8x64xf32>, %k: tensor<2x8x32xf32>, %v: tensor<2x8x32xf32>, %slots: tensor<2x8xi32>) {
  // expected-error@below {{expected a query width that is a multiple of 5 heads, but got 64}}
  %o = moe.attention %q, %k, %v, %slots {heads = 5 : i64, kv_heads = 5 : i64, scale = 0.25}
    : (tensor<2x8x64xf32>, tensor<2x8x32xf32>, tensor<2x8x32xf32>, tensor<2x8xi32>) -> tensor<2x8x64xf32>
  return
}
// mended: heads = 5 : i64, kv_heads = 5 => heads = 4 : i64, kv_heads = 2

// -----

// moe.attention (C1)
func.func @f(%q: tensor<2x8x64xf32>, %k: tensor<2x8x32xf32>, %v: tensor<2x8x32xf32>, %slots: tensor<2x9xi32>) {
  // expected-error@below {{expected slots of type 'tensor<2x8xi32>', but got 'tensor<2x9xi32>'}}
  %o = moe.attention %q, %k, %v, %slots {heads = 4 : i64, kv_heads = 2 : i64, scale = 0.25}
    : (tensor<2x8x64xf32>, tensor<2x8x32xf32>, tensor<2x8x32xf32>, tensor<2x9xi32>) -> tensor<2x8x64xf32>
  return
}
// mended: tensor<2x9xi32> => tensor<2x8xi32>

// -----

// moe.attention (C2)
func.func @f(%q: tensor<2x8x64xf32>, %k: tensor<2x8x32xf32>, %v: tensor<2x8x32xf32>, %slots: tensor<2x8xi32>) {
  // expected-error@below {{expected heads to be a multiple of kv_heads, but got 4 and 3}}
  %o = moe.attention %q, %k, %v, %slots {heads = 4 : i64, kv_heads = 3 : i64, scale = 0.25}
    : (tensor<2x8x64xf32>, tensor<2x8x32xf32>, tensor<2x8x32xf32>, tensor<2x8xi32>) -> tensor<2x8x64xf32>
  return
}
// mended: kv_heads = 3 => kv_heads = 2

// -----

// moe.attention (C3)
func.func @f(%q: tensor<2x8x64xf32>, %k: tensor<2x16x32xf32>, %v: tensor<2x16x32xf32>, %slots: tensor<2x8xi32>, %segments: tensor<2x8xi32>) {
  // expected-error@below {{expected as many keys as queries, since there are segments, of 8, but got 16}}
  %o = moe.attention %q, %k, %v, %slots, %segments {heads = 4 : i64, kv_heads = 2 : i64, scale = 0.25}
    : (tensor<2x8x64xf32>, tensor<2x16x32xf32>, tensor<2x16x32xf32>, tensor<2x8xi32>, tensor<2x8xi32>) -> tensor<2x8x64xf32>
  return
}
// mended: tensor<2x16x32xf32> => tensor<2x8x32xf32>

// -----

// moe.attention (C4)
func.func @f(%q: tensor<2x8x64xf32>, %k: tensor<2x8x32xf32>, %v: tensor<2x8x32xf32>, %slots: tensor<2x8xi32>) {
  // expected-error@below {{attribute 'window' failed to satisfy constraint: 64-bit signless integer attribute whose value is positive}}
  %o = moe.attention %q, %k, %v, %slots {heads = 4 : i64, kv_heads = 2 : i64, scale = 0.25, window = 0 : i64}
    : (tensor<2x8x64xf32>, tensor<2x8x32xf32>, tensor<2x8x32xf32>, tensor<2x8xi32>) -> tensor<2x8x64xf32>
  return
}
// mended: window = 0 => window = 2

// -----

// moe.attention (C6)
func.func @f(%q: tensor<2x8x64xf32>, %k: tensor<2x8x32xf32>, %v: tensor<2x8x32xf32>, %slots: tensor<2x8xi32>) {
  // expected-error@below {{attribute 'softcap' failed to satisfy constraint: 64-bit float attribute whose value is positive}}
  %o = moe.attention %q, %k, %v, %slots {heads = 4 : i64, kv_heads = 2 : i64, scale = 0.25, softcap = -50.0}
    : (tensor<2x8x64xf32>, tensor<2x8x32xf32>, tensor<2x8x32xf32>, tensor<2x8xi32>) -> tensor<2x8x64xf32>
  return
}
// mended: softcap = -50.0 => softcap = 50.0

// -----

// moe.attention (C5)
func.func @f(%q: tensor<2x8x64xf32>, %k: tensor<2x8x32xf32>, %v: tensor<2x8x32xf32>, %slots: tensor<2x8xi32>) {
  // expected-error@below {{expected a log-sum-exp of type 'tensor<2x4x8xf32>', but got 'tensor<2x8x4xf32>'}}
  %o, %lse = moe.attention %q, %k, %v, %slots {heads = 4 : i64, kv_heads = 2 : i64, scale = 0.25}
    : (tensor<2x8x64xf32>, tensor<2x8x32xf32>, tensor<2x8x32xf32>, tensor<2x8xi32>) -> (tensor<2x8x64xf32>, tensor<2x8x4xf32>)
  return
}
// mended: tensor<2x8x4xf32> => tensor<2x4x8xf32>

// -----

// moe.cache_update (C1)
func.func @f(%cache: tensor<1x64x32xf32>, %rows: tensor<1x1x16xf32>, %slots: tensor<1x1xi32>) {
  // expected-error@below {{expected rows of type 'tensor<1x1x32xf32>', but got 'tensor<1x1x16xf32>'}}
  %k = moe.cache_update %cache, %rows, %slots : (tensor<1x64x32xf32>, tensor<1x1x16xf32>, tensor<1x1xi32>) -> tensor<1x64x32xf32>
  return
}
// mended: tensor<1x1x16xf32> => tensor<1x1x32xf32>

// -----

// moe.cache_update (C1)
func.func @f(%cache: tensor<1x64x32xf32>, %rows: tensor<1x1x32xf32>, %slots: tensor<1x2xi32>) {
  // expected-error@below {{expected slots of type 'tensor<1x1xi32>', but got 'tensor<1x2xi32>'}}
  %k = moe.cache_update %cache, %rows, %slots : (tensor<1x64x32xf32>, tensor<1x1x32xf32>, tensor<1x2xi32>) -> tensor<1x64x32xf32>
  return
}
// mended: tensor<1x2xi32> => tensor<1x1xi32>

// -----

// moe.cache_update (C2)
func.func @f(%cache: tensor<1x64x32xf32>, %rows: tensor<1x1x32xf32>, %slots: tensor<1x1xi32>) {
  // expected-error@below {{expected to be the only user of the cache}}
  %k = moe.cache_update %cache, %rows, %slots : (tensor<1x64x32xf32>, tensor<1x1x32xf32>, tensor<1x1xi32>) -> tensor<1x64x32xf32>
  %again = moe.add %cache, %cache : (tensor<1x64x32xf32>, tensor<1x64x32xf32>) -> tensor<1x64x32xf32>
  return
}
// mended: %cache, %cache : => %k, %k :

// -----

// moe.last_token (C1)
func.func @f(%h: tensor<?x?x64xf32>) {
  // expected-error@below {{expected a result of type 'tensor<?x1x64xf32>', but got 'tensor<?x2x64xf32>'}}
  %y = moe.last_token %h : (tensor<?x?x64xf32>) -> tensor<?x2x64xf32>
  return
}
// mended: tensor<?x2x64xf32> => tensor<?x1x64xf32>

// -----

// moe.last_token (C1)
func.func @f(%h: tensor<?x?x64xf32>) {
  // expected-error@below {{expected a row length of 1, but got 0}}
  %y = moe.last_token %h : (tensor<?x?x64xf32>) -> tensor<?x?x64xf32>
  return
}
// mended: -> tensor<?x?x64xf32> => -> tensor<?x1x64xf32>

// -----

// moe.ffn (C1)
func.func @f(%x: tensor<2x8x64xf32>, %g: tensor<96x64xf32>, %u: tensor<96x64xf32>, %d: tensor<64x96xf32>) {
  // expected-error@below {{failed to verify that all of {input, result} have same type}}
  %y = moe.ffn %x, %g, %u, %d {form = #moe.ffn<gated>, activation = #moe.activation<silu>} : (tensor<2x8x64xf32>, tensor<96x64xf32>, tensor<96x64xf32>, tensor<64x96xf32>) -> tensor<2x8x96xf32>
  return
}
// mended: tensor<2x8x96xf32> => tensor<2x8x64xf32>

// -----

// moe.ffn (C2)
func.func @f(%x: tensor<2x8x64xf32>, %u: tensor<96x64xf32>, %d: tensor<64x96xf32>) {
  // expected-error@below {{expected 3 weights (3 for each expert), but got 2}}
  %y = moe.ffn %x, %u, %d {form = #moe.ffn<gated>, activation = #moe.activation<silu>} : (tensor<2x8x64xf32>, tensor<96x64xf32>, tensor<64x96xf32>) -> tensor<2x8x64xf32>
  return
}
// mended: %x, %u => %x, %u, %u
// mended: (tensor<2x8x64xf32>, => (tensor<2x8x64xf32>, tensor<96x64xf32>,

// -----

// moe.ffn (C2)
func.func @f(%x: tensor<2x8x64xf32>, %g: tensor<96x64xf32>, %u: tensor<96x64xf32>, %d: tensor<96x64xf32>) {
  // expected-error@below {{expected a weight of type 'tensor<64x96xf32>', but got 'tensor<96x64xf32>'}}
  %y = moe.ffn %x, %g, %u, %d {form = #moe.ffn<gated>, activation = #moe.activation<silu>} : (tensor<2x8x64xf32>, tensor<96x64xf32>, tensor<96x64xf32>, tensor<96x64xf32>) -> tensor<2x8x64xf32>
  return
}
// mended: tensor<96x64xf32>) => tensor<64x96xf32>)

// -----

// moe.ffn (C2)
func.func @f(%x: tensor<2x8x64xf32>, %u: tensor<96x64xf32>, %d: tensor<64x96xf32>) {
  // expected-error@below {{expected 4 weights (4 for each expert), but got 2}}
  %y = moe.ffn %x, %u, %d {form = #moe.ffn<plain>, activation = #moe.activation<xielu>} : (tensor<2x8x64xf32>, tensor<96x64xf32>, tensor<64x96xf32>) -> tensor<2x8x64xf32>
  return
}
// mended: activation<xielu> => activation<silu>

// -----

// moe.ffn (C2)
func.func @f(%x: tensor<2x8x64xf32>, %u: tensor<96x64xf32>, %b: tensor<64xf32>, %d: tensor<64x96xf32>, %c: tensor<64xf32>) {
  // expected-error@below {{expected a weight of type 'tensor<96xf32>', but got 'tensor<64xf32>'}}
  %y = moe.ffn %x, %u, %b, %d, %c {form = #moe.ffn<plain>, activation = #moe.activation<gelu>} : (tensor<2x8x64xf32>, tensor<96x64xf32>, tensor<64xf32>, tensor<64x96xf32>, tensor<64xf32>) -> tensor<2x8x64xf32>
  return
}
// mended: %b: tensor<64xf32> => %b: tensor<96xf32>
// mended: tensor<64xf32>, tensor<64x96xf32> => tensor<96xf32>, tensor<64x96xf32>

// -----

// moe.ffn (C3)
func.func @f(%x: tensor<2x8x64xf32>, %g: tensor<96x64xf32>, %u: tensor<96x64xf32>, %d: tensor<64x96xf32>) {
  // expected-error@below {{expected a pre-activation of type 'tensor<16x192xf32>', but got 'tensor<16x96xf32>'}}
  %y, %z = moe.ffn %x, %g, %u, %d {form = #moe.ffn<gated>, activation = #moe.activation<silu>} : (tensor<2x8x64xf32>, tensor<96x64xf32>, tensor<96x64xf32>, tensor<64x96xf32>) -> (tensor<2x8x64xf32>, tensor<16x96xf32>)
  return
}
// mended: tensor<16x96xf32> => tensor<16x192xf32>
