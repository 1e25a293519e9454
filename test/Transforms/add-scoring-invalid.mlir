// RUN: moe-opt %s --moe-add-scoring --split-input-file --verify-diagnostics

// expected-error@below {{expected an argument with moe.binding = #moe.binding<input, "tokens">}}
func.func @forward(%x: tensor<?x?x16xf32>) -> (tensor<?x?x16xf32> {moe.binding = #moe.binding<output, "logits">}) {
  return %x : tensor<?x?x16xf32>
}

// -----

// expected-error@below {{expected a result with moe.binding = #moe.binding<output, "logits">}}
func.func @forward(%tokens: tensor<?x?xi32> {moe.binding = #moe.binding<input, "tokens">}, %x: tensor<?x?x16xf32>) -> tensor<?x?x16xf32> {
  return %x : tensor<?x?x16xf32>
}
