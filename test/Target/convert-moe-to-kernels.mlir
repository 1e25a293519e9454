// RUN: moe-opt %s --convert-moe-to-kernels="vector-bytes=64" | FileCheck %s
// RUN: moe-opt %s --convert-moe-to-kernels="vector-bytes=32" | FileCheck %s --check-prefix=NARROW
// RUN: not moe-opt %s --convert-moe-to-kernels="vector-bytes=64" --convert-moe-to-kernels="vector-bytes=64" 2>&1 | FileCheck %s --check-prefix=AGAIN
// AGAIN: error: {{.*}} op expected tensors of static shape with elements, or routes of static size, but got 'memref<1x4x32xf32>'

moe.parameter backbone @w : tensor<48x32xf32> from #moe.init<zeros, seed = 0>

// Results are arguments, and so are parameters of entry points; what is between
// ops has memory. Weights are packed before they are multiplied.
// CHECK-LABEL: func.func @f
// CHECK-SAME: (%[[X:.*]]: memref<1x4x32xf32> {moe.binding = #moe.binding<input, "x">}
// CHECK-SAME: %[[Y:.*]]: memref<1x4x48xf32> {moe.binding = #moe.binding<output, "y">}
// CHECK-SAME: %[[W:.*]]: memref<48x32xf32> {moe.binding = #moe.binding<parameter, "w">})
// CHECK: %[[SUM:.*]] = memref.alloc() : memref<1x4x32xf32>
// CHECK: moe.dispatch @add_0 [1] (%[[X]], %[[SUM]])
// CHECK: %[[TWICE:.*]] = memref.alloc() : memref<1x4x32xf32>
// CHECK: moe.dispatch @add_0 [1] (%[[SUM]], %[[TWICE]])
// CHECK: %[[PANELS:.*]] = memref.alloc() : memref<4x32x16xf32>
// CHECK: moe.dispatch @linear_pack_0 [{{.*}}] (%[[W]], %[[PANELS]]) {derives = "transposed.16"}
// CHECK: moe.dispatch @linear_matmul_0 [{{.*}}] (%[[TWICE]], %[[PANELS]], %[[Y]],
// CHECK-NEXT: return
func.func @f(%x: tensor<1x4x32xf32> {moe.binding = #moe.binding<input, "x">})
    -> (tensor<1x4x48xf32> {moe.binding = #moe.binding<output, "y">}) {
  %w = moe.get_parameter @w : tensor<48x32xf32>
  %sum = moe.add %x, %x : (tensor<1x4x32xf32>, tensor<1x4x32xf32>) -> tensor<1x4x32xf32>
  %twice = moe.add %sum, %sum : (tensor<1x4x32xf32>, tensor<1x4x32xf32>) -> tensor<1x4x32xf32>
  %y = moe.linear %twice, %w : (tensor<1x4x32xf32>, tensor<48x32xf32>) -> tensor<1x4x48xf32>
  return %y : tensor<1x4x48xf32>
}

// Equal launches share one kernel, which takes every buffer once and tells what
// it costs.
// CHECK-LABEL: moe.kernel @add_0(%{{.*}}: index, %{{.*}}: memref<1x4x32xf32>, %{{.*}}: memref<1x4x32xf32>)
// CHECK-SAME: bytes = 1.024000e+03 : f64
// CHECK: vector.load {{.*}} vector<16xf32>
// CHECK-NOT: moe.kernel @add_1

// 4 x 32 x 48 multiply-adds, in a register tile as high as there are rows.
// CHECK-LABEL: moe.kernel @linear_matmul_0
// CHECK-SAME: flops = 1.228800e+04 : f64
// CHECK-COUNT-8: math.fma

// NARROW: memref.alloc() : memref<6x32x8xf32>
// NARROW: moe.kernel @add_0
// NARROW: vector.load {{.*}} vector<8xf32>
