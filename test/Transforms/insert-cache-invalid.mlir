// RUN: moe-opt %s --moe-insert-cache --split-input-file --verify-diagnostics

// expected-error@below {{expected a moe.attention to give a cache to}}
func.func @forward(%x: tensor<?x?x16xf32>) -> (tensor<?x?x16xf32> {moe.binding = #moe.binding<output, "logits">}) {
  return %x : tensor<?x?x16xf32>
}
