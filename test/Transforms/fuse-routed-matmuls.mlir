// RUN: moe-opt %s --moe-fuse-routed-matmuls | FileCheck %s

// CHECK-LABEL: func.func @experts(
// CHECK-SAME:    %[[X:.*]]: tensor<2x4x8xf32>, %[[S:.*]]: tensor<2x4x2xf32>, %[[R:.*]]: !moe.routes<8x2, 2>, %[[G0:.*]]: tensor<16x8xf32>, %[[U0:.*]]: tensor<16x8xf32>, %[[D0:.*]]: tensor<8x16xf32>, %[[G1:.*]]: tensor<16x8xf32>, %[[U1:.*]]: tensor<16x8xf32>, %[[D1:.*]]: tensor<8x16xf32>)
// CHECK:         %[[H:.*]], %[[Z:.*]] = moe.routed_up %[[X]] routes(%[[R]]) weights(%[[G0]], %[[U0]], %[[G1]], %[[U1]]) {activation = #moe.activation<silu>, form = #moe.ffn<gated>
// CHECK-SAME:      -> (tensor<16x16xf32>, tensor<16x32xf32>)
// CHECK:         %[[ROWS:.*]] = moe.routed_down %[[H]] routes(%[[R]]) weights(%[[D0]], %[[D1]]) {form = #moe.ffn<gated>
// CHECK-SAME:      -> tensor<16x8xf32>
// CHECK:         %[[Y:.*]] = moe.combine %[[ROWS]], %[[R]], %[[S]] :
// CHECK:         return %[[Y]], %[[Z]]
func.func @experts(%x: tensor<2x4x8xf32>, %s: tensor<2x4x2xf32>, %r: !moe.routes<8x2, 2>, %g0: tensor<16x8xf32>, %u0: tensor<16x8xf32>,
    %d0: tensor<8x16xf32>, %g1: tensor<16x8xf32>, %u1: tensor<16x8xf32>, %d1: tensor<8x16xf32>) -> (tensor<2x4x8xf32>, tensor<16x32xf32>) {
  %y, %z = moe.experts %x, %s, %r, %g0, %u0, %d0, %g1, %u1, %d1 {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (tensor<2x4x8xf32>, tensor<2x4x2xf32>, !moe.routes<8x2, 2>, tensor<16x8xf32>, tensor<16x8xf32>, tensor<8x16xf32>,
       tensor<16x8xf32>, tensor<16x8xf32>, tensor<8x16xf32>) -> (tensor<2x4x8xf32>, tensor<16x32xf32>)
  return %y, %z : tensor<2x4x8xf32>, tensor<16x32xf32>
}

// Expert 0 is frozen: its rows cost no weight gradient.
// CHECK-LABEL: func.func @experts_grad(
// CHECK-SAME:    %[[DY:.*]]: tensor<2x4x8xf32>, %[[X:.*]]: tensor<2x4x8xf32>, %[[S:.*]]: tensor<2x4x2xf32>, %[[R:.*]]: !moe.routes<8x2, 2>, %[[Z:.*]]: tensor<16x32xf32>, %[[G0:.*]]: tensor<16x8xf32>, %[[U0:.*]]: tensor<16x8xf32>, %[[D0:.*]]: tensor<8x16xf32>, %[[G1:.*]]: tensor<16x8xf32>, %[[U1:.*]]: tensor<16x8xf32>, %[[D1:.*]]: tensor<8x16xf32>)
// CHECK:         %[[DZ:.*]], %[[H:.*]], %[[DS:.*]] = moe.routed_down_grad %[[DY]] scores(%[[S]]) routes(%[[R]]) preactivation(%[[Z]]) weights(%[[D0]], %[[D1]]) {activation = #moe.activation<silu>, form = #moe.ffn<gated>
// CHECK-SAME:      -> tensor<16x32xf32> scaled(tensor<16x16xf32>) dscores(tensor<2x4x2xf32>)
// CHECK:         %[[DD:.*]] = moe.routed_weight_grad %[[DY]], %[[H]], %[[R]] {experts = array<i64: 1>} : {{.*}} -> tensor<8x16xf32>
// CHECK:         %[[DG:.*]] = moe.routed_weight_grad %[[DZ]], %[[X]], %[[R]] {experts = array<i64: 1>} : {{.*}} -> tensor<16x8xf32>
// CHECK:         %[[DU:.*]] = moe.routed_weight_grad %[[DZ]], %[[X]], %[[R]] {experts = array<i64: 1>, offset = 16 : i64} : {{.*}} -> tensor<16x8xf32>
// CHECK:         %[[ROWS:.*]] = moe.routed_input_grad %[[DZ]] routes(%[[R]]) weights(%[[G0]], %[[U0]], %[[G1]], %[[U1]]) {form = #moe.ffn<gated>
// CHECK-SAME:      -> tensor<16x8xf32>
// CHECK:         %[[DX:.*]] = moe.combine %[[ROWS]], %[[R]] :
// CHECK:         return %[[DX]], %[[DS]], %[[DG]], %[[DU]], %[[DD]]
func.func @experts_grad(%dy: tensor<2x4x8xf32>, %x: tensor<2x4x8xf32>, %s: tensor<2x4x2xf32>, %r: !moe.routes<8x2, 2>, %z: tensor<16x32xf32>,
    %g0: tensor<16x8xf32>, %u0: tensor<16x8xf32>, %d0: tensor<8x16xf32>, %g1: tensor<16x8xf32>, %u1: tensor<16x8xf32>, %d1: tensor<8x16xf32>)
    -> (tensor<2x4x8xf32>, tensor<2x4x2xf32>, tensor<16x8xf32>, tensor<16x8xf32>, tensor<8x16xf32>) {
  %dx, %ds, %dw:3 = moe.experts_grad %dy, %x scores(%s) routes(%r) preactivation(%z) weights(%g0, %u0, %d0, %g1, %u1, %d1) {form = #moe.ffn<gated>, activation = #moe.activation<silu>, wanted = array<i1: false, false, false, true, true, true>}
    : (tensor<2x4x8xf32>, tensor<2x4x8xf32>, tensor<2x4x2xf32>, !moe.routes<8x2, 2>, tensor<16x32xf32>, tensor<16x8xf32>, tensor<16x8xf32>, tensor<8x16xf32>,
       tensor<16x8xf32>, tensor<16x8xf32>, tensor<8x16xf32>)
    -> dx(tensor<2x4x8xf32>) dscores(tensor<2x4x2xf32>) dweights(tensor<16x8xf32>, tensor<16x8xf32>, tensor<8x16xf32>)
  return %dx, %ds, %dw#0, %dw#1, %dw#2 : tensor<2x4x8xf32>, tensor<2x4x2xf32>, tensor<16x8xf32>, tensor<16x8xf32>, tensor<8x16xf32>
}

// Only the routers train, and this is the lowest layer: no weight gradient, no
// input gradient, even though one was asked for that nothing reads.
// CHECK-LABEL: func.func @scores_only(
// CHECK:         %[[DZ:.*]], %[[DS:.*]] = moe.routed_down_grad {{.*}} -> tensor<8x32xf32> dscores(tensor<2x4x1xf32>)
// CHECK-NEXT:    return %[[DS]]
func.func @scores_only(%dy: tensor<2x4x8xf32>, %x: tensor<2x4x8xf32>, %s: tensor<2x4x1xf32>, %r: !moe.routes<8x1, 1>, %z: tensor<8x32xf32>,
    %g0: tensor<16x8xf32>, %u0: tensor<16x8xf32>, %d0: tensor<8x16xf32>) -> tensor<2x4x1xf32> {
  %dx, %ds, %dd = moe.experts_grad %dy, %x scores(%s) routes(%r) preactivation(%z) weights(%g0, %u0, %d0) {form = #moe.ffn<gated>, activation = #moe.activation<silu>, wanted = array<i1: false, false, true>}
    : (tensor<2x4x8xf32>, tensor<2x4x8xf32>, tensor<2x4x1xf32>, !moe.routes<8x1, 1>, tensor<8x32xf32>, tensor<16x8xf32>, tensor<16x8xf32>, tensor<8x16xf32>)
    -> dx(tensor<2x4x8xf32>) dscores(tensor<2x4x1xf32>) dweights(tensor<8x16xf32>)
  return %ds : tensor<2x4x1xf32>
}

// CHECK-LABEL: func.func @plain_experts(
// CHECK-SAME:    %[[X:.*]]: tensor<1x4x8xbf16>, %[[S:.*]]: tensor<1x4x1xf32>, %[[R:.*]]: !moe.routes<4x2, 1>, %[[U:.*]]: tensor<16x8xbf16>, %[[B:.*]]: tensor<16xbf16>, %[[D:.*]]: tensor<8x16xbf16>, %[[C:.*]]: tensor<8xbf16>, %[[B1:.*]]: tensor<16xbf16>, %[[C1:.*]]: tensor<8xbf16>, %[[DY:.*]]: tensor<1x4x8xbf16>, %[[Z:.*]]: tensor<4x16xbf16>)
// CHECK:         %[[H:.*]] = moe.routed_up %[[X]] routes(%[[R]]) weights(%[[U]], %[[B]], %[[U]], %[[B1]]) {{.*}} -> tensor<4x16xbf16>
// CHECK:         %[[ROWS:.*]] = moe.routed_down %[[H]] routes(%[[R]]) weights(%[[D]], %[[C]], %[[D]], %[[C1]])
// CHECK:         %[[Y:.*]] = moe.combine %[[ROWS]], %[[R]], %[[S]]
// CHECK:         %[[DZ:.*]], %[[SH:.*]] = moe.routed_down_grad %[[DY]] scores(%[[S]]) routes(%[[R]]) preactivation(%[[Z]]) weights(%[[D]], %[[C]], %[[D]], %[[C1]])
// CHECK-SAME:      -> tensor<4x16xbf16> scaled(tensor<4x16xbf16>)
// CHECK:         %[[DD:.*]] = moe.routed_weight_grad %[[DY]], %[[SH]], %[[R]] {experts = array<i64: 0>}
// CHECK:         %[[DU:.*]]:2 = moe.routed_weight_grad %[[DZ]], %[[X]], %[[R]] {experts = array<i64: 0, 1>} : {{.*}} -> (tensor<16x8xf32>, tensor<16x8xf32>)
// The bias of up sums what stands in the rows already, that of down needs the scores.
// CHECK:         %[[DB:.*]] = moe.routed_bias_grad %[[DZ]] routes(%[[R]]) {experts = array<i64: 1>}
// CHECK:         %[[DC:.*]] = moe.routed_bias_grad %[[DY]] routes(%[[R]]) scores(%[[S]]) {experts = array<i64: 1>
// CHECK-NOT:     routed_input_grad
// CHECK:         return %[[Y]], %[[DU]]#0, %[[DD]], %[[DU]]#1, %[[DB]], %[[DC]]
func.func @plain_experts(%x: tensor<1x4x8xbf16>, %s: tensor<1x4x1xf32>, %r: !moe.routes<4x2, 1>, %u: tensor<16x8xbf16>, %b: tensor<16xbf16>,
    %d: tensor<8x16xbf16>, %c: tensor<8xbf16>, %b1: tensor<16xbf16>, %c1: tensor<8xbf16>, %dy: tensor<1x4x8xbf16>, %z: tensor<4x16xbf16>)
    -> (tensor<1x4x8xbf16>, tensor<16x8xf32>, tensor<8x16xf32>, tensor<16x8xf32>, tensor<16xf32>, tensor<8xf32>) {
  %y = moe.experts %x, %s, %r, %u, %b, %d, %c, %u, %b1, %d, %c1 {form = #moe.ffn<plain>, activation = #moe.activation<gelu>}
    : (tensor<1x4x8xbf16>, tensor<1x4x1xf32>, !moe.routes<4x2, 1>, tensor<16x8xbf16>, tensor<16xbf16>, tensor<8x16xbf16>, tensor<8xbf16>,
       tensor<16x8xbf16>, tensor<16xbf16>, tensor<8x16xbf16>, tensor<8xbf16>) -> tensor<1x4x8xbf16>
  %dw:5 = moe.experts_grad %dy, %x scores(%s) routes(%r) preactivation(%z) weights(%u, %b, %d, %c, %u, %b1, %d, %c1) {form = #moe.ffn<plain>, activation = #moe.activation<gelu>, wanted = array<i1: true, false, true, false, true, true, false, true>}
    : (tensor<1x4x8xbf16>, tensor<1x4x8xbf16>, tensor<1x4x1xf32>, !moe.routes<4x2, 1>, tensor<4x16xbf16>, tensor<16x8xbf16>, tensor<16xbf16>, tensor<8x16xbf16>,
       tensor<8xbf16>, tensor<16x8xbf16>, tensor<16xbf16>, tensor<8x16xbf16>, tensor<8xbf16>)
    -> dweights(tensor<16x8xf32>, tensor<8x16xf32>, tensor<16x8xf32>, tensor<16xf32>, tensor<8xf32>)
  return %y, %dw#0, %dw#1, %dw#2, %dw#3, %dw#4 : tensor<1x4x8xbf16>, tensor<16x8xf32>, tensor<8x16xf32>, tensor<16x8xf32>, tensor<16xf32>, tensor<8xf32>
}

// A dense FFN: one expert without routes.
// CHECK-LABEL: func.func @ffn(
// CHECK-SAME:    %[[X:.*]]: tensor<1x4x8xf32>, %[[G:.*]]: tensor<16x8xf32>, %[[U:.*]]: tensor<16x8xf32>, %[[D:.*]]: tensor<8x16xf32>, %[[DY:.*]]: tensor<1x4x8xf32>)
// CHECK:         %[[H:.*]], %[[Z:.*]] = moe.routed_up %[[X]] weights(%[[G]], %[[U]]) {{.*}} -> (tensor<4x16xf32>, tensor<4x32xf32>)
// CHECK:         %[[Y:.*]] = moe.routed_down %[[H]] weights(%[[D]]) {{.*}} -> tensor<1x4x8xf32>
// CHECK-NOT:     moe.combine
// CHECK:         %[[DZ:.*]] = moe.routed_down_grad %[[DY]] preactivation(%[[Z]]) weights(%[[D]]) {{.*}} -> tensor<4x32xf32>
// CHECK:         %[[DU:.*]] = moe.routed_weight_grad %[[DZ]], %[[X]] {experts = array<i64: 0>, offset = 16 : i64}
// CHECK:         %[[DX:.*]] = moe.routed_input_grad %[[DZ]] weights(%[[G]], %[[U]]) {{.*}} -> tensor<1x4x8xf32>
// CHECK-NOT:     moe.combine
// CHECK:         return %[[Y]], %[[DX]], %[[DU]]
func.func @ffn(%x: tensor<1x4x8xf32>, %g: tensor<16x8xf32>, %u: tensor<16x8xf32>, %d: tensor<8x16xf32>, %dy: tensor<1x4x8xf32>)
    -> (tensor<1x4x8xf32>, tensor<1x4x8xf32>, tensor<16x8xf32>) {
  %y, %z = moe.ffn %x, %g, %u, %d {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (tensor<1x4x8xf32>, tensor<16x8xf32>, tensor<16x8xf32>, tensor<8x16xf32>) -> (tensor<1x4x8xf32>, tensor<4x32xf32>)
  %dx, %du = moe.experts_grad %dy, %x preactivation(%z) weights(%g, %u, %d) {form = #moe.ffn<gated>, activation = #moe.activation<silu>, wanted = array<i1: false, true, false>}
    : (tensor<1x4x8xf32>, tensor<1x4x8xf32>, tensor<4x32xf32>, tensor<16x8xf32>, tensor<16x8xf32>, tensor<8x16xf32>)
    -> dx(tensor<1x4x8xf32>) dweights(tensor<16x8xf32>)
  return %y, %dx, %du : tensor<1x4x8xf32>, tensor<1x4x8xf32>, tensor<16x8xf32>
}

// A backward that recomputes the pre-activation needs no output, and one that
// saves none makes none.
// CHECK-LABEL: func.func @preactivation_only(
// CHECK:         %[[H:.*]], %[[Z:.*]] = moe.routed_up
// CHECK-NEXT:    return %[[Z]]
func.func @preactivation_only(%x: tensor<1x4x8xf32>, %g: tensor<16x8xf32>, %d: tensor<8x16xf32>) -> tensor<4x32xf32> {
  %y, %z = moe.ffn %x, %g, %g, %d {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (tensor<1x4x8xf32>, tensor<16x8xf32>, tensor<16x8xf32>, tensor<8x16xf32>) -> (tensor<1x4x8xf32>, tensor<4x32xf32>)
  return %z : tensor<4x32xf32>
}

// CHECK-LABEL: func.func @no_preactivation(
// CHECK:         %[[H:.*]] = moe.routed_up {{.*}} -> tensor<4x16xf32>
// CHECK-NEXT:    %[[Y:.*]] = moe.routed_down
func.func @no_preactivation(%x: tensor<1x4x8xf32>, %g: tensor<16x8xf32>, %d: tensor<8x16xf32>) -> tensor<1x4x8xf32> {
  %y, %z = moe.ffn %x, %g, %g, %d {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (tensor<1x4x8xf32>, tensor<16x8xf32>, tensor<16x8xf32>, tensor<8x16xf32>) -> (tensor<1x4x8xf32>, tensor<4x32xf32>)
  return %y : tensor<1x4x8xf32>
}

// The plain form without biases: nothing stands between the matrices of experts.
// CHECK-LABEL: func.func @plain_without_biases(
// CHECK-SAME:    %[[X:.*]]: tensor<1x4x8xf32>, %[[S:.*]]: tensor<1x4x1xf32>, %[[R:.*]]: !moe.routes<4x2, 1>, %[[U:.*]]: tensor<16x8xf32>, %[[D:.*]]: tensor<8x16xf32>, %[[U1:.*]]: tensor<16x8xf32>, %[[D1:.*]]: tensor<8x16xf32>, %[[DY:.*]]: tensor<1x4x8xf32>)
// CHECK:         %[[H:.*]], %[[Z:.*]] = moe.routed_up %[[X]] routes(%[[R]]) weights(%[[U]], %[[U1]])
// CHECK:         %[[ROWS:.*]] = moe.routed_down %[[H]] routes(%[[R]]) weights(%[[D]], %[[D1]])
// CHECK:         %[[DZ:.*]], %[[SH:.*]] = moe.routed_down_grad %[[DY]] scores(%[[S]]) routes(%[[R]]) preactivation(%[[Z]]) weights(%[[D]], %[[D1]])
// CHECK:         %[[DD:.*]] = moe.routed_weight_grad %[[DY]], %[[SH]], %[[R]] {experts = array<i64: 1>}
// CHECK:         %[[DU:.*]] = moe.routed_weight_grad %[[DZ]], %[[X]], %[[R]] {experts = array<i64: 1>}
// CHECK-NOT:     moe.routed_bias_grad
// CHECK:         moe.routed_input_grad %[[DZ]] routes(%[[R]]) weights(%[[U]], %[[U1]])
// CHECK:         return {{.*}}, %[[DU]], %[[DD]]
func.func @plain_without_biases(%x: tensor<1x4x8xf32>, %s: tensor<1x4x1xf32>, %r: !moe.routes<4x2, 1>, %u: tensor<16x8xf32>, %d: tensor<8x16xf32>,
    %u1: tensor<16x8xf32>, %d1: tensor<8x16xf32>, %dy: tensor<1x4x8xf32>) -> (tensor<1x4x8xf32>, tensor<1x4x8xf32>, tensor<16x8xf32>, tensor<8x16xf32>) {
  %y, %z = moe.experts %x, %s, %r, %u, %d, %u1, %d1 {form = #moe.ffn<plain>, activation = #moe.activation<gelu>}
    : (tensor<1x4x8xf32>, tensor<1x4x1xf32>, !moe.routes<4x2, 1>, tensor<16x8xf32>, tensor<8x16xf32>, tensor<16x8xf32>, tensor<8x16xf32>) -> (tensor<1x4x8xf32>, tensor<4x16xf32>)
  %dx, %du, %dd = moe.experts_grad %dy, %x scores(%s) routes(%r) preactivation(%z) weights(%u, %d, %u1, %d1) {form = #moe.ffn<plain>, activation = #moe.activation<gelu>, wanted = array<i1: false, false, true, true>}
    : (tensor<1x4x8xf32>, tensor<1x4x8xf32>, tensor<1x4x1xf32>, !moe.routes<4x2, 1>, tensor<4x16xf32>, tensor<16x8xf32>, tensor<8x16xf32>, tensor<16x8xf32>, tensor<8x16xf32>)
    -> dx(tensor<1x4x8xf32>) dweights(tensor<16x8xf32>, tensor<8x16xf32>)
  return %y, %dx, %du, %dd : tensor<1x4x8xf32>, tensor<1x4x8xf32>, tensor<16x8xf32>, tensor<8x16xf32>
}

// The gradients of an activation's scalars are sums over the rows of an expert.
// CHECK-LABEL: func.func @scalars(
// CHECK-SAME:    %[[X:.*]]: tensor<1x4x8xf32>, %[[S:.*]]: tensor<1x4x1xf32>, %[[R:.*]]: !moe.routes<4x2, 1>, %[[U:.*]]: tensor<16x8xf32>, %[[D:.*]]: tensor<8x16xf32>, %[[P:.*]]: tensor<1xf32>, %[[N:.*]]: tensor<1xf32>, %[[DY:.*]]: tensor<1x4x8xf32>)
// CHECK:         %[[H:.*]], %[[Z:.*]] = moe.routed_up %[[X]] routes(%[[R]]) weights(%[[U]], %[[U]]) scalars(%[[P]], %[[N]], %[[N]], %[[P]])
// CHECK:         moe.routed_down %[[H]] routes(%[[R]]) weights(%[[D]], %[[D]])
// CHECK:         %[[DZ:.*]], %[[ROWS:.*]]:2 = moe.routed_down_grad %[[DY]] scores(%[[S]]) routes(%[[R]]) preactivation(%[[Z]]) weights(%[[D]], %[[D]]) scalars(%[[P]], %[[N]], %[[N]], %[[P]])
// CHECK-SAME:      dscalars(tensor<4x1xf32>, tensor<4x1xf32>)
// CHECK:         %[[DN:.*]] = moe.routed_bias_grad %[[ROWS]]#1 routes(%[[R]]) {experts = array<i64: 1>}
// CHECK:         return {{.*}}, %[[DN]]
func.func @scalars(%x: tensor<1x4x8xf32>, %s: tensor<1x4x1xf32>, %r: !moe.routes<4x2, 1>, %u: tensor<16x8xf32>, %d: tensor<8x16xf32>,
    %p: tensor<1xf32>, %n: tensor<1xf32>, %dy: tensor<1x4x8xf32>) -> (tensor<1x4x8xf32>, tensor<1xf32>) {
  %y, %z = moe.experts %x, %s, %r, %u, %d, %p, %n, %u, %d, %n, %p {form = #moe.ffn<plain>, activation = #moe.activation<xielu>}
    : (tensor<1x4x8xf32>, tensor<1x4x1xf32>, !moe.routes<4x2, 1>, tensor<16x8xf32>, tensor<8x16xf32>, tensor<1xf32>, tensor<1xf32>, tensor<16x8xf32>, tensor<8x16xf32>, tensor<1xf32>, tensor<1xf32>) -> (tensor<1x4x8xf32>, tensor<4x16xf32>)
  %dn = moe.experts_grad %dy, %x scores(%s) routes(%r) preactivation(%z) weights(%u, %d, %p, %n, %u, %d, %n, %p) {form = #moe.ffn<plain>, activation = #moe.activation<xielu>, wanted = array<i1: false, false, false, false, false, false, false, true>}
    : (tensor<1x4x8xf32>, tensor<1x4x8xf32>, tensor<1x4x1xf32>, !moe.routes<4x2, 1>, tensor<4x16xf32>, tensor<16x8xf32>, tensor<8x16xf32>, tensor<1xf32>, tensor<1xf32>, tensor<16x8xf32>, tensor<8x16xf32>, tensor<1xf32>, tensor<1xf32>)
    -> dweights(tensor<1xf32>)
  return %y, %dn : tensor<1x4x8xf32>, tensor<1xf32>
}
