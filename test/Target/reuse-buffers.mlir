// RUN: moe-opt %s --split-input-file --convert-moe-to-kernels="vector-bytes=64" | FileCheck %s
// RUN: moe-opt %s --split-input-file --convert-moe-to-kernels="vector-bytes=64 writes-gradients" | FileCheck %s --check-prefix=WRITTEN

// What callers only add to a gradient is added where it is made: %dw goes into
// the gradients themselves. One call uses %db otherwise, so both get it from
// memory.
moe.parameter trainable router @w0 : tensor<8x16xf32> from #moe.init<zeros, seed = 0>
moe.parameter trainable router @w1 : tensor<8x16xf32> from #moe.init<zeros, seed = 0>
moe.parameter trainable router @b0 : tensor<8xf32> from #moe.init<zeros, seed = 0>
moe.parameter trainable router @two : tensor<8x16xf32> from #moe.init<zeros, seed = 0>

// Where gradients are written, those of one term are made in their place, and
// those of two are zero first and added to.
// WRITTEN-LABEL: func.func @step
// WRITTEN-SAME: %[[B0:[a-z0-9]+]]: memref<8xf32> {moe.binding = #moe.binding<step_gradient, "b0">}
// WRITTEN-SAME: %[[W0:[a-z0-9]+]]: memref<8x16xf32> {moe.binding = #moe.binding<step_gradient, "w0">}
// WRITTEN-SAME: %[[W1:[a-z0-9]+]]: memref<8x16xf32> {moe.binding = #moe.binding<step_gradient, "w1">}
// WRITTEN: call @layer(%{{.*}}, %{{.*}}, %[[W0]], %[[B0]])
// WRITTEN-NOT: moe.dispatch @accumulate_gradient
// WRITTEN: call @layer(%{{.*}}, %{{.*}}, %[[W1]], %{{.*}})
// WRITTEN-NOT: moe.dispatch @accumulate_gradient
// WRITTEN: return

