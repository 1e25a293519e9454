// RUN: moe-opt %s --convert-moe-to-kernels="vector-bytes=64 bf16-products=pairs frozen-weights=int8" -o %t.kernels
// RUN: FileCheck %s --input-file=%t.kernels
// RUN: moe-opt %s --convert-moe-to-kernels="vector-bytes=64 bf16-products=amx frozen-weights=int8" | FileCheck %s --check-prefix=TILES
// RUN: moe-opt %s --convert-moe-to-kernels="vector-bytes=32 bf16-products=widened frozen-weights=int8" | FileCheck %s --check-prefix=NARROW
// RUN: moe-opt %s --convert-moe-to-kernels="vector-bytes=64 bf16-products=pairs" | FileCheck %s --check-prefix=ASIS --implicit-check-not=xi8
// RUN: sed 's,// GRADIENT ,,' %s | not moe-opt --convert-moe-to-kernels=frozen-weights=int8 2>&1 | FileCheck %s --check-prefix=GRADIENTS
// RUN: not moe-opt %s --convert-moe-to-kernels=frozen-weights=int4 2>&1 | FileCheck %s --check-prefix=INT4
// INT4: Cannot find option named 'int4'

// The loop over the inner dimension: integers become numbers, then bf16, once for
// 12 rows, and no sum leaves its register.
// RUN: moe-opt %s --moe-cpu-pipeline="vector-bytes=64 bf16-products=pairs frozen-weights=int8" -o %t.mlir
// RUN: mlir-translate --mlir-to-llvmir --allow-unregistered-dialect %t.mlir -o %t.ll
// RUN: opt -O2 -mtriple=x86_64-unknown-linux-gnu -mcpu=cooperlake %t.ll -o %t.bc
// RUN: llc -O2 -mtriple=x86_64-unknown-linux-gnu -mcpu=cooperlake %t.bc -o %t.s
// RUN: sed -n '/^linear_matmul_0:/,/func_end/p' %t.s | FileCheck %s --check-prefix=ASSEMBLY --implicit-check-not="64-byte"
// ASSEMBLY: vpmovsxbd
// ASSEMBLY: vcvtdq2ps
// ASSEMBLY: vpermt2w
// ASSEMBLY-COUNT-24: vdpbf16ps
// ASSEMBLY-NOT: vdpbf16ps
// ASSEMBLY: jne
// ASSEMBLY: vmulps
// ASSEMBLY: func_end

moe.parameter backbone @a : tensor<40x128xbf16> from #moe.init<zeros, seed = 0>
moe.parameter trainable backbone @t : tensor<40x128xbf16> from #moe.init<zeros, seed = 0>
moe.parameter router @r : tensor<4x128xbf16> from #moe.init<zeros, seed = 0>
moe.parameter backbone @e : tensor<48x128xbf16> from #moe.init<zeros, seed = 0>
moe.parameter expert @g : tensor<64x128xbf16> from #moe.init<zeros, seed = 0>
moe.parameter expert @u : tensor<64x128xbf16> from #moe.init<zeros, seed = 0>
moe.parameter expert @d : tensor<128x64xbf16> from #moe.init<zeros, seed = 0>

// Four panels, of 64 steps of pairs and two with scales.
// CHECK-LABEL: func.func private @frozen_layer
// CHECK: moe.dispatch @linear_pack_0 [4] ({{.*}}) {derives = "transposed.16x2.int8"} : memref<40x128xbf16>, memref<4x66x32xi8>
// CHECK: moe.dispatch @linear_matmul_0 {{.*}} memref<4x66x32xi8>
// Tiles do not take integers: pairs do.
// TILES-LABEL: func.func private @frozen_layer
// TILES: {derives = "transposed.16x2.int8"} : memref<40x128xbf16>, memref<4x66x32xi8>
// Six of 8 columns: 128 steps, and four with scales.
// NARROW-LABEL: func.func private @frozen_layer
// NARROW: {derives = "transposed.8.int8"} : memref<40x128xbf16>, memref<6x132x8xi8>
// ASIS-LABEL: func.func private @frozen_layer
// ASIS: {derives = "transposed.16x2"} : memref<40x128xbf16>, memref<4x64x32xbf16>
func.func private @frozen_layer(%x: tensor<1x24x128xbf16>, %w: tensor<40x128xbf16>) -> tensor<1x24x40xbf16> {
  %y = moe.linear %x, %w : (tensor<1x24x128xbf16>, tensor<40x128xbf16>) -> tensor<1x24x40xbf16>
  return %y : tensor<1x24x40xbf16>
}

