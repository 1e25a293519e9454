// RUN: moe-opt %s --moe-upcycle="experts=3 seed=7" | FileCheck %s
// RUN: moe-opt %s --moe-upcycle="experts=3 seed=7" | moe-opt | FileCheck %s
// RUN: moe-opt %s --moe-upcycle="counts=2,1" | FileCheck %s --check-prefix=COUNTS
// RUN: moe-opt %s --moe-upcycle="counts=2,4" | FileCheck %s --check-prefix=MIXED
// RUN: moe-opt %s --moe-upcycle="counts=1,1" | FileCheck %s --check-prefix=DENSE
// RUN: moe-opt %s --moe-upcycle="experts=2 top-k=6" | FileCheck %s --check-prefix=CLAMP
// RUN: moe-opt %s --moe-upcycle="experts=2 top-k=1" | FileCheck %s --check-prefix=TOP1
// RUN: not moe-opt %s --moe-upcycle="counts=2" 2>&1 | FileCheck %s --check-prefix=NUMBER
// RUN: not moe-opt %s --moe-upcycle="counts=2,0" 2>&1 | FileCheck %s --check-prefix=ZERO
// RUN: not moe-opt %s --moe-upcycle="top-k=0" 2>&1 | FileCheck %s --check-prefix=TOP0

// NUMBER: error: expected a count for each of 2 layers, but got 1
// ZERO: error: expected at least 1 expert in layer 1, but got 0
// TOP0: error: expected top-k of at least 1, but got 0

// Expert 0 is the FFN's own parameters, which stay as they are.
// CHECK: moe.parameter backbone @model.layers.0.mlp.gate_proj.weight : tensor<12x8xf32> from #moe.checkpoint<"m.safetensors", "model.layers.0.mlp.gate_proj.weight">
// CHECK: moe.parameter backbone @model.layers.0.mlp.down_proj.weight
// CHECK-NEXT: moe.parameter trainable router @model.layers.0.mlp.gate.weight : tensor<3x8xf32> from #moe.init<xavier_normal, seed = 7>
// CHECK-NEXT: moe.parameter trainable expert @model.layers.0.mlp.experts.1.gate_proj.weight : tensor<12x8xf32> from #moe.copy<@model.layers.0.mlp.gate_proj.weight>
// CHECK-NEXT: moe.parameter trainable expert @model.layers.0.mlp.experts.1.up_proj.weight : tensor<12x8xf32> from #moe.copy<@model.layers.0.mlp.up_proj.weight>
// CHECK-NEXT: moe.parameter trainable expert @model.layers.0.mlp.experts.1.down_proj.weight : tensor<8x12xf32> from #moe.copy<@model.layers.0.mlp.down_proj.weight>
// CHECK-NEXT: moe.parameter trainable expert @model.layers.0.mlp.experts.2.gate_proj.weight
// CHECK: moe.parameter trainable router @model.layers.1.mlp.gate.weight
// CHECK: moe.parameter trainable expert @model.layers.1.mlp.experts.2.down_proj.weight : tensor<8x12xf32> from #moe.copy<@model.layers.1.mlp.down_proj.weight>
// CHECK-NOT: experts.3
// DENSE-NOT: router
// COUNTS: moe.parameter trainable router @model.layers.0.mlp.gate.weight : tensor<2x8xf32>
// COUNTS-NOT: @model.layers.1.mlp.gate.weight
moe.parameter backbone @embed : tensor<16x8xf32> from #moe.checkpoint<"m.safetensors", "embed">
moe.parameter backbone @model.layers.0.mlp.gate_proj.weight : tensor<12x8xf32> from #moe.checkpoint<"m.safetensors", "model.layers.0.mlp.gate_proj.weight">
moe.parameter backbone @model.layers.0.mlp.up_proj.weight : tensor<12x8xf32> from #moe.checkpoint<"m.safetensors", "model.layers.0.mlp.up_proj.weight">
moe.parameter backbone @model.layers.0.mlp.down_proj.weight : tensor<8x12xf32> from #moe.checkpoint<"m.safetensors", "model.layers.0.mlp.down_proj.weight">
moe.parameter backbone @model.layers.1.mlp.gate_proj.weight : tensor<12x8xf32> from #moe.checkpoint<"m.safetensors", "model.layers.1.mlp.gate_proj.weight">
moe.parameter backbone @model.layers.1.mlp.up_proj.weight : tensor<12x8xf32> from #moe.checkpoint<"m.safetensors", "model.layers.1.mlp.up_proj.weight">
moe.parameter backbone @model.layers.1.mlp.down_proj.weight : tensor<8x12xf32> from #moe.checkpoint<"m.safetensors", "model.layers.1.mlp.down_proj.weight">

// Both layers still share one function.
// CHECK-LABEL: func.func @forward
// CHECK: %[[H:.*]] = moe.embedding
// CHECK-DAG: %[[G0:.*]] = moe.get_parameter @model.layers.0.mlp.gate_proj.weight
// CHECK-DAG: %[[U0:.*]] = moe.get_parameter @model.layers.0.mlp.up_proj.weight
// CHECK-DAG: %[[D0:.*]] = moe.get_parameter @model.layers.0.mlp.down_proj.weight
// CHECK: %[[ROUTER:.*]] = moe.get_parameter @model.layers.0.mlp.gate.weight
// CHECK: %[[G1:.*]] = moe.get_parameter @model.layers.0.mlp.experts.1.gate_proj.weight
// CHECK: %[[D2:.*]] = moe.get_parameter @model.layers.0.mlp.experts.2.down_proj.weight
// CHECK: call @decoder_layer(%[[H]], %[[G0]], %[[U0]], %[[D0]], %[[ROUTER]], %[[G1]], {{.*}}, %[[D2]])
// CHECK: call @decoder_layer(

