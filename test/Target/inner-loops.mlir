// What the loops over the inner dimension consist of on machines that this one
// need not be: the multiply-adds of a register tile, with all sums in registers.
// The tile is 12 rows of two vectors where there are 32 registers and 6 where
// there are 16; it is two by two tiles of AMX, several steps in a turn. Nor is a
// function called for every element that is rounded to bf16, whatever the machine
// can do.
//
// Weights train: kernels of experts, which have few rows here, pack them.
//
// Every step is that of the JIT (lib/Target/Compiler.cpp) for another machine.

// RUN: moe-opt %s --moe-upcycle="experts=8" --moe-freeze-backbone="train=backbone,router,expert" --moe-train-pipeline="rows=2 length=512" -o %t.f32.fused.mlir
// RUN: sed '/^!/s/f32/bf16/' %s > %t.bf16.mlir
// RUN: moe-opt %t.bf16.mlir --moe-upcycle="experts=8" --moe-freeze-backbone="train=backbone,router,expert" --moe-train-pipeline="rows=2 length=512" -o %t.bf16.fused.mlir

// RUN: moe-opt %t.f32.fused.mlir --moe-cpu-pipeline="hoist=frozen vector-bytes=32 bf16-products=widened" | mlir-translate --mlir-to-llvmir --allow-unregistered-dialect | %python %S/Inputs/inner_loops.py 32 > %t.f32-32-widened.ll
// RUN: opt -O2 -mtriple=x86_64-unknown-linux-gnu -mcpu=haswell %t.f32-32-widened.ll | llc -O2 -mtriple=x86_64-unknown-linux-gnu -mcpu=haswell -o %t.f32-32-widened.s
// RUN: %python %S/Inputs/inner_loops.py < %t.f32-32-widened.s | FileCheck %s --check-prefixes=CHECK,VECTOR -DTILE="12 vfmadd ymm" -DTYPES="12 vfmadd ymm" -DPAIRS="12 vfmadd ymm" --implicit-check-not="{{[yzt]mm, spills [1-9]}}"
// RUN: not grep truncsfbf2 %t.f32-32-widened.s

// RUN: moe-opt %t.f32.fused.mlir --moe-cpu-pipeline="hoist=frozen vector-bytes=64 bf16-products=widened" | mlir-translate --mlir-to-llvmir --allow-unregistered-dialect | %python %S/Inputs/inner_loops.py 64 > %t.f32-64-widened.ll
// RUN: opt -O2 -mtriple=x86_64-unknown-linux-gnu -mcpu=skylake-avx512 %t.f32-64-widened.ll | llc -O2 -mtriple=x86_64-unknown-linux-gnu -mcpu=skylake-avx512 -o %t.f32-64-widened.s
// RUN: %python %S/Inputs/inner_loops.py < %t.f32-64-widened.s | FileCheck %s --check-prefixes=CHECK,VECTOR -DTILE="24 vfmadd zmm" -DTYPES="24 vfmadd zmm" -DPAIRS="24 vfmadd zmm" --implicit-check-not="{{[yzt]mm, spills [1-9]}}"
// RUN: not grep truncsfbf2 %t.f32-64-widened.s

// RUN: moe-opt %t.bf16.fused.mlir --moe-cpu-pipeline="hoist=frozen vector-bytes=32 bf16-products=widened" | mlir-translate --mlir-to-llvmir --allow-unregistered-dialect | %python %S/Inputs/inner_loops.py 32 > %t.bf16-32-widened.ll
// RUN: opt -O2 -mtriple=x86_64-unknown-linux-gnu -mcpu=haswell %t.bf16-32-widened.ll | llc -O2 -mtriple=x86_64-unknown-linux-gnu -mcpu=haswell -o %t.bf16-32-widened.s
// RUN: %python %S/Inputs/inner_loops.py < %t.bf16-32-widened.s | FileCheck %s --check-prefixes=CHECK,VECTOR -DTILE="12 vfmadd ymm" -DTYPES="12 vfmadd ymm" -DPAIRS="12 vfmadd ymm" --implicit-check-not="{{[yzt]mm, spills [1-9]}}"
// RUN: not grep truncsfbf2 %t.bf16-32-widened.s

// RUN: moe-opt %t.bf16.fused.mlir --moe-cpu-pipeline="hoist=frozen vector-bytes=64 bf16-products=widened" | mlir-translate --mlir-to-llvmir --allow-unregistered-dialect | %python %S/Inputs/inner_loops.py 64 > %t.bf16-64-widened.ll
// RUN: opt -O2 -mtriple=x86_64-unknown-linux-gnu -mcpu=skylake-avx512 %t.bf16-64-widened.ll | llc -O2 -mtriple=x86_64-unknown-linux-gnu -mcpu=skylake-avx512 -o %t.bf16-64-widened.s
// RUN: %python %S/Inputs/inner_loops.py < %t.bf16-64-widened.s | FileCheck %s --check-prefixes=CHECK,VECTOR -DTILE="24 vfmadd zmm" -DTYPES="24 vfmadd zmm" -DPAIRS="24 vfmadd zmm" --implicit-check-not="{{[yzt]mm, spills [1-9]}}"
// RUN: not grep truncsfbf2 %t.bf16-64-widened.s

