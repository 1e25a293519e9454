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

// CHECK-LABEL: func.func @scaled_by_one(
// CHECK-NEXT:    return %arg0
func.func @scaled_by_one(%x: tensor<?x?x8xbf16>) -> tensor<?x?x8xbf16> {
  %y = moe.scale %x {factor = 1.0} : tensor<?x?x8xbf16>
  return %y : tensor<?x?x8xbf16>
}

// CHECK-LABEL: func.func @scaled(
// CHECK:         %[[Y:.*]] = moe.scale %arg0 {factor = 2.200000e-01 : f64} : tensor<?x?x8xbf16>
// CHECK:         return %[[Y]]
func.func @scaled(%x: tensor<?x?x8xbf16>) -> tensor<?x?x8xbf16> {
  %y = moe.scale %x {factor = 0.22} : tensor<?x?x8xbf16>
  return %y : tensor<?x?x8xbf16>
}
