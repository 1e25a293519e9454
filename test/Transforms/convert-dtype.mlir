// RUN: moe-opt %s --moe-convert-dtype | FileCheck %s
// RUN: moe-opt %s --moe-convert-dtype="dtype=bf16" | moe-opt | FileCheck %s
// RUN: moe-opt %s --moe-convert-dtype="dtype=fp32" | FileCheck %s --check-prefix=FP32
// RUN: moe-opt %s --moe-convert-dtype --moe-convert-dtype="dtype=fp32" | FileCheck %s --check-prefix=FP32
// RUN: not moe-opt %s --moe-convert-dtype="dtype=fp16" 2>&1 | FileCheck %s --check-prefix=UNKNOWN

// UNKNOWN: error: expected dtype to be fp32 or bf16, but got 'fp16'

// CHECK: moe.parameter backbone @w : tensor<8x8xbf16> from #moe.checkpoint<"m", "w">
// FP32: moe.parameter backbone @w : tensor<8x8xf32>
moe.parameter backbone @w : tensor<8x8xf64> from #moe.checkpoint<"m", "w">
moe.parameter router @router : tensor<3x8xf64> from #moe.checkpoint<"m", "r">

// What is more precise than the model stays so, also where calls carry it.
// CHECK-LABEL: func.func @forward(
// CHECK-SAME: %{{.*}}: tensor<?x?xi32> {{{.*}}}, %{{.*}}: tensor<?x?x8xbf16> {{{.*}}}) -> (tensor<?x?x8xbf16>
// CHECK: moe.rotary_table %{{.*}} -> (tensor<?x?x2xf32>, tensor<?x?x2xf32>)
// CHECK: call @layer({{.*}}) : (tensor<?x?x8xbf16>, tensor<?x?x2xf32>, tensor<?x?x2xf32>, tensor<8x8xbf16>, tensor<3x8xbf16>) -> (tensor<?x?x8xbf16>, tensor<?x?x3xf32>)
// CHECK: moe.route %{{.*}} (tensor<?x?x3xf32>) -> (!moe.routes<?x3, 2>, tensor<?x?x2xf32>)
// FP32-LABEL: func.func @forward(
// FP32: call @layer({{.*}}) : (tensor<?x?x8xf32>, tensor<?x?x2xf32>, tensor<?x?x2xf32>, tensor<8x8xf32>, tensor<3x8xf32>) -> (tensor<?x?x8xf32>, tensor<?x?x3xf32>)
// FP32-NOT: f64
func.func @forward(%positions: tensor<?x?xi32> {moe.binding = #moe.binding<input, "positions">}, %h: tensor<?x?x8xf64> {moe.binding = #moe.binding<input, "h">}) -> (tensor<?x?x8xf64> {moe.binding = #moe.binding<output, "logits">}) {
  %cos, %sin = moe.rotary_table %positions {frequencies = array<f32: 1.0, 0.5>, scale = 1.0 : f64} : (tensor<?x?xi32>) -> (tensor<?x?x2xf64>, tensor<?x?x2xf64>)
  %w = moe.get_parameter @w : tensor<8x8xf64>
  %router = moe.get_parameter @router : tensor<3x8xf64>
  %y, %l = call @layer(%h, %cos, %sin, %w, %router) : (tensor<?x?x8xf64>, tensor<?x?x2xf64>, tensor<?x?x2xf64>, tensor<8x8xf64>, tensor<3x8xf64>) -> (tensor<?x?x8xf64>, tensor<?x?x3xf64>)
  %r, %s = moe.route %l {renormalize} : (tensor<?x?x3xf64>) -> (!moe.routes<?x3, 2>, tensor<?x?x2xf64>)
  return %y : tensor<?x?x8xf64>
}

// CHECK-LABEL: func.func private @layer(
// CHECK-SAME: tensor<?x?x8xbf16>, %{{.*}}: tensor<?x?x2xf32>, %{{.*}}: tensor<?x?x2xf32>, %{{.*}}: tensor<8x8xbf16>, %{{.*}}: tensor<3x8xbf16>) -> (tensor<?x?x8xbf16>, tensor<?x?x3xf32>)
// CHECK: moe.linear %{{.*}} : (tensor<?x?x8xbf16>, tensor<8x8xbf16>) -> tensor<?x?x8xbf16>
// CHECK: moe.router %{{.*}} : (tensor<?x?x8xbf16>, tensor<3x8xbf16>) -> tensor<?x?x3xf32>
func.func private @layer(%h: tensor<?x?x8xf64>, %cos: tensor<?x?x2xf64>, %sin: tensor<?x?x2xf64>, %w: tensor<8x8xf64>, %router: tensor<3x8xf64>) -> (tensor<?x?x8xf64>, tensor<?x?x3xf64>) {
  %x = moe.linear %h, %w : (tensor<?x?x8xf64>, tensor<8x8xf64>) -> tensor<?x?x8xf64>
  %y = moe.rotary %x, %cos, %sin : (tensor<?x?x8xf64>, tensor<?x?x2xf64>, tensor<?x?x2xf64>) -> tensor<?x?x8xf64>
  %l = moe.router %y, %router : (tensor<?x?x8xf64>, tensor<3x8xf64>) -> tensor<?x?x3xf64>
  return %y, %l : tensor<?x?x8xf64>, tensor<?x?x3xf64>
}
