// RUN: moe-opt %s --moe-fuse-loss | FileCheck %s
// RUN: moe-opt %s --moe-fuse-loss=chunk=64 | FileCheck %s --check-prefix=CHUNK
// RUN: not moe-opt %s --moe-fuse-loss=chunk=0 2>&1 | FileCheck %s --check-prefix=ZERO

// ZERO: error: expected a positive chunk, but got 0

// CHECK-LABEL: func.func @frozen_head(
// CHECK-SAME:    %[[H:.*]]: tensor<1x4x8xbf16>, %[[W:.*]]: tensor<32x8xbf16>, %[[L:.*]]: tensor<1x4xi32>, %[[TW:.*]]: tensor<f32>)
// CHECK:         %[[LOSS:.*]], %[[DX:.*]] = moe.linear_cross_entropy %[[H]], %[[W]], %[[L]], %[[TW]] {chunk = 256 : i64
// CHECK-SAME:      -> tensor<f32> dx(tensor<1x4x8xbf16>)
// CHECK-NOT:     cross_entropy_grad
// CHECK:         return %[[LOSS]], %[[DX]]
// CHUNK:         chunk = 64
func.func @frozen_head(%h: tensor<1x4x8xbf16>, %w: tensor<32x8xbf16>, %labels: tensor<1x4xi32>, %tw: tensor<f32>) -> (tensor<f32>, tensor<1x4x8xbf16>) {
  %logits = moe.linear %h, %w : (tensor<1x4x8xbf16>, tensor<32x8xbf16>) -> tensor<1x4x32xbf16>
  %loss = moe.cross_entropy %logits, %labels, %tw : (tensor<1x4x32xbf16>, tensor<1x4xi32>, tensor<f32>) -> tensor<f32>
  %one = arith.constant dense<1.0> : tensor<f32>
  %d = moe.cross_entropy_grad %one, %logits, %labels, %tw : (tensor<f32>, tensor<1x4x32xbf16>, tensor<1x4xi32>, tensor<f32>) -> tensor<1x4x32xbf16>
  %dh = moe.linear_input_grad %d, %w : (tensor<1x4x32xbf16>, tensor<32x8xbf16>) -> tensor<1x4x8xbf16>
  return %loss, %dh : tensor<f32>, tensor<1x4x8xbf16>
}

// The head trains, tied to the embedding. The gradient of the loss is a
// weighted sum of constants that comes to one.
// CHECK-LABEL: func.func @tied_head(
// CHECK:         %[[LOSS:.*]], %[[DX:.*]], %[[DW:.*]] = moe.linear_cross_entropy
// CHECK-SAME:      -> tensor<f32> dx(tensor<1x4x8xf32>) dweight(tensor<32x8xf32>)
// CHECK:         %[[DE:.*]] = moe.embedding_grad %{{.*}}, %[[DX]]
// CHECK:         %[[G:.*]] = moe.add %[[DW]], %[[DE]]
// CHECK:         return %[[LOSS]], %[[G]]
func.func @tied_head(%tokens: tensor<1x4xi32>, %w: tensor<32x8xf32>, %labels: tensor<1x4xi32>, %tw: tensor<f32>) -> (tensor<f32>, tensor<32x8xf32>) {
  %h = moe.embedding %tokens, %w : (tensor<1x4xi32>, tensor<32x8xf32>) -> tensor<1x4x8xf32>
  %logits = moe.linear %h, %w : (tensor<1x4x8xf32>, tensor<32x8xf32>) -> tensor<1x4x32xf32>
  %loss = moe.cross_entropy %logits, %labels, %tw : (tensor<1x4x32xf32>, tensor<1x4xi32>, tensor<f32>) -> tensor<f32>
  %one = arith.constant dense<1.0> : tensor<f32>
  %half = moe.weighted_sum %one {coefficients = array<f64: 0.5>} : (tensor<f32>) -> tensor<f32>
  %dloss = moe.weighted_sum %half, %one {coefficients = array<f64: 1.0, 0.5>} : (tensor<f32>, tensor<f32>) -> tensor<f32>
  %d = moe.cross_entropy_grad %dloss, %logits, %labels, %tw : (tensor<f32>, tensor<1x4x32xf32>, tensor<1x4xi32>, tensor<f32>) -> tensor<1x4x32xf32>
  %dh = moe.linear_input_grad %d, %w : (tensor<1x4x32xf32>, tensor<32x8xf32>) -> tensor<1x4x8xf32>
  %dw = moe.linear_weight_grad %d, %h : (tensor<1x4x32xf32>, tensor<1x4x8xf32>) -> tensor<32x8xf32>
  %de = moe.embedding_grad %tokens, %dh : (tensor<1x4xi32>, tensor<1x4x8xf32>) -> tensor<32x8xf32>
  %dt = moe.add %dw, %de : (tensor<32x8xf32>, tensor<32x8xf32>) -> tensor<32x8xf32>
  return %loss, %dt : tensor<f32>, tensor<32x8xf32>
}

