// Products of bf16 multiply pairs where the target can: the loop over the inner
// dimension is 24 sums of pairs (12 rows, two vectors), and all of them stay in
// registers.
// RUN: moe-opt %s --moe-cpu-pipeline="vector-bytes=64 bf16-products=pairs" -o %t.mlir
// RUN: mlir-translate --mlir-to-llvmir --allow-unregistered-dialect %t.mlir -o %t.ll
// RUN: opt -O2 -mtriple=x86_64-unknown-linux-gnu -mcpu=cooperlake %t.ll -o %t.bc
// RUN: llc -O2 -mtriple=x86_64-unknown-linux-gnu -mcpu=cooperlake %t.bc -o %t.s
// RUN: sed -n '/^linear_matmul_0:/,/func_end/p' %t.s | FileCheck %s --implicit-check-not="64-byte"
// RUN: sed -n '/^linear_weight_grad_outer_0:/,/func_end/p' %t.s | FileCheck %s --check-prefix=OUTER --implicit-check-not="64-byte"
// RUN: sed -n '/^router_matmul_0:/,/func_end/p' %t.s | FileCheck %s --check-prefix=ROUTER
// RUN: sed -n '/^linear_input_grad_matmul_0:/,/func_end/p' %t.s | FileCheck %s --check-prefix=MIXED

// Elsewhere they are widened.
// RUN: moe-opt %s --moe-cpu-pipeline="vector-bytes=64 bf16-products=widened" | FileCheck %s --check-prefix=WIDENED
// WIDENED-NOT: dpbf16ps
// WIDENED: llvm.fpext {{.*}}bf16

// On machines with AMX a register tile is two by two tiles. Two tiles of the
// right operand and, one after the other, two of the left are all that a turn of
// the loop reads: no sum leaves its register before the last.
// RUN: moe-opt %s --moe-cpu-pipeline="vector-bytes=64 bf16-products=amx" -o %t.amx.mlir
// RUN: mlir-translate --mlir-to-llvmir --allow-unregistered-dialect %t.amx.mlir -o %t.amx.ll
// RUN: opt -O2 -mtriple=x86_64-unknown-linux-gnu -mcpu=sapphirerapids %t.amx.ll -o %t.amx.bc
// RUN: llc -O2 -mtriple=x86_64-unknown-linux-gnu -mcpu=sapphirerapids %t.amx.bc -o %t.amx.s
// RUN: sed -n '/^linear_matmul_0:/,/func_end/p' %t.amx.s | FileCheck %s --check-prefix=TILES --implicit-check-not="1024-byte"
// RUN: sed -n '/^linear_weight_grad_outer_0:/,/func_end/p' %t.amx.s | FileCheck %s --check-prefix=TILES --implicit-check-not="1024-byte"
// RUN: sed -n '/^linear_input_grad_matmul_0:/,/func_end/p' %t.amx.s | FileCheck %s --check-prefix=MIXED --implicit-check-not=tdpbf16ps

// TILES-COUNT-4: tilezero
// Four times 32 elements, twice two tiles at a time.
// TILES-COUNT-8: {{tdpbf16ps.*[[:space:]]+tdpbf16ps.*}}
// TILES-NOT: tdpbf16ps
// TILES-COUNT-4: tilestored
// TILES: func_end

// CHECK: linear_matmul_0:
// CHECK: {{^}}.LBB
// CHECK-COUNT-12: {{vbroadcastss.*[[:space:]]+vdpbf16ps.*[[:space:]]+vdpbf16ps}}
// CHECK-NOT: vdpbf16ps
// CHECK: jne
// CHECK: func_end

// OUTER: linear_weight_grad_outer_0:
// OUTER-COUNT-12: {{vbroadcastss.*[[:space:]]+vdpbf16ps.*[[:space:]]+vdpbf16ps}}
// OUTER-NOT: vdpbf16ps
// OUTER: func_end

// The sums of a router are f32 as those of every product.
// ROUTER: vdpbf16ps

// An operand in f32 is not rounded for it.
// MIXED-NOT: vdpbf16ps
// MIXED: vfmadd

func.func @step(
    %x: tensor<2x64x128xbf16> {moe.binding = #moe.binding<input, "x">},
    %w: tensor<96x128xbf16> {moe.binding = #moe.binding<input, "w">},
    %dy: tensor<2x64x96xbf16> {moe.binding = #moe.binding<input, "dy">},
    %r: tensor<6x128xbf16> {moe.binding = #moe.binding<input, "r">},
    %dl: tensor<2x64x6xf32> {moe.binding = #moe.binding<input, "dl">})
    -> (tensor<2x64x96xbf16> {moe.binding = #moe.binding<output, "y">},
        tensor<96x128xf32> {moe.binding = #moe.binding<output, "dw">},
        tensor<2x64x6xf32> {moe.binding = #moe.binding<output, "l">},
        tensor<2x64x128xf32> {moe.binding = #moe.binding<output, "dx">}) {
  %y = moe.linear %x, %w : (tensor<2x64x128xbf16>, tensor<96x128xbf16>) -> tensor<2x64x96xbf16>
  %dw = moe.linear_weight_grad %dy, %x : (tensor<2x64x96xbf16>, tensor<2x64x128xbf16>) -> tensor<96x128xf32>
  %l = moe.router %x, %r : (tensor<2x64x128xbf16>, tensor<6x128xbf16>) -> tensor<2x64x6xf32>
  %dx = moe.linear_input_grad %dl, %r : (tensor<2x64x6xf32>, tensor<6x128xbf16>) -> tensor<2x64x128xf32>
  return %y, %dw, %l, %dx : tensor<2x64x96xbf16>, tensor<96x128xf32>, tensor<2x64x6xf32>, tensor<2x64x128xf32>
}
