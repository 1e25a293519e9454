moe.parameter backbone @embed : tensor<32x16xf32> from #moe.init<normal, seed = 1, std = 1.0>
moe.parameter backbone @norm : tensor<16xf32> from #moe.init<ones, seed = 0>
moe.parameter backbone @"layers.0.n1.weight" : tensor<16xf32> from #moe.init<ones, seed = 0>
moe.parameter backbone @"layers.0.q.weight" : tensor<16x16xf32> from #moe.init<normal, seed = 1, std = 0.2>
moe.parameter backbone @"layers.0.k.weight" : tensor<8x16xf32> from #moe.init<normal, seed = 1, std = 0.2>
moe.parameter backbone @"layers.0.v.weight" : tensor<8x16xf32> from #moe.init<normal, seed = 1, std = 0.2>
moe.parameter backbone @"layers.0.o.weight" : tensor<16x16xf32> from #moe.init<normal, seed = 1, std = 0.2>
moe.parameter backbone @"layers.0.n2.weight" : tensor<16xf32> from #moe.init<ones, seed = 0>
moe.parameter backbone @"layers.0.mlp.gate_proj.weight" : tensor<24x16xf32> from #moe.init<normal, seed = 1, std = 0.2>
moe.parameter backbone @"layers.0.mlp.up_proj.weight" : tensor<24x16xf32> from #moe.init<normal, seed = 1, std = 0.2>
moe.parameter backbone @"layers.0.mlp.down_proj.weight" : tensor<16x24xf32> from #moe.init<normal, seed = 1, std = 0.2>
moe.parameter backbone @"layers.1.n1.weight" : tensor<16xf32> from #moe.init<ones, seed = 0>
moe.parameter backbone @"layers.1.q.weight" : tensor<16x16xf32> from #moe.init<normal, seed = 1, std = 0.2>
moe.parameter backbone @"layers.1.k.weight" : tensor<8x16xf32> from #moe.init<normal, seed = 1, std = 0.2>
moe.parameter backbone @"layers.1.v.weight" : tensor<8x16xf32> from #moe.init<normal, seed = 1, std = 0.2>
moe.parameter backbone @"layers.1.o.weight" : tensor<16x16xf32> from #moe.init<normal, seed = 1, std = 0.2>
moe.parameter backbone @"layers.1.n2.weight" : tensor<16xf32> from #moe.init<ones, seed = 0>
moe.parameter backbone @"layers.1.mlp.gate_proj.weight" : tensor<24x16xf32> from #moe.init<normal, seed = 1, std = 0.2>
moe.parameter backbone @"layers.1.mlp.up_proj.weight" : tensor<24x16xf32> from #moe.init<normal, seed = 1, std = 0.2>
moe.parameter backbone @"layers.1.mlp.down_proj.weight" : tensor<16x24xf32> from #moe.init<normal, seed = 1, std = 0.2>

