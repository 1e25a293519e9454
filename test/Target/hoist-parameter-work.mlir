// RUN: moe-opt %s --moe-hoist-parameter-work | FileCheck %s --check-prefixes=CHECK,ALL
// RUN: moe-opt %s --moe-hoist-parameter-work=packed-once=frozen | FileCheck %s --check-prefixes=CHECK,FROZEN

moe.parameter backbone @a : tensor<16x8xf32> from #moe.init<zeros, seed = 0>
moe.parameter backbone @b : tensor<16x8xf32> from #moe.init<zeros, seed = 0>
moe.parameter trainable expert @c : tensor<16x8xf32> from #moe.init<zeros, seed = 0>

moe.kernel @pack(%item: index, %w: memref<16x8xf32>, %p: memref<2x8x16xf32>) {}
moe.kernel @use(%item: index, %x: memref<4x8xf32>, %p: memref<2x8x16xf32>) {}
moe.kernel @use_two(%item: index, %x: memref<4x8xf32>, %p: memref<2x8x16xf32>, %q: memref<2x8x16xf32>) {}
moe.kernel @use_table(%item: index, %x: memref<4x8xf32>, %t: !moe.table) {}
moe.kernel @make(%item: index, %w: memref<16x8xf32>) {}

// A buffer becomes an argument; equal work is done once.
// CHECK-LABEL: func private @frozen_layer
// CHECK-SAME: (%[[X:.*]]: memref<4x8xf32>, %[[W:.*]]: memref<16x8xf32>, %[[P:.*]]: memref<2x8x16xf32>)
// CHECK-NEXT: moe.dispatch @use_two [1] (%[[X]], %[[P]], %[[P]])
// CHECK-NEXT: return
func.func private @frozen_layer(%x: memref<4x8xf32>, %w: memref<16x8xf32>) {
  %p = memref.alloc() : memref<2x8x16xf32>
  moe.dispatch @pack [2](%w, %p) {derives = "transposed.16"} : memref<16x8xf32>, memref<2x8x16xf32>
  %q = memref.alloc() : memref<2x8x16xf32>
  moe.dispatch @pack [2](%w, %q) {derives = "transposed.16"} : memref<16x8xf32>, memref<2x8x16xf32>
  moe.dispatch @use_two [1](%x, %p, %q) : memref<4x8xf32>, memref<2x8x16xf32>, memref<2x8x16xf32>
  return
}

// One of its calls passes what trains.
// CHECK-LABEL: func private @mixed_layer
// ALL-SAME: memref<2x8x16xf32>)
// FROZEN-NEXT: memref.alloc
// FROZEN-NEXT: moe.dispatch @pack
func.func private @mixed_layer(%x: memref<4x8xf32>, %w: memref<16x8xf32>) {
  %p = memref.alloc() : memref<2x8x16xf32>
  moe.dispatch @pack [2](%w, %p) {derives = "transposed.16"} : memref<16x8xf32>, memref<2x8x16xf32>
  moe.dispatch @use [1](%x, %p) : memref<4x8xf32>, memref<2x8x16xf32>
  return
}

// One table holds what stays and what could leave: both stay.
// CHECK-LABEL: func private @experts
// ALL-SAME: memref<2x8x16xf32>, %{{.*}}: memref<2x8x16xf32>)
// FROZEN-COUNT-2: moe.dispatch @pack
func.func private @experts(%x: memref<4x8xf32>, %frozen: memref<16x8xf32>, %w: memref<16x8xf32>) {
  %p = memref.alloc() : memref<2x8x16xf32>
  moe.dispatch @pack [2](%frozen, %p) {derives = "transposed.16"} : memref<16x8xf32>, memref<2x8x16xf32>
  %q = memref.alloc() : memref<2x8x16xf32>
  moe.dispatch @pack [2](%w, %q) {derives = "transposed.16"} : memref<16x8xf32>, memref<2x8x16xf32>
  %t = moe.pointer_table %p, %q : memref<2x8x16xf32>, memref<2x8x16xf32>
  moe.dispatch @use_table [1](%x, %t) : memref<4x8xf32>, !moe.table
  return
}

