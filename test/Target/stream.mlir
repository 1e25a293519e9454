// RUN: moe-opt %s --convert-moe-to-kernels="vector-bytes=64" | FileCheck %s
// RUN: moe-opt %s --convert-moe-to-kernels="vector-bytes=32" | FileCheck %s --check-prefix=PLAIN
// RUN: sed 's/16x32x/16x40x/g; s/4x64x/4x80x/g' %s | moe-opt --convert-moe-to-kernels="vector-bytes=64" | FileCheck %s --check-prefix=PLAIN
// RUN: sed 's/f32/bf16/g' %s | moe-opt --convert-moe-to-kernels="vector-bytes=64 bf16-products=pairs" | FileCheck %s --check-prefix=PLAIN

// What is read much later goes past the caches, and a fence orders it before
// what tells other threads that the tile is done. Only vectors of whole lines
// do: not narrow ones, not where a row ends inside a line, not bf16.
// CHECK-LABEL: moe.kernel @routed_down_grad_0
// CHECK: memref.prefetch
// CHECK: vector.store {{.*}}nontemporal = true
// CHECK: llvm.call_intrinsic "llvm.x86.sse.sfence"
// CHECK-NOT: sfence
// PLAIN-LABEL: moe.kernel @routed_down_grad_0
// PLAIN-NOT: nontemporal
// PLAIN-NOT: sfence
func.func @f(%dy: tensor<1x4x16xf32> {moe.binding = #moe.binding<input, "dy">},
             %down: tensor<16x32xf32> {moe.binding = #moe.binding<input, "down">},
             %z: tensor<4x64xf32> {moe.binding = #moe.binding<input, "z">})
    -> (tensor<4x64xf32> {moe.binding = #moe.binding<output, "dz">}) {
  %dz = moe.routed_down_grad %dy preactivation(%z) weights(%down) {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (tensor<1x4x16xf32>, tensor<4x64xf32>, tensor<16x32xf32>) -> tensor<4x64xf32>
  return %dz : tensor<4x64xf32>
}
