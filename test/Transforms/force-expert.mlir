// RUN: moe-opt %s --moe-force-expert | FileCheck %s
// RUN: moe-opt %s --moe-force-expert | moe-opt | FileCheck %s
// RUN: moe-opt %s --moe-force-expert="expert=1" | FileCheck %s --check-prefix=ONE
// RUN: not moe-opt %s --moe-force-expert="expert=2" 2>&1 | FileCheck %s --check-prefix=RANGE

// RANGE: error: 'moe.route' op expected an expert in [0, 2), but got 2

// CHECK-LABEL: func.func @a_mixture
func.func @a_mixture(%x: tensor<?x?x8xf32>, %router: tensor<2x8xf32>,
    %u0: tensor<12x8xf32>, %b0: tensor<12xf32>, %d0: tensor<8x12xf32>, %c0: tensor<8xf32>,
    %u1: tensor<12x8xf32>, %b1: tensor<12xf32>, %d1: tensor<8x12xf32>, %c1: tensor<8xf32>) -> tensor<?x?x8xf32> {
  %l = moe.router %x, %router : (tensor<?x?x8xf32>, tensor<2x8xf32>) -> tensor<?x?x2xf32>
  // CHECK: %[[R:.*]], %[[S:.*]] = moe.route %{{.*}} {forced_expert = 0 : i64} : (tensor<?x?x2xf32>) -> (!moe.routes<?x2, 1>, tensor<?x?x1xf32>)
  // ONE: moe.route %{{.*}} {forced_expert = 1 : i64}
  %r, %s = moe.route %l {renormalize} : (tensor<?x?x2xf32>) -> (!moe.routes<?x2, 2>, tensor<?x?x2xf32>)
  // CHECK: moe.experts %{{.*}}, %[[S]], %[[R]],
  %y = moe.experts %x, %s, %r, %u0, %b0, %d0, %c0, %u1, %b1, %d1, %c1 {form = #moe.ffn<plain>, activation = #moe.activation<gelu>}
    : (tensor<?x?x8xf32>, tensor<?x?x2xf32>, !moe.routes<?x2, 2>, tensor<12x8xf32>, tensor<12xf32>, tensor<8x12xf32>, tensor<8xf32>, tensor<12x8xf32>, tensor<12xf32>, tensor<8x12xf32>, tensor<8xf32>) -> tensor<?x?x8xf32>
  return %y : tensor<?x?x8xf32>
}

// The balance loss reads the routes, whatever their K.
// CHECK-LABEL: func.func @a_balance_loss
func.func @a_balance_loss(%l: tensor<?x?x2xf32>, %weight: tensor<f32>) -> tensor<f32> {
  %r, %s = moe.route %l {renormalize} : (tensor<?x?x2xf32>) -> (!moe.routes<?x2, 2>, tensor<?x?x2xf32>)
  // CHECK: moe.balance_loss {{.*}} !moe.routes<?x2, 1>
  %loss = moe.balance_loss %l, %r, %weight {form = #moe.form<paper>} : (tensor<?x?x2xf32>, !moe.routes<?x2, 2>, tensor<f32>) -> tensor<f32>
  return %loss : tensor<f32>
}
