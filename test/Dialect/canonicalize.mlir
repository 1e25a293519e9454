// RUN: moe-opt %s --canonicalize | FileCheck %s

// CHECK-LABEL: func.func @sum_of_one(
// CHECK-NEXT:    return %arg0
func.func @sum_of_one(%a: tensor<f32>) -> tensor<f32> {
  %y = moe.weighted_sum %a {coefficients = array<f64: 1.0>} : (tensor<f32>) -> tensor<f32>
  return %y : tensor<f32>
}

// CHECK-LABEL: func.func @weighted(
// CHECK:         %[[A:.*]] = moe.weighted_sum %arg0 {coefficients = array<f64: 5.000000e-01>}
// CHECK:         %[[B:.*]] = moe.weighted_sum %arg0, %arg1
// CHECK:         return %[[A]], %[[B]]
func.func @weighted(%a: tensor<f32>, %b: tensor<f32>) -> (tensor<f32>, tensor<f32>) {
  %x = moe.weighted_sum %a {coefficients = array<f64: 0.5>} : (tensor<f32>) -> tensor<f32>
  %y = moe.weighted_sum %a, %b {coefficients = array<f64: 1.0, 1.0>} : (tensor<f32>, tensor<f32>) -> tensor<f32>
  return %x, %y : tensor<f32>, tensor<f32>
}
