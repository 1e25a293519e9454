// The plain form, with biases and in bf16, which has a router that computes in f32.
// RUN: moe-opt %s --split-input-file --moe-upcycle="experts=2" | FileCheck %s

// CHECK: moe.parameter trainable router @h.0.mlp.gate.weight : tensor<2x8xbf16>
// CHECK-NEXT: moe.parameter trainable expert @h.0.mlp.experts.1.dense_h_to_4h.weight : tensor<12x8xbf16> from #moe.copy<@h.0.mlp.dense_h_to_4h.weight>
// CHECK-NEXT: moe.parameter trainable expert @h.0.mlp.experts.1.dense_h_to_4h.bias : tensor<12xbf16> from #moe.copy<@h.0.mlp.dense_h_to_4h.bias>
// CHECK-NEXT: moe.parameter trainable expert @h.0.mlp.experts.1.dense_4h_to_h.weight : tensor<8x12xbf16>
// CHECK-NEXT: moe.parameter trainable expert @h.0.mlp.experts.1.dense_4h_to_h.bias : tensor<8xbf16>
moe.parameter backbone @h.0.mlp.dense_h_to_4h.weight : tensor<12x8xbf16> from #moe.checkpoint<"m", "a">
moe.parameter backbone @h.0.mlp.dense_h_to_4h.bias : tensor<12xbf16> from #moe.checkpoint<"m", "b">
moe.parameter backbone @h.0.mlp.dense_4h_to_h.weight : tensor<8x12xbf16> from #moe.checkpoint<"m", "c">
moe.parameter backbone @h.0.mlp.dense_4h_to_h.bias : tensor<8xbf16> from #moe.checkpoint<"m", "d">

func.func @forward(%x: tensor<?x?x8xbf16>) -> tensor<?x?x8xbf16> {
  %u = moe.get_parameter @h.0.mlp.dense_h_to_4h.weight : tensor<12x8xbf16>
  %b = moe.get_parameter @h.0.mlp.dense_h_to_4h.bias : tensor<12xbf16>
  %d = moe.get_parameter @h.0.mlp.dense_4h_to_h.weight : tensor<8x12xbf16>
  %c = moe.get_parameter @h.0.mlp.dense_4h_to_h.bias : tensor<8xbf16>
  %y = call @layer(%x, %u, %b, %d, %c) : (tensor<?x?x8xbf16>, tensor<12x8xbf16>, tensor<12xbf16>, tensor<8x12xbf16>, tensor<8xbf16>) -> tensor<?x?x8xbf16>
  return %y : tensor<?x?x8xbf16>
}

