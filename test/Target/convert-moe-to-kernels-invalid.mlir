// RUN: moe-opt %s --convert-moe-to-kernels="vector-bytes=64" --split-input-file --verify-diagnostics

// A block of queries has its scores in scratch memory, one for each key: those
// of 12 rows and 650,000 keys fit, others would run over the stack.
func.func @f(%q: tensor<1x32x16xf32>, %k: tensor<1x650000x16xf32>, %slots: tensor<1x32xi32>) -> tensor<1x32x16xf32> {
  %o = moe.attention %q, %k, %k, %slots {heads = 1 : i64, kv_heads = 1 : i64, scale = 0.25}
    : (tensor<1x32x16xf32>, tensor<1x650000x16xf32>, tensor<1x650000x16xf32>, tensor<1x32xi32>) -> tensor<1x32x16xf32>
  return %o : tensor<1x32x16xf32>
}

// -----

func.func @f(%q: tensor<1x32x16xf32>, %k: tensor<1x700000x16xf32>, %slots: tensor<1x32xi32>) -> tensor<1x32x16xf32> {
  // expected-error@below {{kernel attention_0: expected at most 32505856 bytes of scratch memory, which is on the stack of a thread, but it takes 33}}
  %o = moe.attention %q, %k, %k, %slots {heads = 1 : i64, kv_heads = 1 : i64, scale = 0.25}
    : (tensor<1x32x16xf32>, tensor<1x700000x16xf32>, tensor<1x700000x16xf32>, tensor<1x32xi32>) -> tensor<1x32x16xf32>
  return %o : tensor<1x32x16xf32>
}

// -----

// expected-error@below {{expected a body of one block}}
func.func private @declared(%x: tensor<1x4x8xf32>) -> tensor<1x4x8xf32>
func.func @f(%x: tensor<1x4x8xf32>) -> tensor<1x4x8xf32> {
  %y = call @declared(%x) : (tensor<1x4x8xf32>) -> tensor<1x4x8xf32>
  return %y : tensor<1x4x8xf32>
}

// -----

moe.parameter backbone @w : tensor<8x8xf32> from #moe.init<zeros, seed = 0>
func.func private @layer(%x: tensor<1x4x8xf32>) -> tensor<1x4x8xf32> {
  // expected-error@below {{expected to be in an entry point, which hands parameters to the functions that it calls}}
  %w = moe.get_parameter @w : tensor<8x8xf32>
  %y = moe.linear %x, %w : (tensor<1x4x8xf32>, tensor<8x8xf32>) -> tensor<1x4x8xf32>
  return %y : tensor<1x4x8xf32>
}
func.func @f(%x: tensor<1x4x8xf32>) -> tensor<1x4x8xf32> {
  %y = call @layer(%x) : (tensor<1x4x8xf32>) -> tensor<1x4x8xf32>
  return %y : tensor<1x4x8xf32>
}

// -----

// expected-error@below {{expected tensors of static shape with elements, or routes of static size, but got 'tensor<1x4x0xf32>'}}
func.func @f(%x: tensor<1x4x0xf32>) {
  return
}
