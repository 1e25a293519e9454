// RUN: moe-opt %s --moe-differentiate --split-input-file --verify-diagnostics

// expected-error @below {{expected a function @step of one block}}
module {
}

// -----

// expected-error @below {{expected a loss, but got no result}}
func.func @step() {
  return
}

// -----

// expected-error @below {{expected a scalar loss, but got 'tensor<2xf32>'}}
func.func @step(%x: tensor<2xf32>) -> tensor<2xf32> {
  return %x : tensor<2xf32>
}

// -----

// expected-error @below {{expected a static shape, but got 'tensor<?x?xi32>'}}
func.func @step(%tokens: tensor<?x?xi32>, %loss: tensor<f32>) -> tensor<f32> {
  return %loss : tensor<f32>
}

// -----

moe.parameter backbone @w : tensor<f32> from #moe.init<normal, seed = 0>

// expected-error @below {{expected a trainable parameter that influences the loss, but there is none}}
func.func @step() -> tensor<f32> {
  %w = moe.get_parameter @w : tensor<f32>
  return %w : tensor<f32>
}

// -----

moe.parameter trainable backbone @w : tensor<8x8xf32> from #moe.init<normal, seed = 0>

func.func private @layer(%x: tensor<1x4x8xf32>) -> tensor<1x4x8xf32> {
  // expected-error @below {{expected a trainable parameter to be read in @step and passed to the functions that need it, but got @w}}
  %w = moe.get_parameter @w : tensor<8x8xf32>
  %y = moe.linear %x, %w : (tensor<1x4x8xf32>, tensor<8x8xf32>) -> tensor<1x4x8xf32>
  return %y : tensor<1x4x8xf32>
}
func.func @step(%x: tensor<1x4x8xf32>, %labels: tensor<1x4xi32>, %tw: tensor<f32>) -> tensor<f32> {
  %h = call @layer(%x) : (tensor<1x4x8xf32>) -> tensor<1x4x8xf32>
  %loss = moe.cross_entropy %h, %labels, %tw : (tensor<1x4x8xf32>, tensor<1x4xi32>, tensor<f32>) -> tensor<f32>
  return %loss : tensor<f32>
}

// -----

moe.parameter trainable backbone @w : tensor<8x8xf32> from #moe.init<normal, seed = 0>

func.func @step(%cache: tensor<1x4x8xf32>, %x: tensor<1x4x8xf32>, %labels: tensor<1x4xi32>, %tw: tensor<f32>) -> tensor<f32> {
  %w = moe.get_parameter @w : tensor<8x8xf32>
  %y = moe.linear %x, %w : (tensor<1x4x8xf32>, tensor<8x8xf32>) -> tensor<1x4x8xf32>
  // expected-error @below {{'moe.cache_update' op expected a derivative, since a trainable parameter influences the loss through this op, but it has none}}
  %h = moe.cache_update %cache, %y, %labels : (tensor<1x4x8xf32>, tensor<1x4x8xf32>, tensor<1x4xi32>) -> tensor<1x4x8xf32>
  %loss = moe.cross_entropy %h, %labels, %tw : (tensor<1x4x8xf32>, tensor<1x4xi32>, tensor<f32>) -> tensor<f32>
  return %loss : tensor<f32>
}

// -----

moe.parameter trainable backbone @w : tensor<f32> from #moe.init<normal, seed = 0>

func.func private @external(%x: tensor<f32>) -> tensor<f32>
func.func @step() -> tensor<f32> {
  %w = moe.get_parameter @w : tensor<f32>
  // expected-error @below {{expected a callee with a body of one block, since its gradient is wanted, but got @external}}
  %loss = call @external(%w) : (tensor<f32>) -> tensor<f32>
  return %loss : tensor<f32>
}

// -----

moe.parameter trainable backbone @w : tensor<f32> from #moe.init<normal, seed = 0>

func.func private @loop(%x: tensor<f32>) -> tensor<f32> {
  // expected-error @below {{expected no recursion, but @loop calls itself}}
  %y = call @loop(%x) : (tensor<f32>) -> tensor<f32>
  return %y : tensor<f32>
}
func.func @step() -> tensor<f32> {
  %w = moe.get_parameter @w : tensor<f32>
  %loss = call @loop(%w) : (tensor<f32>) -> tensor<f32>
  return %loss : tensor<f32>
}