// CHECK-LABEL: func.func @without_gradient(
// CHECK:         moe.linear_cross_entropy {{.*}} -> tensor<f32>
func.func @without_gradient(%h: tensor<1x4x8xf32>, %w: tensor<32x8xf32>, %labels: tensor<1x4xi32>, %tw: tensor<f32>) -> tensor<f32> {
  %logits = moe.linear %h, %w : (tensor<1x4x8xf32>, tensor<32x8xf32>) -> tensor<1x4x32xf32>
  %loss = moe.cross_entropy %logits, %labels, %tw : (tensor<1x4x32xf32>, tensor<1x4xi32>, tensor<f32>) -> tensor<f32>
  return %loss : tensor<f32>
}

// Somebody else reads the logits, or the gradient is not under one.
// CHECK-LABEL: func.func @logits_wanted(
// CHECK-NOT:     moe.linear_cross_entropy
// CHECK:         moe.cross_entropy
func.func @logits_wanted(%h: tensor<1x4x8xf32>, %w: tensor<32x8xf32>, %labels: tensor<1x4xi32>, %tw: tensor<f32>) -> (tensor<f32>, tensor<1x4x32xf32>) {
  %logits = moe.linear %h, %w : (tensor<1x4x8xf32>, tensor<32x8xf32>) -> tensor<1x4x32xf32>
  %loss = moe.cross_entropy %logits, %labels, %tw : (tensor<1x4x32xf32>, tensor<1x4xi32>, tensor<f32>) -> tensor<f32>
  return %loss, %logits : tensor<f32>, tensor<1x4x32xf32>
}

// CHECK-LABEL: func.func @scaled_gradient(
// CHECK-NOT:     moe.linear_cross_entropy
// CHECK:         moe.linear_input_grad
func.func @scaled_gradient(%h: tensor<1x4x8xf32>, %w: tensor<32x8xf32>, %labels: tensor<1x4xi32>, %tw: tensor<f32>) -> (tensor<f32>, tensor<1x4x8xf32>) {
  %logits = moe.linear %h, %w : (tensor<1x4x8xf32>, tensor<32x8xf32>) -> tensor<1x4x32xf32>
  %loss = moe.cross_entropy %logits, %labels, %tw : (tensor<1x4x32xf32>, tensor<1x4xi32>, tensor<f32>) -> tensor<f32>
  %two = arith.constant dense<2.0> : tensor<f32>
  %d = moe.cross_entropy_grad %two, %logits, %labels, %tw : (tensor<f32>, tensor<1x4x32xf32>, tensor<1x4xi32>, tensor<f32>) -> tensor<1x4x32xf32>
  %dh = moe.linear_input_grad %d, %w : (tensor<1x4x32xf32>, tensor<32x8xf32>) -> tensor<1x4x8xf32>
  return %loss, %dh : tensor<f32>, tensor<1x4x8xf32>
}

