// RUN: moe-opt %s --split-input-file --verify-diagnostics --moe-insert-language-gates

// expected-error@below {{expected a layer with experts to gate, but there is none; moe-upcycle makes them}}
module {
  func.func @forward(%h: tensor<?x?x8xf32> {moe.binding = #moe.binding<input, "tokens">}) -> (tensor<?x?x8xf32> {moe.binding = #moe.binding<output, "logits">}) {
    return %h : tensor<?x?x8xf32>
  }
}

// -----

// expected-error@below {{expected a new name for a parameter of role language_gate, but there is a @mlp.language_gate.weight}}
moe.parameter router @mlp.gate.weight : tensor<3x8xf32> from #moe.init<zeros, seed = 0>
// expected-note@below {{it is here}}
moe.parameter backbone @mlp.language_gate.weight : tensor<2x8xf32> from #moe.init<zeros, seed = 0>
func.func @forward(%h: tensor<?x?x8xf32> {moe.binding = #moe.binding<input, "tokens">}) -> (tensor<?x?x8xf32> {moe.binding = #moe.binding<output, "logits">}) {
  %w = moe.get_parameter @mlp.gate.weight : tensor<3x8xf32>
  %h1 = call @layer(%h, %w) : (tensor<?x?x8xf32>, tensor<3x8xf32>) -> tensor<?x?x8xf32>
  return %h1 : tensor<?x?x8xf32>
}
func.func private @layer(%x: tensor<?x?x8xf32>, %router: tensor<3x8xf32>) -> tensor<?x?x8xf32> {
  %l = moe.router %x, %router : (tensor<?x?x8xf32>, tensor<3x8xf32>) -> tensor<?x?x3xf32>
  %r, %s = moe.route %l {renormalize} : (tensor<?x?x3xf32>) -> (!moe.routes<?x3, 2>, tensor<?x?x2xf32>)
  return %x : tensor<?x?x8xf32>
}

// -----

func.func @forward(%h: tensor<?x?x8xf32> {moe.binding = #moe.binding<input, "tokens">}, %w: tensor<3x8xf32> {moe.binding = #moe.binding<input, "w">}) -> (tensor<?x?x8xf32> {moe.binding = #moe.binding<output, "logits">}) {
  // expected-error@below {{expected operand 1, a router, to be a moe.get_parameter}}
  %h1 = call @layer(%h, %w) : (tensor<?x?x8xf32>, tensor<3x8xf32>) -> tensor<?x?x8xf32>
  return %h1 : tensor<?x?x8xf32>
}
func.func private @layer(%x: tensor<?x?x8xf32>, %router: tensor<3x8xf32>) -> tensor<?x?x8xf32> {
  %l = moe.router %x, %router : (tensor<?x?x8xf32>, tensor<3x8xf32>) -> tensor<?x?x3xf32>
  %r, %s = moe.route %l {renormalize} : (tensor<?x?x3xf32>) -> (!moe.routes<?x3, 2>, tensor<?x?x2xf32>)
  return %x : tensor<?x?x8xf32>
}

// -----

func.func @forward(%h: tensor<?x?x8xf32> {moe.binding = #moe.binding<input, "tokens">}, %l: tensor<?x?x3xf32> {moe.binding = #moe.binding<input, "l">}) -> (tensor<?x?x8xf32> {moe.binding = #moe.binding<output, "logits">}) {
  %h1 = call @layer(%h, %l) : (tensor<?x?x8xf32>, tensor<?x?x3xf32>) -> tensor<?x?x8xf32>
  return %h1 : tensor<?x?x8xf32>
}
func.func private @layer(%x: tensor<?x?x8xf32>, %l: tensor<?x?x3xf32>) -> tensor<?x?x8xf32> {
  // expected-error@below {{expected the logits of a moe.router}}
  %r, %s = moe.route %l {renormalize} : (tensor<?x?x3xf32>) -> (!moe.routes<?x3, 2>, tensor<?x?x2xf32>)
  return %x : tensor<?x?x8xf32>
}

// -----

func.func @forward(%h: tensor<?x?x8xf32> {moe.binding = #moe.binding<input, "tokens">}, %l: tensor<?x?x3xf32> {moe.binding = #moe.binding<input, "l">}) -> (tensor<?x?x8xf32> {moe.binding = #moe.binding<output, "logits">}) {
  %h1 = call @layer(%h, %l) : (tensor<?x?x8xf32>, tensor<?x?x3xf32>) -> tensor<?x?x8xf32>
  return %h1 : tensor<?x?x8xf32>
}
// expected-error@below {{expected one moe.route in a layer, but got 2}}
func.func private @layer(%x: tensor<?x?x8xf32>, %l: tensor<?x?x3xf32>) -> tensor<?x?x8xf32> {
  %r, %s = moe.route %l {renormalize} : (tensor<?x?x3xf32>) -> (!moe.routes<?x3, 2>, tensor<?x?x2xf32>)
  // expected-note@below {{another one is here}}
  %r2, %s2 = moe.route %l : (tensor<?x?x3xf32>) -> (!moe.routes<?x3, 2>, tensor<?x?x2xf32>)
  return %x : tensor<?x?x8xf32>
}

// -----

func.func @forward(%l: tensor<?x?x3xf32> {moe.binding = #moe.binding<input, "l">}) -> (tensor<?x?x2xf32> {moe.binding = #moe.binding<output, "logits">}) {
  // expected-error@below {{expected to be in a function of its own layer, but it is in @forward}}
  %r, %s = moe.route %l {renormalize} : (tensor<?x?x3xf32>) -> (!moe.routes<?x3, 2>, tensor<?x?x2xf32>)
  return %s : tensor<?x?x2xf32>
}
