// RUN: moe-opt %s --moe-split-experts="panel-bytes=1024" | FileCheck %s
// RUN: moe-opt %s --moe-split-experts="panel-bytes=4096" | FileCheck %s --check-prefix=WHOLE

func.func private @pack(%tile: i64, %args: !llvm.ptr) attributes {moe.kernel}
func.func private @experts(%tile: i64, %args: !llvm.ptr) attributes {moe.kernel, moe.experts = 3 : i64}

// Panels take 512 bytes each: two experts go together, and what packs their
// weights goes before them. The last one's are packed already, and cost
// nothing.
// CHECK-LABEL: func.func private @layer
// CHECK-SAME: (%[[X:.*]]: memref<4x8xf32>, %[[R:.*]]: memref<11xi32>, %[[W0:.*]]: memref<16x8xf32>, %[[W1:.*]]: memref<16x8xf32>, %[[W2:.*]]: memref<16x8xf32>, %[[P3:.*]]: memref<1x8x16xf32>, %[[B:.*]]: memref<8xf32>)
// CHECK: moe.dispatch @pack [1] (%[[W0]], %[[P0:[a-z0-9_]*]])
// CHECK-NEXT: moe.dispatch @pack [1] (%[[W1]], %[[P1:[a-z0-9_]*]])
// CHECK-NEXT: %[[T:.*]] = moe.pointer_table %[[P0]], %[[P1]] :
// CHECK-NEXT: %[[BIAS:.*]] = moe.pointer_table %[[B]], %[[B]] :
// CHECK-NEXT: %[[FIRST:.*]] = arith.constant 0 : i64
// CHECK-NEXT: %[[LAST:.*]] = arith.constant 2 : i64
// CHECK-NEXT: moe.dispatch @experts [7] (%[[X]], %[[T]], %[[R]], %[[FIRST]], %[[LAST]], %[[BIAS]])
// CHECK-NEXT: moe.dispatch @pack [1] (%[[W2]], %[[P2:[a-z0-9_]*]])
// CHECK-NEXT: %[[T:.*]] = moe.pointer_table %[[P2]], %[[P3]] :
// CHECK-NEXT: %[[BIAS:.*]] = moe.pointer_table %[[B]], %[[B]] :
// CHECK-NEXT: %[[FIRST:.*]] = arith.constant 2 : i64
// CHECK-NEXT: %[[LAST:.*]] = arith.constant 4 : i64
// CHECK-NEXT: moe.dispatch @experts [7] (%[[X]], %[[T]], %[[R]], %[[FIRST]], %[[LAST]], %[[BIAS]])
// CHECK-NEXT: return

// WHOLE-COUNT-3: moe.dispatch @pack
// WHOLE-COUNT-1: moe.dispatch @experts
// WHOLE-NOT: moe.dispatch
func.func private @layer(%x: memref<4x8xf32>, %r: memref<11xi32>, %w0: memref<16x8xf32>, %w1: memref<16x8xf32>,
                         %w2: memref<16x8xf32>, %p3: memref<1x8x16xf32>, %b: memref<8xf32>) {
  %p0 = memref.alloc() : memref<1x8x16xf32>
  moe.dispatch @pack [1](%w0, %p0) {derives = "transposed.16"} : memref<16x8xf32>, memref<1x8x16xf32>
  %p1 = memref.alloc() : memref<1x8x16xf32>
  moe.dispatch @pack [1](%w1, %p1) {derives = "transposed.16"} : memref<16x8xf32>, memref<1x8x16xf32>
  %p2 = memref.alloc() : memref<1x8x16xf32>
  moe.dispatch @pack [1](%w2, %p2) {derives = "transposed.16"} : memref<16x8xf32>, memref<1x8x16xf32>
  %t = moe.pointer_table %p0, %p1, %p2, %p3 : memref<1x8x16xf32>, memref<1x8x16xf32>, memref<1x8x16xf32>, memref<1x8x16xf32>
  %biases = moe.pointer_table %b, %b, %b, %b : memref<8xf32>, memref<8xf32>, memref<8xf32>, memref<8xf32>
  %zero = arith.constant 0 : i64
  %four = arith.constant 4 : i64
  moe.dispatch @experts [7](%x, %t, %r, %zero, %four, %biases) : memref<4x8xf32>, !moe.table, memref<11xi32>, i64, i64, !moe.table
  return
}
