// RUN: moe-opt %s --moe-fuse-routed-matmuls --verify-diagnostics

func.func @dynamic(%x: tensor<?x?x8xf32>, %g: tensor<16x8xf32>, %d: tensor<8x16xf32>) -> tensor<?x?x8xf32> {
  // expected-error @below {{expected a static shape, but got 'tensor<?x?x8xf32>'}}
  %y = moe.ffn %x, %g, %g, %d {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (tensor<?x?x8xf32>, tensor<16x8xf32>, tensor<16x8xf32>, tensor<8x16xf32>) -> tensor<?x?x8xf32>
  return %y : tensor<?x?x8xf32>
}