// One of its calls passes what trains.
// CHECK-LABEL: func.func private @mixed_layer
// CHECK: {derives = "transposed.16x2"} : memref<40x128xbf16>, memref<4x64x32xbf16>
func.func private @mixed_layer(%x: tensor<1x24x128xbf16>, %w: tensor<40x128xbf16>) -> tensor<1x24x40xbf16> {
  %y = moe.linear %x, %w : (tensor<1x24x128xbf16>, tensor<40x128xbf16>) -> tensor<1x24x40xbf16>
  return %y : tensor<1x24x40xbf16>
}

// CHECK-LABEL: func.func @score
// The table of an embedding is gathered as it is, and as the head it is integers.
// CHECK: moe.dispatch @embedding_0 {{.*}} memref<48x128xbf16>
// CHECK: moe.dispatch @router_pack_0 {{.*}} {derives = "transposed.16x2"} : memref<4x128xbf16>, memref<2x64x32xbf16>
// CHECK-COUNT-2: moe.dispatch @routed_up_pack_0 {{.*}} {derives = "transposed.16x2.int8"} : memref<64x128xbf16>, memref<4x66x32xi8>
// CHECK: moe.dispatch @routed_down_pack_0 {{.*}} {derives = "transposed.16x2.int8"} : memref<128x64xbf16>, memref<8x34x32xi8>
// CHECK: moe.dispatch @linear_pack_{{[0-9]}} {{.*}} {derives = "transposed.16x2.int8"} : memref<48x128xbf16>, memref<4x66x32xi8>
// TILES-LABEL: func.func @score
// TILES: moe.dispatch @router_pack_0 {{.*}} {derives = "transposed.16x2x16"}
// GRADIENTS: error: 'moe.accumulate_gradient' op expected a program without gradients for frozen-weights=int8
func.func @score(%tokens: tensor<1x24xi32> {moe.binding = #moe.binding<input, "tokens">})
    -> (tensor<1x24x40xbf16> {moe.binding = #moe.binding<output, "f">},
        tensor<1x24x40xbf16> {moe.binding = #moe.binding<output, "m">},
        tensor<1x24x4xf32> {moe.binding = #moe.binding<output, "l">},
        tensor<1x24x48xbf16> {moe.binding = #moe.binding<output, "logits">}) {
  %a = moe.get_parameter @a : tensor<40x128xbf16>
  %t = moe.get_parameter @t : tensor<40x128xbf16>
  %r = moe.get_parameter @r : tensor<4x128xbf16>
  %e = moe.get_parameter @e : tensor<48x128xbf16>
  %g = moe.get_parameter @g : tensor<64x128xbf16>
  %u = moe.get_parameter @u : tensor<64x128xbf16>
  %d = moe.get_parameter @d : tensor<128x64xbf16>
  %x = moe.embedding %tokens, %e : (tensor<1x24xi32>, tensor<48x128xbf16>) -> tensor<1x24x128xbf16>
  %f = call @frozen_layer(%x, %a) : (tensor<1x24x128xbf16>, tensor<40x128xbf16>) -> tensor<1x24x40xbf16>
  %m0 = call @mixed_layer(%x, %a) : (tensor<1x24x128xbf16>, tensor<40x128xbf16>) -> tensor<1x24x40xbf16>
  %m = call @mixed_layer(%x, %t) : (tensor<1x24x128xbf16>, tensor<40x128xbf16>) -> tensor<1x24x40xbf16>
  %l = moe.router %x, %r : (tensor<1x24x128xbf16>, tensor<4x128xbf16>) -> tensor<1x24x4xf32>
  %h = moe.routed_up %x weights(%g, %u) {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (tensor<1x24x128xbf16>, tensor<64x128xbf16>, tensor<64x128xbf16>) -> tensor<24x64xbf16>
  %y = moe.routed_down %h weights(%d) {form = #moe.ffn<gated>}
    : (tensor<24x64xbf16>, tensor<128x64xbf16>) -> tensor<1x24x128xbf16>
  %logits = moe.linear %y, %e : (tensor<1x24x128xbf16>, tensor<48x128xbf16>) -> tensor<1x24x48xbf16>
  // GRADIENT %dt = arith.constant dense<0.0> : tensor<40x128xf32>
  // GRADIENT moe.accumulate_gradient @t, %dt : tensor<40x128xf32>
  return %f, %m, %l, %logits : tensor<1x24x40xbf16>, tensor<1x24x40xbf16>, tensor<1x24x4xf32>, tensor<1x24x48xbf16>
}
