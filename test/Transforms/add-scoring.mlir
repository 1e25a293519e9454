// RUN: moe-opt %s --moe-add-scoring | FileCheck %s
// RUN: moe-opt %s --moe-add-scoring | moe-opt | FileCheck %s
// RUN: moe-opt %s --moe-add-scoring="logits=true" | FileCheck %s --check-prefix=LOGITS

// CHECK-LABEL: func.func @score(
// CHECK-SAME: %[[TOKENS:.*]]: tensor<?x?xi32> {moe.binding = #moe.binding<input, "tokens">}, %[[LABELS:.*]]: tensor<?x?xi32> {moe.binding = #moe.binding<input, "labels">})
// CHECK-SAME: -> (tensor<?x?xf32> {moe.binding = #moe.binding<output, "logprobs">})
// CHECK: %[[Y:.*]] = moe.linear
// CHECK: %[[P:.*]] = moe.token_logprobs %[[Y]], %[[LABELS]] : (tensor<?x?x16xbf16>, tensor<?x?xi32>) -> tensor<?x?xf32>
// CHECK: return %[[P]] : tensor<?x?xf32>

// LOGITS: -> (tensor<?x?xf32> {moe.binding = #moe.binding<output, "logprobs">}, tensor<?x?x16xbf16> {moe.binding = #moe.binding<output, "logits">})
// LOGITS: return %{{.*}}, %{{.*}} : tensor<?x?xf32>, tensor<?x?x16xbf16>
moe.parameter backbone @embed : tensor<16x8xbf16> from #moe.checkpoint<"m", "embed">
func.func @forward(%tokens: tensor<?x?xi32> {moe.binding = #moe.binding<input, "tokens">}) -> (tensor<?x?x16xbf16> {moe.binding = #moe.binding<output, "logits">}) {
  %w = moe.get_parameter @embed : tensor<16x8xbf16>
  %h = moe.embedding %tokens, %w : (tensor<?x?xi32>, tensor<16x8xbf16>) -> tensor<?x?x8xbf16>
  %logits = moe.linear %h, %w : (tensor<?x?x8xbf16>, tensor<16x8xbf16>) -> tensor<?x?x16xbf16>
  return %logits : tensor<?x?x16xbf16>
}