// What is computed is no parameter, whoever else calls.
// CHECK-LABEL: func private @computed
// CHECK: memref.alloc
// CHECK-NEXT: moe.dispatch @pack
func.func private @computed(%x: memref<4x8xf32>, %w: memref<16x8xf32>) {
  %p = memref.alloc() : memref<2x8x16xf32>
  moe.dispatch @pack [2](%w, %p) {derives = "transposed.16"} : memref<16x8xf32>, memref<2x8x16xf32>
  moe.dispatch @use [1](%x, %p) : memref<4x8xf32>, memref<2x8x16xf32>
  return
}

// CHECK-LABEL: func @score
// CHECK-SAME: %[[PA:[a-z0-9]*]]: memref<2x8x16xf32> {moe.binding = #moe.binding<packed, "a.transposed.16">}
// CHECK-SAME: %[[PB:[a-z0-9]*]]: memref<2x8x16xf32> {moe.binding = #moe.binding<packed, "b.transposed.16">}
// ALL-SAME: #moe.binding<packed, "c.transposed.16">
// FROZEN-NOT: #moe.binding<packed, "c.transposed.16">
// CHECK-NOT: moe.dispatch @pack [2] (%{{.*}}) {derives
// CHECK: call @frozen_layer(%{{.*}}, %{{.*}}, %[[PA]])
// CHECK: call @frozen_layer(%{{.*}}, %{{.*}}, %[[PB]])
// ALL: call @mixed_layer(%{{.*}}, %{{.*}}, %[[PA]])
// FROZEN: call @mixed_layer(%{{[a-z0-9]*}}, %{{[a-z0-9]*}}) :
// ALL: call @experts(%{{.*}}, %{{.*}}, %{{.*}}, %[[PA]], %{{.*}})
// FROZEN: call @experts(%{{[a-z0-9]*}}, %{{[a-z0-9]*}}, %{{[a-z0-9]*}}) :
// CHECK: return
func.func @score(%x: memref<4x8xf32> {moe.binding = #moe.binding<input, "x">},
                 %a: memref<16x8xf32> {moe.binding = #moe.binding<parameter, "a">},
                 %b: memref<16x8xf32> {moe.binding = #moe.binding<parameter, "b">},
                 %c: memref<16x8xf32> {moe.binding = #moe.binding<parameter, "c">}) {
  %t = memref.alloc() : memref<16x8xf32>
  call @frozen_layer(%x, %a) : (memref<4x8xf32>, memref<16x8xf32>) -> ()
  call @frozen_layer(%x, %b) : (memref<4x8xf32>, memref<16x8xf32>) -> ()
  call @mixed_layer(%x, %a) : (memref<4x8xf32>, memref<16x8xf32>) -> ()
  call @mixed_layer(%x, %c) : (memref<4x8xf32>, memref<16x8xf32>) -> ()
  call @experts(%x, %a, %c) : (memref<4x8xf32>, memref<16x8xf32>, memref<16x8xf32>) -> ()
  moe.dispatch @make [1](%t) : memref<16x8xf32>
  call @computed(%x, %t) : (memref<4x8xf32>, memref<16x8xf32>) -> ()
  call @computed(%x, %a) : (memref<4x8xf32>, memref<16x8xf32>) -> ()
  return
}

// CHECK-LABEL: func @prepare_frozen
// CHECK-SAME: %[[A:[a-z0-9]*]]: memref<16x8xf32> {moe.binding = #moe.binding<parameter, "a">}
// CHECK-SAME: %[[TO:[a-z0-9]*]]: memref<2x8x16xf32> {moe.binding = #moe.binding<packed, "a.transposed.16">}
// CHECK: moe.dispatch @pack [2] (%[[A]], %[[TO]]) {derives = "transposed.16"}
// CHECK-NEXT: moe.dispatch @pack
// CHECK-NEXT: return
// ALL-LABEL: func @prepare_trainable
// ALL-SAME: #moe.binding<parameter, "c">
// FROZEN-NOT: @prepare_trainable
