// A dense model in f64 has scalars in f64, and no router losses to ask for.
// RUN: moe-opt %s --moe-add-objective | FileCheck %s
// RUN: not moe-opt %s --moe-add-objective="balance=0.01" 2>&1 | FileCheck %s --check-prefix=ROUTER

// ROUTER: error: expected a moe.route, since balance is not zero

// CHECK-LABEL: func.func @step(
// CHECK-SAME: tensor<f64> {moe.binding = #moe.binding<input, "token_weight">}
// CHECK-SAME: -> (tensor<f64> {moe.binding = #moe.binding<output, "loss">}
// CHECK: moe.cross_entropy {{.*}} -> tensor<f64>
func.func @forward(%tokens: tensor<?x?xi32> {moe.binding = #moe.binding<input, "tokens">}, %x: tensor<?x?x16xf64>) -> (tensor<?x?x16xf64> {moe.binding = #moe.binding<output, "logits">}) {
  return %x : tensor<?x?x16xf64>
}
