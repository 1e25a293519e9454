// The named pipelines, from a dense model on: what each leaves at its end.
// RUN: moe-opt %s --moe-expand-pipeline="experts=2 seed=3" -o %t.moe
// RUN: FileCheck %s --check-prefix=EXPAND < %t.moe
// RUN: moe-opt %t.moe --moe-train-pipeline="rows=2 length=4 balance=0.01 chunk=4" | FileCheck %s --check-prefix=TRAIN
// RUN: moe-opt %t.moe --moe-score-pipeline="rows=2 length=4 logits=true" | FileCheck %s --check-prefix=SCORE
// RUN: moe-opt %t.moe --moe-generate-pipeline="rows=2 length=1 capacity=16" | FileCheck %s --check-prefix=GENERATE
// RUN: moe-opt %s --moe-score-pipeline="rows=2 length=4" | FileCheck %s --check-prefix=DENSE
// RUN: not moe-opt %s --moe-train-pipeline="balance=0.01" 2>&1 | FileCheck %s --check-prefix=ROUTER

// ROUTER: error: expected a moe.route, since balance is not zero

// EXPAND: moe.parameter backbone @mlp.up.weight
// EXPAND: moe.parameter trainable router @mlp.gate.weight : tensor<2x8xf32> from #moe.init<xavier_normal, seed = 3>
// EXPAND: moe.parameter trainable expert @mlp.experts.1.up.weight
// EXPAND: moe.experts

// TRAIN-LABEL: func.func @step(
// TRAIN-NOT: moe.cross_entropy
// TRAIN: moe.linear_cross_entropy {{.*}}chunk = 4
// TRAIN-DAG: moe.accumulate_gradient @mlp.gate.weight,
// TRAIN-DAG: moe.accumulate_gradient @mlp.experts.1.up.weight,
// TRAIN-NOT: moe.accumulate_gradient @mlp.up.weight,

// SCORE-LABEL: func.func @score(
// SCORE-SAME: tensor<2x4x16xf32> {moe.binding = #moe.binding<output, "logits">})
// SCORE: moe.token_logprobs
// SCORE: moe.routed_up
// SCORE: moe.combine

// GENERATE-LABEL: func.func @extend(
// GENERATE-SAME: tensor<2x16x8xf32> {moe.binding = #moe.binding<state, "values.0">}
// GENERATE: moe.last_token

// DENSE-LABEL: func.func @score(
// DENSE: moe.routed_up
// DENSE-NOT: moe.combine
module attributes {moe.model = {family = "bloom", config = "config.json"}} {
  moe.parameter backbone @embed : tensor<16x8xf32> from #moe.checkpoint<"m.safetensors", "embed">
  moe.parameter backbone @mlp.up.weight : tensor<12x8xf32> from #moe.checkpoint<"m.safetensors", "up.weight">
  moe.parameter backbone @mlp.up.bias : tensor<12xf32> from #moe.checkpoint<"m.safetensors", "up.bias">
  moe.parameter backbone @mlp.down.weight : tensor<8x12xf32> from #moe.checkpoint<"m.safetensors", "down.weight">
  moe.parameter backbone @mlp.down.bias : tensor<8xf32> from #moe.checkpoint<"m.safetensors", "down.bias">

  func.func @forward(%tokens: tensor<?x?xi32> {moe.binding = #moe.binding<input, "tokens">}, %slots: tensor<?x?xi32> {moe.binding = #moe.binding<input, "slots">}, %segments: tensor<?x?xi32> {moe.binding = #moe.binding<input, "segments">}) -> (tensor<?x?x16xf32> {moe.binding = #moe.binding<output, "logits">}) {
    %w = moe.get_parameter @embed : tensor<16x8xf32>
    %h = moe.embedding %tokens, %w : (tensor<?x?xi32>, tensor<16x8xf32>) -> tensor<?x?x8xf32>
    %u = moe.get_parameter @mlp.up.weight : tensor<12x8xf32>
    %b = moe.get_parameter @mlp.up.bias : tensor<12xf32>
    %d = moe.get_parameter @mlp.down.weight : tensor<8x12xf32>
    %c = moe.get_parameter @mlp.down.bias : tensor<8xf32>
    %y = call @layer(%h, %slots, %segments, %u, %b, %d, %c) : (tensor<?x?x8xf32>, tensor<?x?xi32>, tensor<?x?xi32>, tensor<12x8xf32>, tensor<12xf32>, tensor<8x12xf32>, tensor<8xf32>) -> tensor<?x?x8xf32>
    %logits = moe.linear %y, %w : (tensor<?x?x8xf32>, tensor<16x8xf32>) -> tensor<?x?x16xf32>
    return %logits : tensor<?x?x16xf32>
  }

  func.func private @layer(%x: tensor<?x?x8xf32>, %slots: tensor<?x?xi32>, %segments: tensor<?x?xi32>, %u: tensor<12x8xf32>, %b: tensor<12xf32>, %d: tensor<8x12xf32>, %c: tensor<8xf32>) -> tensor<?x?x8xf32> {
    %o = moe.attention %x, %x, %x, %slots, %segments {heads = 2 : i64, kv_heads = 2 : i64, scale = 0.5, alibi} : (tensor<?x?x8xf32>, tensor<?x?x8xf32>, tensor<?x?x8xf32>, tensor<?x?xi32>, tensor<?x?xi32>) -> tensor<?x?x8xf32>
    %h = moe.add %x, %o : (tensor<?x?x8xf32>, tensor<?x?x8xf32>) -> tensor<?x?x8xf32>
    %y = moe.ffn %h, %u, %b, %d, %c {form = #moe.ffn<plain>, activation = #moe.activation<gelu>} : (tensor<?x?x8xf32>, tensor<12x8xf32>, tensor<12xf32>, tensor<8x12xf32>, tensor<8xf32>) -> tensor<?x?x8xf32>
    %z = moe.add %h, %y : (tensor<?x?x8xf32>, tensor<?x?x8xf32>) -> tensor<?x?x8xf32>
    return %z : tensor<?x?x8xf32>
  }
}
