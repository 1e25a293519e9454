// RUN: moe-opt %s --moe-verify-level="level=model" --split-input-file --verify-diagnostics

// expected-error@below {{expected argument 0 of an entry point to be bound}}
func.func @forward(%x: tensor<?x?x16xf32>) -> (tensor<?x?x16xf32> {moe.binding = #moe.binding<output, "logits">}) {
  return %x : tensor<?x?x16xf32>
}

// -----

// expected-error@below {{expected result 0 of an entry point to be bound}}
func.func @forward(%x: tensor<?x?xi32> {moe.binding = #moe.binding<input, "tokens">}) -> tensor<?x?xi32> {
  return %x : tensor<?x?xi32>
}

// -----

// expected-error@below {{expected a static shape but for its two leading dimensions at level model, but got 'tensor<?x?x?xf32>'}}
func.func private @a_dynamic_width(%x: tensor<?x?x?xf32>)

// -----

func.func private @a_loss(%l: tensor<?x?x16xf32>, %labels: tensor<?x?xi32>, %w: tensor<f32>) -> tensor<f32> {
  // expected-error@below {{does not belong to level model}}
  %loss = moe.cross_entropy %l, %labels, %w : (tensor<?x?x16xf32>, tensor<?x?xi32>, tensor<f32>) -> tensor<f32>
  return %loss : tensor<f32>
}
