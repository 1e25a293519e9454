// RUN: moe-opt %s --moe-specialize-shapes="rows=4 length=512" | FileCheck %s
// RUN: moe-opt %s --moe-specialize-shapes="rows=4 length=512" | moe-opt | FileCheck %s
// RUN: not moe-opt %s --moe-specialize-shapes="rows=0 length=5" 2>&1 | FileCheck %s --check-prefix=ROWS

// ROWS: error: expected rows and length of at least 1, but got 0 and 5

// CHECK-LABEL: func.func @both_leading_dimensions
// CHECK-SAME: (%{{.*}}: tensor<4x512xi32>, %{{.*}}: tensor<16x8xf32>) -> tensor<4x512x8xf32>
func.func @both_leading_dimensions(%tokens: tensor<?x?xi32>, %table: tensor<16x8xf32>) -> tensor<?x?x8xf32> {
  // CHECK: moe.embedding {{.*}} -> tensor<4x512x8xf32>
  %h = moe.embedding %tokens, %table : (tensor<?x?xi32>, tensor<16x8xf32>) -> tensor<?x?x8xf32>
  return %h : tensor<?x?x8xf32>
}

// CHECK-LABEL: func.func @a_call_agrees_with_its_callee
func.func @a_call_agrees_with_its_callee(%tokens: tensor<?x?xi32>, %table: tensor<16x8xf32>) -> tensor<?x?x8xf32> {
  // CHECK: call @both_leading_dimensions({{.*}}) : (tensor<4x512xi32>, tensor<16x8xf32>) -> tensor<4x512x8xf32>
  %h = call @both_leading_dimensions(%tokens, %table) : (tensor<?x?xi32>, tensor<16x8xf32>) -> tensor<?x?x8xf32>
  return %h : tensor<?x?x8xf32>
}

// A cache has slots in place of the tokens of a row.
// CHECK-LABEL: func.func @a_cache_keeps_its_capacity
// CHECK-SAME: tensor<4x64x8xf32>
func.func @a_cache_keeps_its_capacity(%cache: tensor<?x64x8xf32>, %rows: tensor<?x?x8xf32>, %slots: tensor<?x?xi32>) -> tensor<?x64x8xf32> {
  // CHECK: moe.cache_update {{.*}} : (tensor<4x64x8xf32>, tensor<4x512x8xf32>, tensor<4x512xi32>) -> tensor<4x64x8xf32>
  %k = moe.cache_update %cache, %rows, %slots : (tensor<?x64x8xf32>, tensor<?x?x8xf32>, tensor<?x?xi32>) -> tensor<?x64x8xf32>
  return %k : tensor<?x64x8xf32>
}

// CHECK-LABEL: func.func @static_shapes_stay
// CHECK-SAME: tensor<2x3x8xbf16>
func.func @static_shapes_stay(%x: tensor<2x3x8xbf16>) -> tensor<2x3x8xbf16> {
  return %x : tensor<2x3x8xbf16>
}

// CHECK-LABEL: func.func @routes_are_for_all_tokens
func.func @routes_are_for_all_tokens(%l: tensor<?x?x6xf32>) -> !moe.routes<?x6, 2> {
  // CHECK: moe.route {{.*}} -> (!moe.routes<2048x6, 2>, tensor<4x512x2xf32>)
  %r, %s = moe.route %l {renormalize} : (tensor<?x?x6xf32>) -> (!moe.routes<?x6, 2>, tensor<?x?x2xf32>)
  return %r : !moe.routes<?x6, 2>
}