// RUN: moe-opt %t.bf16.fused.mlir --moe-cpu-pipeline="hoist=frozen vector-bytes=32 bf16-products=pairs" | mlir-translate --mlir-to-llvmir --allow-unregistered-dialect | %python %S/Inputs/inner_loops.py 32 > %t.bf16-32-pairs.ll
// RUN: opt -O2 -mtriple=x86_64-unknown-linux-gnu -mcpu=cooperlake %t.bf16-32-pairs.ll | llc -O2 -mtriple=x86_64-unknown-linux-gnu -mcpu=cooperlake -o %t.bf16-32-pairs.s
// RUN: %python %S/Inputs/inner_loops.py < %t.bf16-32-pairs.s | FileCheck %s --check-prefixes=CHECK,VECTOR -DTILE="12 vdpbf16ps ymm" -DTYPES="12 vfmadd ymm" -DPAIRS="12 vdpbf16ps ymm" --implicit-check-not="{{[yzt]mm, spills [1-9]}}"
// RUN: not grep truncsfbf2 %t.bf16-32-pairs.s

// RUN: moe-opt %t.bf16.fused.mlir --moe-cpu-pipeline="hoist=frozen vector-bytes=64 bf16-products=pairs" | mlir-translate --mlir-to-llvmir --allow-unregistered-dialect | %python %S/Inputs/inner_loops.py 64 > %t.bf16-64-pairs.ll
// RUN: opt -O2 -mtriple=x86_64-unknown-linux-gnu -mcpu=cooperlake %t.bf16-64-pairs.ll | llc -O2 -mtriple=x86_64-unknown-linux-gnu -mcpu=cooperlake -o %t.bf16-64-pairs.s
// RUN: %python %S/Inputs/inner_loops.py < %t.bf16-64-pairs.s | FileCheck %s --check-prefixes=CHECK,VECTOR -DTILE="24 vdpbf16ps zmm" -DTYPES="24 vfmadd zmm" -DPAIRS="24 vdpbf16ps zmm" --implicit-check-not="{{[yzt]mm, spills [1-9]}}"
// RUN: not grep truncsfbf2 %t.bf16-64-pairs.s

// RUN: moe-opt %t.bf16.fused.mlir --moe-cpu-pipeline="hoist=frozen vector-bytes=64 bf16-products=tiles" | mlir-translate --mlir-to-llvmir --allow-unregistered-dialect | %python %S/Inputs/inner_loops.py 64 > %t.bf16-64-tiles.ll
// RUN: opt -O2 -mtriple=x86_64-unknown-linux-gnu -mcpu=sapphirerapids %t.bf16-64-tiles.ll | llc -O2 -mtriple=x86_64-unknown-linux-gnu -mcpu=sapphirerapids -o %t.bf16-64-tiles.s
// RUN: %python %S/Inputs/inner_loops.py < %t.bf16-64-tiles.s | FileCheck %s --check-prefixes=CHECK,AMX -DTYPES="24 vfmadd zmm" -DPAIRS="24 vdpbf16ps zmm" --implicit-check-not="{{[yzt]mm, spills [1-9]}}"
// RUN: not grep truncsfbf2 %t.bf16-64-tiles.s

// VECTOR: linear_cross_entropy_matmul_0: [[TILE]], spills 0
// VECTOR: linear_cross_entropy_matmul_1: [[TILE]], spills 0
// VECTOR: linear_cross_entropy_outer_0: [[TILE]], spills 0
// VECTOR: linear_matmul_0: [[TILE]], spills 0
// VECTOR: linear_matmul_1: [[TILE]], spills 0

// Heads are narrow: attention does without tiles.
// CHECK: attention_0: [[PAIRS]], spills 0

// VECTOR: routed_up_0: [[TILE]], spills 0
// AMX: routed_up_0: {{16|24}} tdpbf16ps tmm, spills 0
// VECTOR: routed_down_0: [[TILE]], spills 0
// AMX: routed_down_0: {{16|24}} tdpbf16ps tmm, spills 0
// VECTOR: routed_down_grad_0: [[TILE]], spills 0
// AMX: routed_down_grad_0: {{16|24}} tdpbf16ps tmm, spills 0
// VECTOR: routed_weight_grad_0: [[TILE]], spills 0
// AMX: routed_weight_grad_0: {{16|24}} tdpbf16ps tmm, spills 0
// VECTOR: routed_weight_grad_1: [[TILE]], spills 0
// AMX: routed_weight_grad_1: {{16|24}} tdpbf16ps tmm, spills 0
// VECTOR: routed_input_grad_0: [[TILE]], spills 0
// AMX: routed_input_grad_0: {{16|20|24}} tdpbf16ps tmm, spills 0

