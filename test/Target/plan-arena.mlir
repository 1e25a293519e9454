// RUN: moe-opt %s --moe-plan-arena | FileCheck %s

moe.kernel @kernel(%item: index, %from: memref<4xf32>, %to: memref<4xf32>) {}
moe.kernel @widen(%item: index, %from: memref<4xf32>, %to: memref<8xf32>) {}
moe.kernel @narrow(%item: index, %from: memref<8xf32>, %to: memref<4xf32>) {}

// A buffer takes the place of one that nothing reads any more: %a and %c lie in
// the same 64 bytes, %b between them in time lies beside both.
// CHECK-LABEL: func.func private @layer
// CHECK-SAME: (%[[X:.*]]: memref<4xf32>, %[[Y:.*]]: memref<4xf32>, %[[ARENA:.*]]: memref<128xi8>)
// CHECK: %[[ZERO:.*]] = arith.constant 0 : index
// CHECK: %[[A:.*]] = memref.view %[[ARENA]][%[[ZERO]]][] : memref<128xi8> to memref<4xf32>
// CHECK: %[[NEXT:.*]] = arith.constant 64 : index
// CHECK: %[[B:.*]] = memref.view %[[ARENA]][%[[NEXT]]][] : memref<128xi8> to memref<4xf32>
// CHECK: moe.dispatch @kernel [1] (%[[A]], %[[B]])
// CHECK: %[[AGAIN:.*]] = arith.constant 0 : index
// CHECK: %[[C:.*]] = memref.view %[[ARENA]][%[[AGAIN]]][] : memref<128xi8> to memref<8xf32>
// CHECK: moe.dispatch @widen [1] (%[[B]], %[[C]])
func.func private @layer(%x: memref<4xf32>, %y: memref<4xf32>) {
  %a = memref.alloc() : memref<4xf32>
  moe.dispatch @kernel [1] (%x, %a) : memref<4xf32>, memref<4xf32>
  %b = memref.alloc() : memref<4xf32>
  moe.dispatch @kernel [1] (%a, %b) : memref<4xf32>, memref<4xf32>
  %c = memref.alloc() : memref<8xf32>
  moe.dispatch @widen [1] (%b, %c) : memref<4xf32>, memref<8xf32>
  moe.dispatch @narrow [1] (%c, %y) : memref<8xf32>, memref<4xf32>
  return
}

// A step's gradients are in the arena from their first use to the end, and may
// lie where something else was before: %g is where %early was.
// CHECK-LABEL: func.func @step
// CHECK-SAME: %[[G:[a-z0-9]*]]: memref<4xf32> {moe.binding = #moe.binding<step_gradient, "g", offset = 0>}
// CHECK-SAME: %[[H:[a-z0-9]*]]: memref<4xf32> {moe.binding = #moe.binding<step_gradient, "h", offset = 64>}
// CHECK-SAME: memref<128xi8> {moe.binding = #moe.binding<arena, "arena">})
// CHECK: moe.dispatch @kernel [1] (%{{.*}}, %[[G]])
func.func @step(%x: memref<4xf32> {moe.binding = #moe.binding<input, "x">},
                %g: memref<4xf32> {moe.binding = #moe.binding<step_gradient, "g">},
                %h: memref<4xf32> {moe.binding = #moe.binding<step_gradient, "h">}) {
  %early = memref.alloc() : memref<4xf32>
  moe.dispatch @kernel [1] (%x, %early) : memref<4xf32>, memref<4xf32>
  moe.dispatch @kernel [1] (%early, %h) : memref<4xf32>, memref<4xf32>
  moe.dispatch @kernel [1] (%h, %g) : memref<4xf32>, memref<4xf32>
  return
}

// Two calls, one after the other, share a piece of their caller's arena, which
// lies beside what lives across them.
// CHECK-LABEL: func.func @f
// CHECK-SAME: %[[ARENA:[a-z0-9]*]]: memref<192xi8> {moe.binding = #moe.binding<arena, "arena">})
// CHECK: %[[KEPT:.*]] = memref.view %[[ARENA]][%{{.*}}][] : memref<192xi8> to memref<4xf32>
// CHECK: %[[PIECE:.*]] = memref.view %[[ARENA]][%{{.*}}][] : memref<192xi8> to memref<128xi8>
// CHECK: call @layer(%{{.*}}, %[[KEPT]], %[[PIECE]])
// CHECK: %[[SECOND:.*]] = memref.view %[[ARENA]][%{{.*}}][] : memref<192xi8> to memref<128xi8>
// CHECK: call @layer(%[[KEPT]], %{{.*}}, %[[SECOND]])
func.func @f(%x: memref<4xf32> {moe.binding = #moe.binding<input, "x">},
             %y: memref<4xf32> {moe.binding = #moe.binding<output, "y">}) {
  %kept = memref.alloc() : memref<4xf32>
  call @layer(%x, %kept) : (memref<4xf32>, memref<4xf32>) -> ()
  call @layer(%kept, %y) : (memref<4xf32>, memref<4xf32>) -> ()
  return
}
