// RUN: moe-opt %s --split-input-file --verify-diagnostics --moe-route-by-group

// expected-error@below {{expected a model with groups of languages (moe.groups), but it has none; moe-group-languages makes them}}
module {
func.func @forward(%tokens: tensor<?x?xi32> {moe.binding = #moe.binding<input, "tokens">}, %h: tensor<?x?x8xf32> {moe.binding = #moe.binding<input, "x">}, %g: tensor<2x8xf32> {moe.binding = #moe.binding<input, "y">}) -> (tensor<?x?x8xf32> {moe.binding = #moe.binding<output, "logits">}) {
  %h0 = call @layer(%h, %g) : (tensor<?x?x8xf32>, tensor<2x8xf32>) -> tensor<?x?x8xf32>
  return %h0 : tensor<?x?x8xf32>
}
func.func private @layer(%x: tensor<?x?x8xf32>, %gate: tensor<2x8xf32>) -> tensor<?x?x8xf32> {
  %l = moe.router %x, %gate : (tensor<?x?x8xf32>, tensor<2x8xf32>) -> tensor<?x?x2xf32>
  %r, %s = moe.route %l {renormalize} : (tensor<?x?x2xf32>) -> (!moe.routes<?x2, 2>, tensor<?x?x2xf32>)
  return %x : tensor<?x?x8xf32>
}
}

// -----

module attributes {moe.groups = {el = 0, en = 1, hu = 2}} {
func.func @forward(%tokens: tensor<?x?xi32> {moe.binding = #moe.binding<input, "tokens">}, %h: tensor<?x?x8xf32> {moe.binding = #moe.binding<input, "x">}, %g: tensor<2x8xf32> {moe.binding = #moe.binding<input, "y">}) -> (tensor<?x?x8xf32> {moe.binding = #moe.binding<output, "logits">}) {
  %h0 = call @layer(%h, %g) : (tensor<?x?x8xf32>, tensor<2x8xf32>) -> tensor<?x?x8xf32>
  return %h0 : tensor<?x?x8xf32>
}
func.func private @layer(%x: tensor<?x?x8xf32>, %gate: tensor<2x8xf32>) -> tensor<?x?x8xf32> {
  %l = moe.router %x, %gate : (tensor<?x?x8xf32>, tensor<2x8xf32>) -> tensor<?x?x2xf32>
  // expected-error@below {{expected an expert for each of 3 groups of languages, but got 2}}
  %r, %s = moe.route %l {renormalize} : (tensor<?x?x2xf32>) -> (!moe.routes<?x2, 2>, tensor<?x?x2xf32>)
  return %x : tensor<?x?x8xf32>
}
}

// -----

module attributes {moe.groups = {el = 0, en = 1}} {
func.func @forward(%tokens: tensor<?x?xi32> {moe.binding = #moe.binding<input, "tokens">}, %h: tensor<?x?x8xf32> {moe.binding = #moe.binding<input, "x">}, %g: tensor<2x8xf32> {moe.binding = #moe.binding<input, "y">}) -> (tensor<?x?x8xf32> {moe.binding = #moe.binding<output, "logits">}) {
  %h0 = call @layer(%h, %g) : (tensor<?x?x8xf32>, tensor<2x8xf32>) -> tensor<?x?x8xf32>
  return %h0 : tensor<?x?x8xf32>
}
func.func private @layer(%x: tensor<?x?x8xf32>, %gate: tensor<2x8xf32>) -> tensor<?x?x8xf32> {
  %l = moe.router %x, %gate : (tensor<?x?x8xf32>, tensor<2x8xf32>) -> tensor<?x?x2xf32>
  // expected-error@below {{expected a route that follows its router, but its expert is forced}}
  %r, %s = moe.route %l {forced_expert = 1 : i64} : (tensor<?x?x2xf32>) -> (!moe.routes<?x2, 1>, tensor<?x?x1xf32>)
  return %x : tensor<?x?x8xf32>
}
}

// -----

// expected-error@below {{expected a layer with experts to route to, but there is none}}
module attributes {moe.groups = {el = 0, en = 1}} {
func.func @forward(%tokens: tensor<?x?xi32> {moe.binding = #moe.binding<input, "tokens">}, %h: tensor<?x?x8xf32> {moe.binding = #moe.binding<input, "x">}, %g: tensor<2x8xf32> {moe.binding = #moe.binding<input, "y">}) -> (tensor<?x?x8xf32> {moe.binding = #moe.binding<output, "logits">}) {
  %h0 = call @layer(%h, %g) : (tensor<?x?x8xf32>, tensor<2x8xf32>) -> tensor<?x?x8xf32>
  return %h0 : tensor<?x?x8xf32>
}
func.func private @layer(%x: tensor<?x?x8xf32>, %gate: tensor<2x8xf32>) -> tensor<?x?x8xf32> {
  return %x : tensor<?x?x8xf32>
}
}