// A layer with one expert keeps the dense function.
// COUNTS-LABEL: func.func @forward
// COUNTS: call @decoder_layer.experts2(
// COUNTS: call @decoder_layer(%{{[^,]*}}, %{{[^,]*}}, %{{[^,]*}}, %{{[^,]*}})

// MIXED-LABEL: func.func @forward
// MIXED: call @decoder_layer.experts2(
// MIXED: call @decoder_layer.experts4(
func.func @forward(%tokens: tensor<?x?xi32> {moe.binding = #moe.binding<input, "tokens">}) -> (tensor<?x?x8xf32> {moe.binding = #moe.binding<output, "logits">}) {
  %table = moe.get_parameter @embed : tensor<16x8xf32>
  %h = moe.embedding %tokens, %table : (tensor<?x?xi32>, tensor<16x8xf32>) -> tensor<?x?x8xf32>
  %g0 = moe.get_parameter @model.layers.0.mlp.gate_proj.weight : tensor<12x8xf32>
  %u0 = moe.get_parameter @model.layers.0.mlp.up_proj.weight : tensor<12x8xf32>
  %d0 = moe.get_parameter @model.layers.0.mlp.down_proj.weight : tensor<8x12xf32>
  %h0 = call @decoder_layer(%h, %g0, %u0, %d0) : (tensor<?x?x8xf32>, tensor<12x8xf32>, tensor<12x8xf32>, tensor<8x12xf32>) -> tensor<?x?x8xf32>
  %g1 = moe.get_parameter @model.layers.1.mlp.gate_proj.weight : tensor<12x8xf32>
  %u1 = moe.get_parameter @model.layers.1.mlp.up_proj.weight : tensor<12x8xf32>
  %d1 = moe.get_parameter @model.layers.1.mlp.down_proj.weight : tensor<8x12xf32>
  %h1 = call @decoder_layer(%h0, %g1, %u1, %d1) : (tensor<?x?x8xf32>, tensor<12x8xf32>, tensor<12x8xf32>, tensor<8x12xf32>) -> tensor<?x?x8xf32>
  return %h1 : tensor<?x?x8xf32>
}

// CHECK-LABEL: func.func private @decoder_layer(
// CHECK-SAME: %[[X:.*]]: tensor<?x?x8xf32>, %[[G:.*]]: tensor<12x8xf32>, %[[U:.*]]: tensor<12x8xf32>, %[[D:.*]]: tensor<8x12xf32>, %[[W:.*]]: tensor<3x8xf32>, %[[E1G:.*]]: tensor<12x8xf32>, %[[E1U:.*]]: tensor<12x8xf32>, %[[E1D:.*]]: tensor<8x12xf32>, %[[E2G:.*]]: tensor<12x8xf32>, %[[E2U:.*]]: tensor<12x8xf32>, %[[E2D:.*]]: tensor<8x12xf32>)
// CHECK: %[[L:.*]] = moe.router %[[X]], %[[W]] : (tensor<?x?x8xf32>, tensor<3x8xf32>) -> tensor<?x?x3xf32>
// CHECK: %[[R:.*]], %[[S:.*]] = moe.route %[[L]] {renormalize} : (tensor<?x?x3xf32>) -> (!moe.routes<?x3, 2>, tensor<?x?x2xf32>)
// CHECK: %[[Y:.*]] = moe.experts %[[X]], %[[S]], %[[R]], %[[G]], %[[U]], %[[D]], %[[E1G]], %[[E1U]], %[[E1D]], %[[E2G]], %[[E2U]], %[[E2D]] {activation = #moe.activation<silu>, form = #moe.ffn<gated>}
// CHECK: moe.add %[[X]], %[[Y]]
// CHECK-NOT: moe.ffn

// COUNTS-LABEL: func.func private @decoder_layer(
// COUNTS: moe.ffn
// COUNTS-LABEL: func.func private @decoder_layer.experts2(
// COUNTS: moe.experts

// The dense function goes when nothing calls it.
// MIXED-NOT: @decoder_layer(
// MIXED-DAG: !moe.routes<?x2, 2>
// MIXED-DAG: !moe.routes<?x4, 2>

// DENSE: moe.ffn
// DENSE-NOT: moe.experts
// CLAMP: !moe.routes<?x2, 2>
// TOP1: moe.route {{.*}} {renormalize} : {{.*}} (!moe.routes<?x2, 1>, tensor<?x?x1xf32>)
func.func private @decoder_layer(%x: tensor<?x?x8xf32>, %g: tensor<12x8xf32>, %u: tensor<12x8xf32>, %d: tensor<8x12xf32>) -> tensor<?x?x8xf32> {
  %y = moe.ffn %x, %g, %u, %d {form = #moe.ffn<gated>, activation = #moe.activation<silu>} : (tensor<?x?x8xf32>, tensor<12x8xf32>, tensor<12x8xf32>, tensor<8x12xf32>) -> tensor<?x?x8xf32>
  %z = moe.add %x, %y : (tensor<?x?x8xf32>, tensor<?x?x8xf32>) -> tensor<?x?x8xf32>
  return %z : tensor<?x?x8xf32>
}