// The gradient of router logits is f32, and the weight is widened.
// CHECK: linear_input_grad_matmul_0: [[TYPES]], spills 0

// VECTOR: linear_input_grad_matmul_1: [[TILE]], spills 0
// AMX: linear_input_grad_matmul_1: {{16|24}} tdpbf16ps tmm, spills 0
// VECTOR: linear_weight_grad_outer_next_1: [[TILE]], spills 0
// AMX: linear_weight_grad_outer_next_1: {{16|24}} tdpbf16ps tmm, spills 0
// CHECK: attention_grad_query_0: [[PAIRS]], spills 0
// CHECK: attention_grad_key_0: [[PAIRS]], spills 0
// VECTOR: linear_input_grad_matmul_2: [[TILE]], spills 0
// VECTOR: linear_weight_grad_outer_next_2: [[TILE]], spills 0

!ids = tensor<?x?xi32>
!hidden = tensor<?x?x1024xf32>
!kv = tensor<?x?x512xf32>
!logits = tensor<?x?x2048xf32>
!embedding = tensor<2048x1024xf32>
!vector = tensor<1024xf32>
!square = tensor<1024x1024xf32>
!narrow = tensor<512x1024xf32>
!up = tensor<1536x1024xf32>
!down = tensor<1024x1536xf32>

moe.parameter backbone @embed : !embedding from #moe.init<normal, seed = 1, std = 1.0>
moe.parameter backbone @n1 : !vector from #moe.init<ones, seed = 0>
moe.parameter backbone @n2 : !vector from #moe.init<ones, seed = 0>
moe.parameter backbone @q : !square from #moe.init<normal, seed = 1, std = 0.1>
moe.parameter backbone @k : !narrow from #moe.init<normal, seed = 1, std = 0.1>
moe.parameter backbone @v : !narrow from #moe.init<normal, seed = 1, std = 0.1>
moe.parameter backbone @o : !square from #moe.init<normal, seed = 1, std = 0.1>
moe.parameter backbone @gate : !up from #moe.init<normal, seed = 1, std = 0.1>
moe.parameter backbone @up : !up from #moe.init<normal, seed = 1, std = 0.1>
moe.parameter backbone @down : !down from #moe.init<normal, seed = 1, std = 0.1>

func.func @forward(
    %tokens: !ids {moe.binding = #moe.binding<input, "tokens">},
    %slots: !ids {moe.binding = #moe.binding<input, "slots">},
    %segments: !ids {moe.binding = #moe.binding<input, "segments">})
    -> (!logits {moe.binding = #moe.binding<output, "logits">}) {
  %embed = moe.get_parameter @embed : !embedding
  %n1 = moe.get_parameter @n1 : !vector
  %n2 = moe.get_parameter @n2 : !vector
  %wq = moe.get_parameter @q : !square
  %wk = moe.get_parameter @k : !narrow
  %wv = moe.get_parameter @v : !narrow
  %wo = moe.get_parameter @o : !square
  %gate = moe.get_parameter @gate : !up
  %up = moe.get_parameter @up : !up
  %down = moe.get_parameter @down : !down
  %x = moe.embedding %tokens, %embed : (!ids, !embedding) -> !hidden
  %h = call @layer(%x, %slots, %segments, %n1, %wq, %wk, %wv, %wo, %n2, %gate, %up, %down)
    : (!hidden, !ids, !ids, !vector, !square, !narrow, !narrow, !square, !vector, !up, !up, !down) -> !hidden
  %logits = moe.linear %h, %embed : (!hidden, !embedding) -> !logits
  return %logits : !logits
}

func.func private @layer(
    %x: !hidden, %slots: !ids, %segments: !ids, %n1: !vector, %wq: !square, %wk: !narrow, %wv: !narrow, %wo: !square,
    %n2: !vector, %gate: !up, %up: !up, %down: !down) -> !hidden {
  %m1 = moe.rms_norm %x, %n1 {epsilon = 1.0e-5} : (!hidden, !vector) -> !hidden
  %q = moe.linear %m1, %wq : (!hidden, !square) -> !hidden
  %k = moe.linear %m1, %wk : (!hidden, !narrow) -> !kv
  %v = moe.linear %m1, %wv : (!hidden, !narrow) -> !kv
  %a = moe.attention %q, %k, %v, %slots, %segments {heads = 16 : i64, kv_heads = 8 : i64, scale = 0.125}
    : (!hidden, !kv, !kv, !ids, !ids) -> !hidden
  %a1 = moe.linear %a, %wo : (!hidden, !square) -> !hidden
  %h = moe.add %x, %a1 : (!hidden, !hidden) -> !hidden
  %m2 = moe.rms_norm %h, %n2 {epsilon = 1.0e-5} : (!hidden, !vector) -> !hidden
  %y = moe.ffn %m2, %gate, %up, %down {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (!hidden, !up, !up, !down) -> !hidden
  %z = moe.add %h, %y : (!hidden, !hidden) -> !hidden
  return %z : !hidden
}
