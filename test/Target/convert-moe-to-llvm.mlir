// RUN: moe-opt %s --convert-moe-to-llvm="variant=avx2" | FileCheck %s

// Whoever runs it finds out what it is made for.
// CHECK: module attributes {moe.target = {abi = {{[0-9]+}} : i64, variant = "avx2"}}
// CHECK: llvm.mlir.global internal constant @name.kernel("kernel\00")
// CHECK: llvm.func @moeParallelFor(!llvm.ptr, !llvm.ptr, i64, !llvm.ptr, !llvm.ptr)

// A kernel finds its arguments in an array: buffers and tables by address, and
// numbers in place of one.
// CHECK-LABEL: func.func private @kernel
// CHECK-SAME: (%[[ITEM:.*]]: i64, %[[ARGUMENTS:.*]]: !llvm.ptr) attributes {moe.cost = array<f64: 2.000000e+00, 1.600000e+01>}
// CHECK: arith.index_cast %[[ITEM]] : i64 to index
// CHECK: %[[SLOT0:.*]] = llvm.getelementptr %[[ARGUMENTS]][0]
// CHECK: %[[TABLE:.*]] = llvm.load %[[SLOT0]]
// CHECK: %[[SLOT1:.*]] = llvm.getelementptr %[[ARGUMENTS]][1]
// CHECK: %[[ADDRESS:.*]] = llvm.load %[[SLOT1]]
// CHECK: %[[Y:.*]] = builtin.unrealized_conversion_cast %{{.*}} : !llvm.struct<{{.*}}> to memref<4xf32>
// CHECK: %[[SLOT2:.*]] = llvm.getelementptr %[[ARGUMENTS]][2]
// CHECK: %[[NUMBER:.*]] = llvm.load %[[SLOT2]]
// CHECK: llvm.ptrtoint %[[NUMBER]] : !llvm.ptr to i64
// CHECK: %[[ENTRY:.*]] = llvm.getelementptr %[[TABLE]][%{{.*}}] : (!llvm.ptr, i64) -> !llvm.ptr, !llvm.ptr
// CHECK: llvm.load %[[ENTRY]]
// CHECK: memref.store %{{.*}}, %[[Y]]
// CHECK: return
moe.kernel @kernel(%item: index, %table: !moe.table, %y: memref<4xf32>, %n: index)
    attributes {flops = 2.0 : f64, bytes = 16.0 : f64} {
  %w = moe.table_entry %table[%n] : memref<4xf32>
  %v = memref.load %w[%item] : memref<4xf32>
  memref.store %v, %y[%item] : memref<4xf32>
}

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
// CHECK: %[[ITEMS:.*]] = llvm.mlir.constant(3 : i64)
// CHECK: llvm.call @moeParallelFor(%[[CONTEXT]], %{{.*}}, %[[ITEMS]], %[[ARGUMENTS]], %{{.*}})
// CHECK-NEXT: llvm.br ^[[NEXT:.*]]
// CHECK-NEXT: ^[[NEXT]]:
// CHECK-NEXT: llvm.return
func.func private @layer(%x: memref<4xf32>, %arena: memref<128xi8>) {
  %offset = arith.constant 64 : index
  %view = memref.view %arena[%offset][] : memref<128xi8> to memref<4xf32>
  %table = moe.pointer_table %x, %x : memref<4xf32>, memref<4xf32>
  %seven = arith.constant 7 : index
  moe.dispatch @kernel [3] (%table, %view, %seven) : !moe.table, memref<4xf32>, index
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
