// RUN: moe-opt %s --convert-moe-to-kernels | FileCheck %s

// Rows of 80 KB are too long for scratch memory. Where tiles pack the weights
// that they multiply by, slices of them are so short that the second cache
// holds those of a block (three chains, and a line of the cache between rows).
// CHECK-LABEL: moe.kernel @routed_down_0
// CHECK: memref.alloca() {alignment = 64 : i64} : memref<108x784xf32>
func.func @down(%x: tensor<2x128x8xf32> {moe.binding = #moe.binding<input, "x">},
                %h: tensor<256x20000xf32> {moe.binding = #moe.binding<input, "h">},
                %routes: !moe.routes<256x3, 1> {moe.binding = #moe.binding<input, "routes">},
                %w: tensor<64x20000xf32> {moe.binding = #moe.binding<input, "w">})
    -> (tensor<256x64xf32> {moe.binding = #moe.binding<output, "y">}) {
  %y = moe.routed_down %h routes(%routes) weights(%w, %w, %w) {form = #moe.ffn<gated>}
    : (tensor<256x20000xf32>, !moe.routes<256x3, 1>, tensor<64x20000xf32>, tensor<64x20000xf32>, tensor<64x20000xf32>) -> tensor<256x64xf32>
  return %y : tensor<256x64xf32>
}