func.func @forward(
    %tokens: tensor<?x?xi32> {moe.binding = #moe.binding<input, "tokens">},
    %positions: tensor<?x?xi32> {moe.binding = #moe.binding<input, "positions">},
    %slots: tensor<?x?xi32> {moe.binding = #moe.binding<input, "slots">},
    %segments: tensor<?x?xi32> {moe.binding = #moe.binding<input, "segments">})
    -> (tensor<?x?x32xf32> {moe.binding = #moe.binding<output, "logits">}) {
  %embed = moe.get_parameter @embed : tensor<32x16xf32>
  %norm = moe.get_parameter @norm : tensor<16xf32>
  %x = moe.embedding %tokens, %embed : (tensor<?x?xi32>, tensor<32x16xf32>) -> tensor<?x?x16xf32>
  %cos, %sin = moe.rotary_table %positions {frequencies = array<f32: 1.0, 0.1, 0.01, 0.001>} : (tensor<?x?xi32>) -> (tensor<?x?x4xf32>, tensor<?x?x4xf32>)
  %n10 = moe.get_parameter @"layers.0.n1.weight" : tensor<16xf32>
  %q0 = moe.get_parameter @"layers.0.q.weight" : tensor<16x16xf32>
  %k0 = moe.get_parameter @"layers.0.k.weight" : tensor<8x16xf32>
  %v0 = moe.get_parameter @"layers.0.v.weight" : tensor<8x16xf32>
  %o0 = moe.get_parameter @"layers.0.o.weight" : tensor<16x16xf32>
  %n20 = moe.get_parameter @"layers.0.n2.weight" : tensor<16xf32>
  %gate_proj0 = moe.get_parameter @"layers.0.mlp.gate_proj.weight" : tensor<24x16xf32>
  %up_proj0 = moe.get_parameter @"layers.0.mlp.up_proj.weight" : tensor<24x16xf32>
  %down_proj0 = moe.get_parameter @"layers.0.mlp.down_proj.weight" : tensor<16x24xf32>
  %h0 = call @decoder_layer(%x, %cos, %sin, %slots, %segments, %n10, %q0, %k0, %v0, %o0, %n20, %gate_proj0, %up_proj0, %down_proj0) : (tensor<?x?x16xf32>, tensor<?x?x4xf32>, tensor<?x?x4xf32>, tensor<?x?xi32>, tensor<?x?xi32>, tensor<16xf32>, tensor<16x16xf32>, tensor<8x16xf32>, tensor<8x16xf32>, tensor<16x16xf32>, tensor<16xf32>, tensor<24x16xf32>, tensor<24x16xf32>, tensor<16x24xf32>) -> tensor<?x?x16xf32>
  %n11 = moe.get_parameter @"layers.1.n1.weight" : tensor<16xf32>
  %q1 = moe.get_parameter @"layers.1.q.weight" : tensor<16x16xf32>
  %k1 = moe.get_parameter @"layers.1.k.weight" : tensor<8x16xf32>
  %v1 = moe.get_parameter @"layers.1.v.weight" : tensor<8x16xf32>
  %o1 = moe.get_parameter @"layers.1.o.weight" : tensor<16x16xf32>
  %n21 = moe.get_parameter @"layers.1.n2.weight" : tensor<16xf32>
  %gate_proj1 = moe.get_parameter @"layers.1.mlp.gate_proj.weight" : tensor<24x16xf32>
  %up_proj1 = moe.get_parameter @"layers.1.mlp.up_proj.weight" : tensor<24x16xf32>
  %down_proj1 = moe.get_parameter @"layers.1.mlp.down_proj.weight" : tensor<16x24xf32>
  %h1 = call @decoder_layer(%h0, %cos, %sin, %slots, %segments, %n11, %q1, %k1, %v1, %o1, %n21, %gate_proj1, %up_proj1, %down_proj1) : (tensor<?x?x16xf32>, tensor<?x?x4xf32>, tensor<?x?x4xf32>, tensor<?x?xi32>, tensor<?x?xi32>, tensor<16xf32>, tensor<16x16xf32>, tensor<8x16xf32>, tensor<8x16xf32>, tensor<16x16xf32>, tensor<16xf32>, tensor<24x16xf32>, tensor<24x16xf32>, tensor<16x24xf32>) -> tensor<?x?x16xf32>
  %f = moe.rms_norm %h1, %norm {epsilon = 1.0e-5} : (tensor<?x?x16xf32>, tensor<16xf32>) -> tensor<?x?x16xf32>
  %logits = moe.linear %f, %embed : (tensor<?x?x16xf32>, tensor<32x16xf32>) -> tensor<?x?x32xf32>
  return %logits : tensor<?x?x32xf32>
}

func.func private @decoder_layer(
    %x: tensor<?x?x16xf32>, %cos: tensor<?x?x4xf32>, %sin: tensor<?x?x4xf32>, %slots: tensor<?x?xi32>, %segments: tensor<?x?xi32>,
    %n1: tensor<16xf32>, %q: tensor<16x16xf32>, %k: tensor<8x16xf32>, %v: tensor<8x16xf32>, %o: tensor<16x16xf32>, %n2: tensor<16xf32>, %gate_proj: tensor<24x16xf32>, %up_proj: tensor<24x16xf32>, %down_proj: tensor<16x24xf32>) -> tensor<?x?x16xf32> {
  %m1 = moe.rms_norm %x, %n1 {epsilon = 1.0e-5} : (tensor<?x?x16xf32>, tensor<16xf32>) -> tensor<?x?x16xf32>
  %q0 = moe.linear %m1, %q : (tensor<?x?x16xf32>, tensor<16x16xf32>) -> tensor<?x?x16xf32>
  %k0 = moe.linear %m1, %k : (tensor<?x?x16xf32>, tensor<8x16xf32>) -> tensor<?x?x8xf32>
  %v0 = moe.linear %m1, %v : (tensor<?x?x16xf32>, tensor<8x16xf32>) -> tensor<?x?x8xf32>
  %q1 = moe.rotary %q0, %cos, %sin : (tensor<?x?x16xf32>, tensor<?x?x4xf32>, tensor<?x?x4xf32>) -> tensor<?x?x16xf32>
  %k1 = moe.rotary %k0, %cos, %sin : (tensor<?x?x8xf32>, tensor<?x?x4xf32>, tensor<?x?x4xf32>) -> tensor<?x?x8xf32>
  %a = moe.attention %q1, %k1, %v0, %slots, %segments {heads = 2 : i64, kv_heads = 1 : i64, scale = 0.35}
    : (tensor<?x?x16xf32>, tensor<?x?x8xf32>, tensor<?x?x8xf32>, tensor<?x?xi32>, tensor<?x?xi32>) -> tensor<?x?x16xf32>
  %a1 = moe.linear %a, %o : (tensor<?x?x16xf32>, tensor<16x16xf32>) -> tensor<?x?x16xf32>
  %h = moe.add %x, %a1 : (tensor<?x?x16xf32>, tensor<?x?x16xf32>) -> tensor<?x?x16xf32>
  %m2 = moe.rms_norm %h, %n2 {epsilon = 1.0e-5} : (tensor<?x?x16xf32>, tensor<16xf32>) -> tensor<?x?x16xf32>
  %y = moe.ffn %m2, %gate_proj, %up_proj, %down_proj {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (tensor<?x?x16xf32>, tensor<24x16xf32>, tensor<24x16xf32>, tensor<16x24xf32>) -> tensor<?x?x16xf32>
  %z = moe.add %h, %y : (tensor<?x?x16xf32>, tensor<?x?x16xf32>) -> tensor<?x?x16xf32>
  return %z : tensor<?x?x16xf32>
}