// CHECK-LABEL: func.func private @layer
// CHECK: moe.router {{.*}} : (tensor<?x?x8xbf16>, tensor<2x8xbf16>) -> tensor<?x?x2xf32>
// CHECK: moe.experts {{.*}} {activation = #moe.activation<gelu_tanh>, form = #moe.ffn<plain>}
func.func private @layer(%x: tensor<?x?x8xbf16>, %u: tensor<12x8xbf16>, %b: tensor<12xbf16>, %d: tensor<8x12xbf16>, %c: tensor<8xbf16>) -> tensor<?x?x8xbf16> {
  %y = moe.ffn %x, %u, %b, %d, %c {form = #moe.ffn<plain>, activation = #moe.activation<gelu_tanh>} : (tensor<?x?x8xbf16>, tensor<12x8xbf16>, tensor<12xbf16>, tensor<8x12xbf16>, tensor<8xbf16>) -> tensor<?x?x8xbf16>
  return %y : tensor<?x?x8xbf16>
}

// -----

// Without biases an expert has two matrices.

// CHECK: moe.parameter trainable router @h.0.mlp.gate.weight : tensor<2x8xf32>
// CHECK-NEXT: moe.parameter trainable expert @h.0.mlp.experts.1.up_proj.weight : tensor<12x8xf32> from #moe.copy<@h.0.mlp.up_proj.weight>
// CHECK-NEXT: moe.parameter trainable expert @h.0.mlp.experts.1.down_proj.weight : tensor<8x12xf32> from #moe.copy<@h.0.mlp.down_proj.weight>
moe.parameter backbone @h.0.mlp.up_proj.weight : tensor<12x8xf32> from #moe.checkpoint<"m", "a">
moe.parameter backbone @h.0.mlp.down_proj.weight : tensor<8x12xf32> from #moe.checkpoint<"m", "b">

func.func @forward(%x: tensor<?x?x8xf32>) -> tensor<?x?x8xf32> {
  %u = moe.get_parameter @h.0.mlp.up_proj.weight : tensor<12x8xf32>
  %d = moe.get_parameter @h.0.mlp.down_proj.weight : tensor<8x12xf32>
  %y = call @layer(%x, %u, %d) : (tensor<?x?x8xf32>, tensor<12x8xf32>, tensor<8x12xf32>) -> tensor<?x?x8xf32>
  return %y : tensor<?x?x8xf32>
}

// CHECK-LABEL: func.func private @layer
// CHECK-SAME: %[[X:.*]]: tensor<?x?x8xf32>, %[[U:.*]]: tensor<12x8xf32>, %[[D:.*]]: tensor<8x12xf32>, %{{.*}}: tensor<2x8xf32>, %[[U1:.*]]: tensor<12x8xf32>, %[[D1:.*]]: tensor<8x12xf32>)
// CHECK: moe.experts %[[X]], %{{.*}}, %{{.*}}, %[[U]], %[[D]], %[[U1]], %[[D1]] {activation = #moe.activation<gelu>, form = #moe.ffn<plain>}
func.func private @layer(%x: tensor<?x?x8xf32>, %u: tensor<12x8xf32>, %d: tensor<8x12xf32>) -> tensor<?x?x8xf32> {
  %y = moe.ffn %x, %u, %d {form = #moe.ffn<plain>, activation = #moe.activation<gelu>} : (tensor<?x?x8xf32>, tensor<12x8xf32>, tensor<8x12xf32>) -> tensor<?x?x8xf32>
  return %y : tensor<?x?x8xf32>
}

// -----

// The scalars of an activation are copied as weights are.

// CHECK: moe.parameter trainable expert @h.0.mlp.experts.1.down_proj.weight : tensor<8x12xf32>
// CHECK-NEXT: moe.parameter trainable expert @h.0.mlp.experts.1.act_fn.alpha_p : tensor<1xf32> from #moe.copy<@h.0.mlp.act_fn.alpha_p>
// CHECK-NEXT: moe.parameter trainable expert @h.0.mlp.experts.1.act_fn.alpha_n : tensor<1xf32> from #moe.copy<@h.0.mlp.act_fn.alpha_n>
moe.parameter backbone @h.0.mlp.up_proj.weight : tensor<12x8xf32> from #moe.checkpoint<"m", "a">
moe.parameter backbone @h.0.mlp.down_proj.weight : tensor<8x12xf32> from #moe.checkpoint<"m", "b">
moe.parameter backbone @h.0.mlp.act_fn.alpha_p : tensor<1xf32> from #moe.checkpoint<"m", "c">
moe.parameter backbone @h.0.mlp.act_fn.alpha_n : tensor<1xf32> from #moe.checkpoint<"m", "d">

func.func @forward(%x: tensor<?x?x8xf32>) -> tensor<?x?x8xf32> {
  %u = moe.get_parameter @h.0.mlp.up_proj.weight : tensor<12x8xf32>
  %d = moe.get_parameter @h.0.mlp.down_proj.weight : tensor<8x12xf32>
  %p = moe.get_parameter @h.0.mlp.act_fn.alpha_p : tensor<1xf32>
  %n = moe.get_parameter @h.0.mlp.act_fn.alpha_n : tensor<1xf32>
  %y = call @layer(%x, %u, %d, %p, %n) : (tensor<?x?x8xf32>, tensor<12x8xf32>, tensor<8x12xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<?x?x8xf32>
  return %y : tensor<?x?x8xf32>
}

// CHECK-LABEL: func.func private @layer
// CHECK-SAME: %[[X:.*]]: tensor<?x?x8xf32>, %[[U:.*]]: tensor<12x8xf32>, %[[D:.*]]: tensor<8x12xf32>, %[[P:.*]]: tensor<1xf32>, %[[N:.*]]: tensor<1xf32>, %{{.*}}: tensor<2x8xf32>, %[[U1:.*]]: tensor<12x8xf32>, %[[D1:.*]]: tensor<8x12xf32>, %[[P1:.*]]: tensor<1xf32>, %[[N1:.*]]: tensor<1xf32>)
// CHECK: moe.experts %[[X]], %{{.*}}, %{{.*}}, %[[U]], %[[D]], %[[P]], %[[N]], %[[U1]], %[[D1]], %[[P1]], %[[N1]] {activation = #moe.activation<xielu>, form = #moe.ffn<plain>}
func.func private @layer(%x: tensor<?x?x8xf32>, %u: tensor<12x8xf32>, %d: tensor<8x12xf32>, %p: tensor<1xf32>, %n: tensor<1xf32>) -> tensor<?x?x8xf32> {
  %y = moe.ffn %x, %u, %d, %p, %n {form = #moe.ffn<plain>, activation = #moe.activation<xielu>} : (tensor<?x?x8xf32>, tensor<12x8xf32>, tensor<8x12xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<?x?x8xf32>
  return %y : tensor<?x?x8xf32>
}