// The bias needs a gradient of its own.
// CHECK-LABEL: func.func @biased_head(
// CHECK-NOT:     moe.linear_cross_entropy
// CHECK:         moe.cross_entropy
func.func @biased_head(%h: tensor<1x4x8xf32>, %w: tensor<32x8xf32>, %b: tensor<32xf32>, %labels: tensor<1x4xi32>, %tw: tensor<f32>) -> tensor<f32> {
  %logits = moe.linear %h, %w, %b : (tensor<1x4x8xf32>, tensor<32x8xf32>, tensor<32xf32>) -> tensor<1x4x32xf32>
  %loss = moe.cross_entropy %logits, %labels, %tw : (tensor<1x4x32xf32>, tensor<1x4xi32>, tensor<f32>) -> tensor<f32>
  return %loss : tensor<f32>
}

// A soft cap between projection and loss becomes part of the loss.
// CHECK-LABEL: func.func @capped(
// CHECK-SAME:    %[[H:.*]]: tensor<1x4x8xbf16>, %[[W:.*]]: tensor<32x8xbf16>, %[[L:.*]]: tensor<1x4xi32>, %[[TW:.*]]: tensor<f32>)
// CHECK-NOT:     moe.linear
// CHECK:         %[[LOSS:.*]], %[[DX:.*]], %[[DW:.*]] = moe.linear_cross_entropy %[[H]], %[[W]], %[[L]], %[[TW]] {chunk = 256 : i64, softcap = 3.000000e+01 : f64}
// CHECK-NOT:     soft_cap
// CHECK:         return %[[LOSS]], %[[DX]], %[[DW]]
func.func @capped(%h: tensor<1x4x8xbf16>, %w: tensor<32x8xbf16>, %labels: tensor<1x4xi32>, %tw: tensor<f32>) -> (tensor<f32>, tensor<1x4x8xbf16>, tensor<32x8xf32>) {
  %all = moe.linear %h, %w : (tensor<1x4x8xbf16>, tensor<32x8xbf16>) -> tensor<1x4x32xbf16>
  %logits = moe.soft_cap %all {cap = 30.0} : tensor<1x4x32xbf16>
  %loss = moe.cross_entropy %logits, %labels, %tw : (tensor<1x4x32xbf16>, tensor<1x4xi32>, tensor<f32>) -> tensor<f32>
  %one = arith.constant dense<1.0> : tensor<f32>
  %d = moe.cross_entropy_grad %one, %logits, %labels, %tw : (tensor<f32>, tensor<1x4x32xbf16>, tensor<1x4xi32>, tensor<f32>) -> tensor<1x4x32xbf16>
  %dall = moe.soft_cap_grad %d, %all {cap = 30.0} : tensor<1x4x32xbf16>
  %dh = moe.linear_input_grad %dall, %w : (tensor<1x4x32xbf16>, tensor<32x8xbf16>) -> tensor<1x4x8xbf16>
  %dw = moe.linear_weight_grad %dall, %h : (tensor<1x4x32xbf16>, tensor<1x4x8xbf16>) -> tensor<32x8xf32>
  return %loss, %dh, %dw : tensor<f32>, tensor<1x4x8xbf16>, tensor<32x8xf32>
}

// Somebody else reads the logits before the cap.
// CHECK-LABEL: func.func @uncapped_logits_wanted(
// CHECK-NOT:     moe.linear_cross_entropy
// CHECK:         moe.soft_cap
// CHECK:         moe.cross_entropy
func.func @uncapped_logits_wanted(%h: tensor<1x4x8xf32>, %w: tensor<32x8xf32>, %labels: tensor<1x4xi32>, %tw: tensor<f32>) -> (tensor<f32>, tensor<1x4x32xf32>) {
  %all = moe.linear %h, %w : (tensor<1x4x8xf32>, tensor<32x8xf32>) -> tensor<1x4x32xf32>
  %logits = moe.soft_cap %all {cap = 30.0} : tensor<1x4x32xf32>
  %loss = moe.cross_entropy %logits, %labels, %tw : (tensor<1x4x32xf32>, tensor<1x4xi32>, tensor<f32>) -> tensor<f32>
  return %loss, %all : tensor<f32>, tensor<1x4x32xf32>
}
