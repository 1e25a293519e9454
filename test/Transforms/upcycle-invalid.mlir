// RUN: moe-opt %s --moe-upcycle="experts=2" --split-input-file --verify-diagnostics

// expected-error@below {{expected a model with a function @forward}}
module {
}

// -----

// expected-error@below {{expected calls of layers with a moe.ffn, but there is none}}
func.func @forward(%x: tensor<?x?x8xf32>) -> tensor<?x?x8xf32> {
  return %x : tensor<?x?x8xf32>
}

// -----

func.func @forward(%x: tensor<?x?x8xf32>, %g: tensor<12x8xf32>, %d: tensor<8x12xf32>) -> tensor<?x?x8xf32> {
  // expected-error@below {{expected to be in a function of its own layer, but it is in @forward}}
  %y = moe.ffn %x, %g, %g, %d {form = #moe.ffn<gated>, activation = #moe.activation<silu>} : (tensor<?x?x8xf32>, tensor<12x8xf32>, tensor<12x8xf32>, tensor<8x12xf32>) -> tensor<?x?x8xf32>
  return %y : tensor<?x?x8xf32>
}

// -----

func.func @forward(%x: tensor<?x?x8xf32>, %g: tensor<12x8xf32>, %d: tensor<8x12xf32>) -> tensor<?x?x8xf32> {
  // expected-error@below {{expected operand 1, a weight of an FFN, to be a moe.get_parameter}}
  %y = call @layer(%x, %g, %g, %d) : (tensor<?x?x8xf32>, tensor<12x8xf32>, tensor<12x8xf32>, tensor<8x12xf32>) -> tensor<?x?x8xf32>
  return %y : tensor<?x?x8xf32>
}
func.func private @layer(%x: tensor<?x?x8xf32>, %g: tensor<12x8xf32>, %u: tensor<12x8xf32>, %d: tensor<8x12xf32>) -> tensor<?x?x8xf32> {
  %y = moe.ffn %x, %g, %u, %d {form = #moe.ffn<gated>, activation = #moe.activation<silu>} : (tensor<?x?x8xf32>, tensor<12x8xf32>, tensor<12x8xf32>, tensor<8x12xf32>) -> tensor<?x?x8xf32>
  return %y : tensor<?x?x8xf32>
}

// -----

moe.parameter backbone @p.g : tensor<12x8xf32> from #moe.checkpoint<"m", "g">
// expected-error@below {{expected a new name for a parameter of role router, but there is a @p.gate.weight}}
moe.parameter backbone @p.d : tensor<8x12xf32> from #moe.checkpoint<"m", "d">
// expected-note@below {{it is here}}
moe.parameter backbone @p.gate.weight : tensor<2x8xf32> from #moe.checkpoint<"m", "r">
func.func @forward(%x: tensor<?x?x8xf32>) -> tensor<?x?x8xf32> {
  %g = moe.get_parameter @p.g : tensor<12x8xf32>
  %d = moe.get_parameter @p.d : tensor<8x12xf32>
  %y = call @layer(%x, %g, %g, %d) : (tensor<?x?x8xf32>, tensor<12x8xf32>, tensor<12x8xf32>, tensor<8x12xf32>) -> tensor<?x?x8xf32>
  return %y : tensor<?x?x8xf32>
}
func.func private @layer(%x: tensor<?x?x8xf32>, %g: tensor<12x8xf32>, %u: tensor<12x8xf32>, %d: tensor<8x12xf32>) -> tensor<?x?x8xf32> {
  %y = moe.ffn %x, %g, %u, %d {form = #moe.ffn<gated>, activation = #moe.activation<silu>} : (tensor<?x?x8xf32>, tensor<12x8xf32>, tensor<12x8xf32>, tensor<8x12xf32>) -> tensor<?x?x8xf32>
  return %y : tensor<?x?x8xf32>
}

// -----

// expected-error@below {{expected one moe.ffn in a layer, but got 2}}
func.func private @layer(%x: tensor<?x?x8xf32>, %g: tensor<12x8xf32>, %d: tensor<8x12xf32>) -> tensor<?x?x8xf32> {
  %y = moe.ffn %x, %g, %g, %d {form = #moe.ffn<gated>, activation = #moe.activation<silu>} : (tensor<?x?x8xf32>, tensor<12x8xf32>, tensor<12x8xf32>, tensor<8x12xf32>) -> tensor<?x?x8xf32>
  // expected-note@below {{another one is here}}
  %z = moe.ffn %y, %g, %g, %d {form = #moe.ffn<gated>, activation = #moe.activation<silu>} : (tensor<?x?x8xf32>, tensor<12x8xf32>, tensor<12x8xf32>, tensor<8x12xf32>) -> tensor<?x?x8xf32>
  return %z : tensor<?x?x8xf32>
}
func.func @forward(%x: tensor<?x?x8xf32>, %g: tensor<12x8xf32>, %d: tensor<8x12xf32>) -> tensor<?x?x8xf32> {
  %y = call @layer(%x, %g, %d) : (tensor<?x?x8xf32>, tensor<12x8xf32>, tensor<8x12xf32>) -> tensor<?x?x8xf32>
  return %y : tensor<?x?x8xf32>
}

// -----

func.func @forward(%x: tensor<?x?x8xf32>) -> tensor<?x?x8xf32> {
  %y = call @layer(%x) : (tensor<?x?x8xf32>) -> tensor<?x?x8xf32>
  return %y : tensor<?x?x8xf32>
}
func.func private @layer(%x: tensor<?x?x8xf32>) -> tensor<?x?x8xf32> {
  // expected-error@below {{expected a weight of an FFN to be an argument of the layer}}
  %g = moe.get_parameter @g : tensor<12x8xf32>
  %d = moe.get_parameter @d : tensor<8x12xf32>
  %y = moe.ffn %x, %g, %g, %d {form = #moe.ffn<gated>, activation = #moe.activation<silu>} : (tensor<?x?x8xf32>, tensor<12x8xf32>, tensor<12x8xf32>, tensor<8x12xf32>) -> tensor<?x?x8xf32>
  return %y : tensor<?x?x8xf32>
}
moe.parameter backbone @g : tensor<12x8xf32> from #moe.checkpoint<"m", "g">
moe.parameter backbone @d : tensor<8x12xf32> from #moe.checkpoint<"m", "d">
