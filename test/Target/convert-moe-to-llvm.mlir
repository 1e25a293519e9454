// RUN: moe-opt %s --convert-moe-to-llvm="variant=avx2" | FileCheck %s

// Whoever runs it finds out what it is made for.
// CHECK: module attributes {moe.target = {abi = {{[0-9]+}} : i64, variant = "avx2"}}
// CHECK: llvm.mlir.global internal constant @name.kernel("kernel\00")
// CHECK: llvm.func @moeParallelFor(!llvm.ptr, !llvm.ptr, i64, !llvm.ptr, !llvm.ptr)

// CHECK: func.func private @kernel(i64, !llvm.ptr) attributes {moe.kernel}
func.func private @kernel(%tile: i64, %args: !llvm.ptr) attributes {moe.kernel}

// A launch gets the context and an array of pointers, in which numbers stand
// for themselves and tables are arrays again. A block ends at every call.
// CHECK-LABEL: llvm.func internal @layer
// CHECK-SAME: (%[[CONTEXT:.*]]: !llvm.ptr, %[[X:.*]]: !llvm.ptr, %[[ARENA:.*]]: !llvm.ptr)
// CHECK-SAME: attributes {no_inline, optimize_none}
// CHECK: %[[ARGUMENTS:.*]] = llvm.alloca %{{.*}} x !llvm.ptr
// CHECK: %[[TABLE:.*]] = llvm.alloca %{{.*}} x !llvm.ptr
// CHECK: %[[OFFSET:.*]] = llvm.mlir.constant(64 : i64)
// CHECK: %[[VIEW:.*]] = llvm.getelementptr %[[ARENA]][%[[OFFSET]]] : (!llvm.ptr, i64) -> !llvm.ptr, i8
// CHECK: %[[FIRST:.*]] = llvm.getelementptr %[[TABLE]][0]
// CHECK: llvm.store %[[X]], %[[FIRST]]
// CHECK: %[[SEVEN:.*]] = llvm.mlir.constant(7 : i64)
// CHECK: %[[NUMBER:.*]] = llvm.inttoptr %[[SEVEN]] : i64 to !llvm.ptr
// CHECK: %[[SLOT0:.*]] = llvm.getelementptr %[[ARGUMENTS]][0]
// CHECK: llvm.store %[[TABLE]], %[[SLOT0]]
// CHECK: %[[SLOT1:.*]] = llvm.getelementptr %[[ARGUMENTS]][1]
// CHECK: llvm.store %[[VIEW]], %[[SLOT1]]
// CHECK: %[[SLOT2:.*]] = llvm.getelementptr %[[ARGUMENTS]][2]
// CHECK: llvm.store %[[NUMBER]], %[[SLOT2]]
// CHECK: %[[TILES:.*]] = llvm.mlir.constant(3 : i64)
// CHECK: llvm.call @moeParallelFor(%[[CONTEXT]], %{{.*}}, %[[TILES]], %[[ARGUMENTS]], %{{.*}})
// CHECK-NEXT: llvm.br ^[[NEXT:.*]]
// CHECK-NEXT: ^[[NEXT]]:
// CHECK-NEXT: llvm.return
func.func private @layer(%x: memref<4xf32>, %arena: memref<128xi8>) {
  %offset = arith.constant 64 : index
  %view = memref.view %arena[%offset][] : memref<128xi8> to memref<4xf32>
  %table = moe.pointer_table %x, %x : memref<4xf32>, memref<4xf32>
  %seven = arith.constant 7 : i64
  moe.dispatch @kernel [3] (%table, %view, %seven) : !moe.table, memref<4xf32>, i64
  return
}

// An entry point finds its arguments in an array, in the order of its bindings.
// CHECK-LABEL: llvm.func @f
// CHECK-SAME: (%[[CONTEXT:.*]]: !llvm.ptr, %[[ARRAY:.*]]: !llvm.ptr)
// CHECK-SAME: moe.bindings = [#moe.binding<input, "x" in memref<4xf32>>, #moe.binding<arena, "arena" in memref<128xi8>>]
// CHECK: %[[SLOT0:.*]] = llvm.getelementptr %[[ARRAY]][0]
// CHECK: %[[X:.*]] = llvm.load %[[SLOT0]]
// CHECK: %[[SLOT1:.*]] = llvm.getelementptr %[[ARRAY]][1]
// CHECK: %[[ARENA:.*]] = llvm.load %[[SLOT1]]
// CHECK: llvm.call @layer(%[[CONTEXT]], %[[X]], %[[ARENA]])
func.func @f(%x: memref<4xf32> {moe.binding = #moe.binding<input, "x">},
             %arena: memref<128xi8> {moe.binding = #moe.binding<arena, "arena">}) {
  call @layer(%x, %arena) : (memref<4xf32>, memref<128xi8>) -> ()
  return
}