// CHECK-LABEL: func.func @step
// CHECK-SAME: %[[W0:[a-z0-9]+]]: memref<8x16xf32> {moe.binding = #moe.binding<gradient, "w0">}
// CHECK-SAME: %[[W1:[a-z0-9]+]]: memref<8x16xf32> {moe.binding = #moe.binding<gradient, "w1">}
// CHECK-SAME: %[[B0:[a-z0-9]+]]: memref<8xf32> {moe.binding = #moe.binding<gradient, "b0">}
func.func @step(%x: tensor<1x4x16xf32> {moe.binding = #moe.binding<input, "x">},
                %dy: tensor<1x4x8xf32> {moe.binding = #moe.binding<input, "dy">})
    -> (tensor<8xf32> {moe.binding = #moe.binding<output, "db">}) {
  // CHECK: %[[FIRST:.*]] = memref.alloc() : memref<8xf32>
  // CHECK: call @layer(%{{.*}}, %{{.*}}, %[[W0]], %[[FIRST]])
  %dw0, %db0 = call @layer(%x, %dy) : (tensor<1x4x16xf32>, tensor<1x4x8xf32>) -> (tensor<8x16xf32>, tensor<8xf32>)
  // CHECK: call @layer(%{{.*}}, %{{.*}}, %[[W1]], %{{.*}})
  %dw1, %db1 = call @layer(%x, %dy) : (tensor<1x4x16xf32>, tensor<1x4x8xf32>) -> (tensor<8x16xf32>, tensor<8xf32>)
  // CHECK: moe.dispatch @accumulate_gradient_add_0 [1] (%[[B0]], %[[FIRST]])
  moe.accumulate_gradient @b0, %db0 : tensor<8xf32>
  // CHECK-NOT: moe.dispatch @accumulate_gradient
  moe.accumulate_gradient @w0, %dw0 : tensor<8x16xf32>
  moe.accumulate_gradient @w1, %dw1 : tensor<8x16xf32>
  return %db1 : tensor<8xf32>
}

// CHECK-LABEL: func.func private @layer
// CHECK-SAME: %[[DW:[a-z0-9]+]]: memref<8x16xf32>, %[[DB:[a-z0-9]+]]: memref<8xf32>
// CHECK: moe.dispatch @linear_weight_grad_outer_next_0 [{{.*}}] (%{{.*}}, %{{.*}}, %[[DW]])
// CHECK: moe.dispatch @column_sum{{.*}}, %[[DB]]
func.func private @layer(%x: tensor<1x4x16xf32>, %dy: tensor<1x4x8xf32>)
    -> (tensor<8x16xf32>, tensor<8xf32>) {
  %dw = moe.linear_weight_grad %dy, %x : (tensor<1x4x8xf32>, tensor<1x4x16xf32>) -> tensor<8x16xf32>
  %db = moe.column_sum %dy : (tensor<1x4x8xf32>) -> tensor<8xf32>
  return %dw, %db : tensor<8x16xf32>, tensor<8xf32>
}

// WRITTEN-LABEL: func.func @shared
// WRITTEN: moe.dispatch @linear_weight_grad_outer{{.*}}, %[[A:[a-z0-9_]+]]) :
// WRITTEN: moe.dispatch @linear_weight_grad_outer{{.*}}, %[[B:[a-z0-9_]+]]) :
// WRITTEN: moe.dispatch @accumulate_gradient_fill_0 [1] (%[[TWO:.*]]) : memref<8x16xf32>
// WRITTEN-NEXT: moe.dispatch @accumulate_gradient_add_0 [1] (%[[TWO]], %[[A]])
// WRITTEN-NEXT: moe.dispatch @accumulate_gradient_add_0 [1] (%[[TWO]], %[[B]])
func.func @shared(%x: tensor<1x4x16xf32> {moe.binding = #moe.binding<input, "x">},
                  %dy: tensor<1x4x8xf32> {moe.binding = #moe.binding<input, "dy">}) {
  %a = moe.linear_weight_grad %dy, %x : (tensor<1x4x8xf32>, tensor<1x4x16xf32>) -> tensor<8x16xf32>
  %b = moe.linear_weight_grad %dy, %x : (tensor<1x4x8xf32>, tensor<1x4x16xf32>) -> tensor<8x16xf32>
  moe.accumulate_gradient @two, %a : tensor<8x16xf32>
  moe.accumulate_gradient @two, %b : tensor<8x16xf32>
  return
}

// -----

// A function whose result is the only term of one gradient and one of two of
// another adds it everywhere: both are zero first.
moe.parameter trainable router @one : tensor<8x16xf32> from #moe.init<zeros, seed = 0>
moe.parameter trainable router @two : tensor<8x16xf32> from #moe.init<zeros, seed = 0>

// WRITTEN-LABEL: func.func @mixed
// WRITTEN: moe.dispatch @accumulate_gradient_fill_0 [1] (%[[ONE:.*]]) : memref<8x16xf32>
// WRITTEN-NEXT: call @layer(%{{.*}}, %{{.*}}, %[[ONE]])
// WRITTEN-NEXT: moe.dispatch @accumulate_gradient_fill_0 [1] (%[[TWO:.*]]) : memref<8x16xf32>
// WRITTEN-NEXT: call @layer(%{{.*}}, %{{.*}}, %[[TWO]])
// WRITTEN-NEXT: call @layer(%{{.*}}, %{{.*}}, %[[TWO]])
// WRITTEN-NEXT: return
func.func @mixed(%x: tensor<1x4x16xf32> {moe.binding = #moe.binding<input, "x">},
                 %dy: tensor<1x4x8xf32> {moe.binding = #moe.binding<input, "dy">}) {
  %a = call @layer(%x, %dy) : (tensor<1x4x16xf32>, tensor<1x4x8xf32>) -> tensor<8x16xf32>
  %b = call @layer(%x, %dy) : (tensor<1x4x16xf32>, tensor<1x4x8xf32>) -> tensor<8x16xf32>
  %c = call @layer(%x, %dy) : (tensor<1x4x16xf32>, tensor<1x4x8xf32>) -> tensor<8x16xf32>
  moe.accumulate_gradient @one, %a : tensor<8x16xf32>
  moe.accumulate_gradient @two, %b : tensor<8x16xf32>
  moe.accumulate_gradient @two, %c : tensor<8x16xf32>
  return
}
func.func private @layer(%x: tensor<1x4x16xf32>, %dy: tensor<1x4x8xf32>) -> tensor<8x16xf32> {
  %dw = moe.linear_weight_grad %dy, %x : (tensor<1x4x8xf32>, tensor<1x4x16xf32>) -> tensor<8x16xf32>
  return %dw : tensor<8x16xf32>
}

// -----

// The gradient of a pre-activation takes its place where nobody reads it again,
// in any call: %z of @once, but not of @twice, nor one that the caller owns.
// CHECK-LABEL: func.func @step
func.func @step(%dy: tensor<1x4x16xf32> {moe.binding = #moe.binding<input, "dy">},
                %down: tensor<16x32xf32> {moe.binding = #moe.binding<input, "down">},
                %mine: tensor<4x64xf32> {moe.binding = #moe.binding<input, "mine">})
    -> (tensor<4x64xf32> {moe.binding = #moe.binding<output, "a">},
        tensor<4x64xf32> {moe.binding = #moe.binding<output, "b">},
        tensor<4x64xf32> {moe.binding = #moe.binding<output, "c">}) {
  %z = moe.add %mine, %mine : (tensor<4x64xf32>, tensor<4x64xf32>) -> tensor<4x64xf32>
  %a = call @twice(%dy, %down, %z) : (tensor<1x4x16xf32>, tensor<16x32xf32>, tensor<4x64xf32>) -> tensor<4x64xf32>
  %b = call @once(%dy, %down, %z) : (tensor<1x4x16xf32>, tensor<16x32xf32>, tensor<4x64xf32>) -> tensor<4x64xf32>
  %c = call @twice(%dy, %down, %mine) : (tensor<1x4x16xf32>, tensor<16x32xf32>, tensor<4x64xf32>) -> tensor<4x64xf32>
  return %a, %b, %c : tensor<4x64xf32>, tensor<4x64xf32>, tensor<4x64xf32>
}

// CHECK-LABEL: func.func private @once
// CHECK-SAME: %[[DY:[a-z0-9]+]]: memref<1x4x16xf32>, %{{.*}}: memref<16x32xf32>, %[[Z:[a-z0-9]+]]: memref<4x64xf32>
// CHECK: moe.dispatch @routed_down_grad_0 [{{.*}}] (%[[DY]], %[[Z]], %{{.*}}) :
func.func private @once(%dy: tensor<1x4x16xf32>, %down: tensor<16x32xf32>, %z: tensor<4x64xf32>) -> tensor<4x64xf32> {
  %dz = moe.routed_down_grad %dy preactivation(%z) weights(%down) {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (tensor<1x4x16xf32>, tensor<4x64xf32>, tensor<16x32xf32>) -> tensor<4x64xf32>
  %sum = moe.add %dz, %dz : (tensor<4x64xf32>, tensor<4x64xf32>) -> tensor<4x64xf32>
  return %sum : tensor<4x64xf32>
}

// CHECK-LABEL: func.func private @twice
// CHECK-SAME: %[[DY:[a-z0-9]+]]: memref<1x4x16xf32>, %{{.*}}: memref<16x32xf32>, %[[Z:[a-z0-9]+]]: memref<4x64xf32>
// CHECK: %[[DZ:.*]] = memref.alloc() : memref<4x64xf32>
// CHECK: moe.dispatch @routed_down_grad_1 [{{.*}}] (%[[DY]], %[[Z]], %[[DZ]], %{{.*}}) :
func.func private @twice(%dy: tensor<1x4x16xf32>, %down: tensor<16x32xf32>, %z: tensor<4x64xf32>) -> tensor<4x64xf32> {
  %dz = moe.routed_down_grad %dy preactivation(%z) weights(%down) {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (tensor<1x4x16xf32>, tensor<4x64xf32>, tensor<16x32xf32>) -> tensor<4x64xf32>
  %sum = moe.add %dz, %dz : (tensor<4x64xf32>, tensor<4x64xf32>) -> tensor<4x64xf32>
  return %sum : tensor<4x64xf32>
}
