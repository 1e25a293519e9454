// RUN: moe-opt %s --moe-differentiate --split-input-file | FileCheck %s

// The first layer's input is not active, so it has a pattern of its own; the
// other two share one.

moe.parameter backbone @embed : tensor<32x8xf32> from #moe.init<normal, seed = 0>
moe.parameter backbone @norm : tensor<8xf32> from #moe.init<ones, seed = 0>
moe.parameter trainable router @r0 : tensor<2x8xf32> from #moe.init<xavier_normal, seed = 0>
moe.parameter trainable router @r1 : tensor<2x8xf32> from #moe.init<xavier_normal, seed = 0>
moe.parameter trainable router @r2 : tensor<2x8xf32> from #moe.init<xavier_normal, seed = 0>
moe.parameter backbone @u0 : tensor<16x8xf32> from #moe.init<normal, seed = 0>
moe.parameter backbone @d0 : tensor<8x16xf32> from #moe.init<normal, seed = 0>
moe.parameter trainable expert @u1 : tensor<16x8xf32> from #moe.init<normal, seed = 0>
moe.parameter trainable expert @d1 : tensor<8x16xf32> from #moe.init<normal, seed = 0>

// CHECK-LABEL: func.func private @layer.forward(
// CHECK-SAME:    attributes {moe.backward = @layer.backward}
// CHECK:         %[[N:.*]] = moe.rms_norm
// CHECK:         %[[L:.*]] = moe.router
// CHECK:         %[[R:.*]], %[[S:.*]] = moe.route %[[L]]
// CHECK:         %[[B:.*]] = moe.balance_loss
// CHECK:         %[[Y:.*]], %[[Z:.*]] = moe.experts %[[N]], %[[S]], %[[R]]
// CHECK:         %[[H:.*]] = moe.add
// CHECK:         return %[[H]], %[[B]], %[[N]], %[[L]], %[[R]], %[[S]], %[[Z]] :

// CHECK-LABEL: func.func private @layer.backward(
// CHECK-SAME:    %[[H:.*]]: tensor<2x4x8xf32>, %[[MW:.*]]: tensor<f32>, %[[NW:.*]]: tensor<8xf32>, %[[RW:[a-z0-9]+]]: tensor<2x8xf32>
// CHECK-SAME:    %[[N:[a-z0-9]+]]: tensor<2x4x8xf32>, %[[L:[a-z0-9]+]]: tensor<2x4x2xf32>, %[[R:[a-z0-9]+]]: !moe.routes<8x2, 1>, %[[S:[a-z0-9]+]]: tensor<2x4x1xf32>, %[[Z:[a-z0-9]+]]: tensor<8x32xf32>
// CHECK-SAME:    %[[DH:[a-z0-9]+]]: tensor<2x4x8xf32>, %[[DB:[a-z0-9]+]]: tensor<f32>)
// CHECK-SAME:    -> (tensor<2x4x8xf32>, tensor<2x8xf32>, tensor<16x8xf32>, tensor<8x16xf32>)
// CHECK:         %[[DX:.*]], %[[DS:.*]], %[[DW:.*]]:3 = moe.experts_grad %[[DH]], %[[N]] scores(%[[S]]) routes(%[[R]]) preactivation(%[[Z]])
// CHECK-SAME:      wanted = array<i1: false, false, false, true, true, true>
// The second expert's gate and up are one parameter.
// CHECK:         %[[DU:.*]] = moe.add %[[DW]]#0, %[[DW]]#1
// CHECK:         %[[DL0:.*]] = moe.balance_loss_grad %[[DB]], %[[L]], %[[R]], %[[MW]]
// CHECK:         %[[DL1:.*]] = moe.route_grad %[[DS]], %[[L]], %[[R]]
// CHECK:         %[[DL:.*]] = moe.add %[[DL0]], %[[DL1]]
// CHECK:         %[[DN1:.*]] = moe.linear_input_grad %[[DL]], %[[RW]]
// CHECK:         %[[DR:.*]] = moe.linear_weight_grad %[[DL]], %[[N]]
// CHECK:         %[[DN:.*]] = moe.add %[[DX]], %[[DN1]]
// CHECK:         %[[DH1:.*]] = moe.rms_norm_grad %[[DN]], %[[H]], %[[NW]]
// CHECK:         %[[DH2:.*]] = moe.add %[[DH]], %[[DH1]]
// CHECK:         return %[[DH2]], %[[DR]], %[[DU]], %[[DW]]#2 :

// CHECK-LABEL: func.func private @layer.forward_1(
// CHECK-SAME:    attributes {moe.backward = @layer.backward_1}
// CHECK-LABEL: func.func private @layer.backward_1(
// CHECK-SAME:    -> (tensor<2x8xf32>, tensor<16x8xf32>, tensor<8x16xf32>)
// CHECK-NOT:     rms_norm_grad
// CHECK-NOT:     linear_input_grad
// CHECK:         return

func.func private @layer(%h: tensor<2x4x8xf32>, %w: tensor<f32>, %n: tensor<8xf32>, %r: tensor<2x8xf32>,
    %u0: tensor<16x8xf32>, %d0: tensor<8x16xf32>, %u1: tensor<16x8xf32>, %d1: tensor<8x16xf32>)
    -> (tensor<2x4x8xf32>, tensor<f32>) {
  %x = moe.rms_norm %h, %n {epsilon = 1.0e-5} : (tensor<2x4x8xf32>, tensor<8xf32>) -> tensor<2x4x8xf32>
  %l = moe.router %x, %r : (tensor<2x4x8xf32>, tensor<2x8xf32>) -> tensor<2x4x2xf32>
  %routes, %s = moe.route %l : (tensor<2x4x2xf32>) -> (!moe.routes<8x2, 1>, tensor<2x4x1xf32>)
  %b = moe.balance_loss %l, %routes, %w {form = #moe.form<paper>} : (tensor<2x4x2xf32>, !moe.routes<8x2, 1>, tensor<f32>) -> tensor<f32>
  %y = moe.experts %x, %s, %routes, %u0, %u0, %d0, %u1, %u1, %d1 {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (tensor<2x4x8xf32>, tensor<2x4x1xf32>, !moe.routes<8x2, 1>, tensor<16x8xf32>, tensor<16x8xf32>, tensor<8x16xf32>,
       tensor<16x8xf32>, tensor<16x8xf32>, tensor<8x16xf32>) -> tensor<2x4x8xf32>
  %z = moe.add %h, %y : (tensor<2x4x8xf32>, tensor<2x4x8xf32>) -> tensor<2x4x8xf32>
  return %z, %b : tensor<2x4x8xf32>, tensor<f32>
}

// CHECK-NOT:   func.func private @layer
// CHECK-LABEL: func.func @step(
// CHECK-DAG:     %[[E:.*]] = moe.get_parameter @embed
// CHECK:         %[[L0:.*]]:7 = call @layer.forward_1(
// CHECK:         %[[L1:.*]]:7 = call @layer.forward(%[[L0]]#0
// CHECK:         %[[L2:.*]]:7 = call @layer.forward(%[[L1]]#0
// CHECK:         %[[LOGITS:.*]] = moe.linear %[[L2]]#0, %[[E]]
// CHECK:         %[[NTP:.*]] = moe.cross_entropy
// CHECK:         %[[BAL:.*]] = moe.weighted_sum
// CHECK:         %[[LOSS:.*]] = moe.weighted_sum %[[NTP]], %[[BAL]]
// CHECK:         %[[ONE:.*]] = arith.constant dense<1.000000e+00> : tensor<f32>
// CHECK:         %[[W:.*]] = moe.weighted_sum %[[ONE]] {coefficients = array<f64: 1.000000e-02>}
// CHECK:         %[[W1:.*]] = moe.weighted_sum %[[W]] {coefficients = array<f64: 2.500000e-01>}
// CHECK:         %[[W2:.*]] = moe.weighted_sum %[[W]] {coefficients = array<f64: 5.000000e-01>}
// CHECK:         %[[DLOGITS:.*]] = moe.cross_entropy_grad %[[ONE]], %[[LOGITS]]
// CHECK:         %[[DH3:.*]] = moe.linear_input_grad %[[DLOGITS]], %[[E]]
// CHECK:         %[[G2:.*]]:4 = call @layer.backward(%[[L1]]#0, {{.*}} %[[L2]]#2, %[[L2]]#3, %[[L2]]#4, %[[L2]]#5, %[[L2]]#6, %[[DH3]], %[[W2]])
// CHECK:         moe.accumulate_gradient @r2, %[[G2]]#1 : tensor<2x8xf32>
// CHECK:         %[[G1:.*]]:4 = call @layer.backward(%[[L0]]#0, {{.*}}, %[[G2]]#0, %[[W1]])
// CHECK:         moe.accumulate_gradient @r1, %[[G1]]#1
// CHECK:         %[[U12:.*]] = moe.add %[[G2]]#2, %[[G1]]#2
// CHECK:         %[[D12:.*]] = moe.add %[[G2]]#3, %[[G1]]#3
// CHECK:         %[[G0:.*]]:3 = call @layer.backward_1({{.*}}, %[[G1]]#0, %[[W1]])
// CHECK:         moe.accumulate_gradient @r0, %[[G0]]#0
// CHECK:         %[[U:.*]] = moe.add %[[U12]], %[[G0]]#1
// CHECK:         moe.accumulate_gradient @u1, %[[U]]
// CHECK:         %[[D:.*]] = moe.add %[[D12]], %[[G0]]#2
// CHECK:         moe.accumulate_gradient @d1, %[[D]]
// CHECK:         return %[[LOSS]], %[[NTP]], %[[BAL]]

func.func @step(%tokens: tensor<2x4xi32>, %labels: tensor<2x4xi32>, %tw: tensor<f32>, %mw: tensor<f32>)
    -> (tensor<f32>, tensor<f32>, tensor<f32>) {
  %e = moe.get_parameter @embed : tensor<32x8xf32>
  %n = moe.get_parameter @norm : tensor<8xf32>
  %u0 = moe.get_parameter @u0 : tensor<16x8xf32>
  %d0 = moe.get_parameter @d0 : tensor<8x16xf32>
  %u1 = moe.get_parameter @u1 : tensor<16x8xf32>
  %d1 = moe.get_parameter @d1 : tensor<8x16xf32>
  %h0 = moe.embedding %tokens, %e : (tensor<2x4xi32>, tensor<32x8xf32>) -> tensor<2x4x8xf32>
  %r0 = moe.get_parameter @r0 : tensor<2x8xf32>
  %h1, %b0 = call @layer(%h0, %mw, %n, %r0, %u0, %d0, %u1, %d1) : (tensor<2x4x8xf32>, tensor<f32>, tensor<8xf32>, tensor<2x8xf32>,
    tensor<16x8xf32>, tensor<8x16xf32>, tensor<16x8xf32>, tensor<8x16xf32>) -> (tensor<2x4x8xf32>, tensor<f32>)
  %r1 = moe.get_parameter @r1 : tensor<2x8xf32>
  %h2, %b1 = call @layer(%h1, %mw, %n, %r1, %u0, %d0, %u1, %d1) : (tensor<2x4x8xf32>, tensor<f32>, tensor<8xf32>, tensor<2x8xf32>,
    tensor<16x8xf32>, tensor<8x16xf32>, tensor<16x8xf32>, tensor<8x16xf32>) -> (tensor<2x4x8xf32>, tensor<f32>)
  %r2 = moe.get_parameter @r2 : tensor<2x8xf32>
  %h3, %b2 = call @layer(%h2, %mw, %n, %r2, %u0, %d0, %u1, %d1) : (tensor<2x4x8xf32>, tensor<f32>, tensor<8xf32>, tensor<2x8xf32>,
    tensor<16x8xf32>, tensor<8x16xf32>, tensor<16x8xf32>, tensor<8x16xf32>) -> (tensor<2x4x8xf32>, tensor<f32>)
  %logits = moe.linear %h3, %e : (tensor<2x4x8xf32>, tensor<32x8xf32>) -> tensor<2x4x32xf32>
  %ntp = moe.cross_entropy %logits, %labels, %tw : (tensor<2x4x32xf32>, tensor<2x4xi32>, tensor<f32>) -> tensor<f32>
  %b = moe.weighted_sum %b0, %b1, %b2 {coefficients = array<f64: 0.25, 0.25, 0.5>} : (tensor<f32>, tensor<f32>, tensor<f32>) -> tensor<f32>
  %loss = moe.weighted_sum %ntp, %b {coefficients = array<f64: 1.0, 0.01>} : (tensor<f32>, tensor<f32>) -> tensor<f32>
  return %loss, %ntp, %b : tensor<f32>, tensor<f32>, tensor<f32>
}

// -----

// A tied embedding is one parameter with two uses: one gradient, in f32.

moe.parameter trainable backbone @embed : tensor<32x8xbf16> from #moe.init<normal, seed = 0>

// CHECK-LABEL: func.func @step(
// CHECK:         %[[E:.*]] = moe.get_parameter @embed
// CHECK-NOT:     moe.get_parameter
// CHECK:         %[[D:.*]] = moe.cross_entropy_grad
// CHECK:         %[[H:.*]] = moe.linear_input_grad %[[D]], %[[E]] : {{.*}} -> tensor<1x4x8xbf16>
// CHECK:         %[[G0:.*]] = moe.linear_weight_grad %[[D]], %{{.*}} -> tensor<32x8xf32>
// CHECK:         %[[G1:.*]] = moe.embedding_grad %{{.*}}, %[[H]] {scale = 2.000000e+00 : f64} : {{.*}} -> tensor<32x8xf32>
// CHECK:         %[[G:.*]] = moe.add %[[G0]], %[[G1]] :
// CHECK-NEXT:    moe.accumulate_gradient @embed, %[[G]] : tensor<32x8xf32>
func.func @step(%tokens: tensor<1x4xi32>, %labels: tensor<1x4xi32>, %tw: tensor<f32>) -> tensor<f32> {
  %e = moe.get_parameter @embed : tensor<32x8xbf16>
  %h = moe.embedding %tokens, %e {scale = 2.0} : (tensor<1x4xi32>, tensor<32x8xbf16>) -> tensor<1x4x8xbf16>
  %e1 = moe.get_parameter @embed : tensor<32x8xbf16>
  %logits = moe.linear %h, %e1 : (tensor<1x4x8xbf16>, tensor<32x8xbf16>) -> tensor<1x4x32xbf16>
  %loss = moe.cross_entropy %logits, %labels, %tw : (tensor<1x4x32xbf16>, tensor<1x4xi32>, tensor<f32>) -> tensor<f32>
  return %loss : tensor<f32>
}

// -----

// Calls inside calls, an argument returned as it is, one parameter for two
// arguments, a result that nothing reads, a parameter without influence, and
// an op without derivative beside the way to the loss.

moe.parameter trainable backbone @w : tensor<8x8xf32> from #moe.init<normal, seed = 0>
moe.parameter trainable backbone @idle : tensor<8x8xf32> from #moe.init<normal, seed = 0>
moe.parameter trainable backbone @unread : tensor<8x8xf32> from #moe.init<normal, seed = 0>

// The argument %x is the first result too, so nothing is saved for %b.
// CHECK-LABEL: func.func private @inner.forward(
// CHECK-SAME:    %[[X:.*]]: tensor<1x4x8xf32>, %[[A:.*]]: tensor<8x8xf32>, %[[B:[a-z0-9]+]]: tensor<8x8xf32>) -> (tensor<1x4x8xf32>, tensor<1x4x8xf32>, tensor<1x4x8xf32>)
// CHECK:         %[[Y:.*]] = moe.linear %[[X]], %[[A]]
// CHECK:         %[[Z:.*]] = moe.linear %[[Y]], %[[B]]
// CHECK:         return %[[X]], %[[Z]], %[[Y]]
// CHECK-LABEL: func.func private @inner.backward(
// CHECK-SAME:    %[[X:.*]]: tensor<1x4x8xf32>, %[[A:.*]]: tensor<8x8xf32>, %[[B:.*]]: tensor<8x8xf32>, %[[Y:.*]]: tensor<1x4x8xf32>, %[[DX0:.*]]: tensor<1x4x8xf32>, %[[DZ:[a-z0-9]+]]: tensor<1x4x8xf32>)
// CHECK:         %[[DY:.*]] = moe.linear_input_grad %[[DZ]], %[[B]]
// CHECK:         %[[DB:.*]] = moe.linear_weight_grad %[[DZ]], %[[Y]]
// CHECK:         %[[DX1:.*]] = moe.linear_input_grad %[[DY]], %[[A]]
// CHECK:         %[[DA:.*]] = moe.linear_weight_grad %[[DY]], %[[X]]
// CHECK:         %[[DX:.*]] = moe.add %[[DX0]], %[[DX1]]
// CHECK:         return %[[DX]], %[[DA]], %[[DB]]
func.func private @inner(%x: tensor<1x4x8xf32>, %a: tensor<8x8xf32>, %b: tensor<8x8xf32>) -> (tensor<1x4x8xf32>, tensor<1x4x8xf32>) {
  %y = moe.linear %x, %a : (tensor<1x4x8xf32>, tensor<8x8xf32>) -> tensor<1x4x8xf32>
  %z = moe.linear %y, %b : (tensor<1x4x8xf32>, tensor<8x8xf32>) -> tensor<1x4x8xf32>
  return %x, %z : tensor<1x4x8xf32>, tensor<1x4x8xf32>
}

// What the inner call saves, the outer one saves too.
// CHECK-LABEL: func.func private @outer.forward(
// CHECK:         %[[F:.*]]:3 = call @inner.forward(
// CHECK:         return %{{.*}}, %{{.*}}, %[[F]]#2 :
// CHECK-LABEL: func.func private @outer.backward(
// CHECK-SAME:    -> tensor<8x8xf32>
// CHECK:         %[[G:.*]]:3 = call @inner.backward(
// CHECK:         %[[GW:.*]] = moe.add %[[G]]#1, %[[G]]#2
// CHECK:         %[[GW2:.*]] = moe.add
// CHECK:         return %[[GW2]]
func.func private @outer(%x: tensor<1x4x8xf32>, %w: tensor<8x8xf32>, %idle: tensor<8x8xf32>) -> (tensor<1x4x8xf32>, tensor<1x4x8xf32>) {
  %i = moe.linear %x, %w : (tensor<1x4x8xf32>, tensor<8x8xf32>) -> tensor<1x4x8xf32>
  %p, %q = call @inner(%i, %w, %w) : (tensor<1x4x8xf32>, tensor<8x8xf32>, tensor<8x8xf32>) -> (tensor<1x4x8xf32>, tensor<1x4x8xf32>)
  %s = moe.add %p, %q : (tensor<1x4x8xf32>, tensor<1x4x8xf32>) -> tensor<1x4x8xf32>
  %d = moe.linear %x, %idle : (tensor<1x4x8xf32>, tensor<8x8xf32>) -> tensor<1x4x8xf32>
  return %s, %d : tensor<1x4x8xf32>, tensor<1x4x8xf32>
}

// CHECK-LABEL: func.func private @untouched(
// CHECK-NOT:     .forward
func.func private @untouched(%x: tensor<1x4x8xf32>, %w: tensor<8x8xf32>) -> tensor<1x4x8xf32> {
  %y = moe.linear %x, %w : (tensor<1x4x8xf32>, tensor<8x8xf32>) -> tensor<1x4x8xf32>
  return %y : tensor<1x4x8xf32>
}

// CHECK-LABEL: func.func @step(
// CHECK:         call @untouched(
// CHECK:         call @outer.forward(
// CHECK:         call @untouched(
// CHECK:         moe.token_logprobs
// CHECK:         %[[G:.*]] = call @outer.backward(
// CHECK:         moe.accumulate_gradient @w, %[[G]]
// CHECK-NOT:     moe.accumulate_gradient
func.func @step(%x: tensor<1x4x8xf32>, %labels: tensor<1x4xi32>, %tw: tensor<f32>) -> (tensor<f32>, tensor<1x4xf32>) {
  %w = moe.get_parameter @w : tensor<8x8xf32>
  %idle = moe.get_parameter @idle : tensor<8x8xf32>
  %unread = moe.get_parameter @unread : tensor<8x8xf32>
  %frozen = call @untouched(%x, %unread) : (tensor<1x4x8xf32>, tensor<8x8xf32>) -> tensor<1x4x8xf32>
  %h, %d = call @outer(%x, %w, %idle) : (tensor<1x4x8xf32>, tensor<8x8xf32>, tensor<8x8xf32>) -> (tensor<1x4x8xf32>, tensor<1x4x8xf32>)
  %loss = moe.cross_entropy %h, %labels, %tw : (tensor<1x4x8xf32>, tensor<1x4xi32>, tensor<f32>) -> tensor<f32>
  %o = call @untouched(%h, %w) : (tensor<1x4x8xf32>, tensor<8x8xf32>) -> tensor<1x4x8xf32>
  %lp = moe.token_logprobs %o, %labels : (tensor<1x4x8xf32>, tensor<1x4xi32>) -> tensor<1x4xf32>
  return %loss, %lp : tensor<f32>, tensor<1x4xf32>
}

// -----

// Attention and a plain FFN in f64. The frozen first linear needs no gradient,
// so attention gives none to the query, and nothing is saved for it.

moe.parameter trainable backbone @k : tensor<8x8xf64> from #moe.init<normal, seed = 0>
moe.parameter backbone @q : tensor<8x8xf64> from #moe.init<normal, seed = 0>
moe.parameter backbone @b : tensor<8xf64> from #moe.init<normal, seed = 0>
moe.parameter trainable backbone @n : tensor<8xf64> from #moe.init<normal, seed = 0>
moe.parameter trainable backbone @c : tensor<8xf64> from #moe.init<normal, seed = 0>

// CHECK-LABEL: func.func @step(
// CHECK:         %[[CB:.*]] = moe.get_parameter @c
// CHECK:         %[[Q:.*]] = moe.linear
// CHECK:         %[[K:.*]] = moe.linear
// CHECK:         %[[KR:.*]] = moe.rotary %[[K]], %[[COS:.*]], %[[SIN:.*]] :
// CHECK:         %[[O:.*]], %[[LSE:.*]] = moe.attention %[[Q]], %[[KR]], %{{.*}} -> (tensor<1x4x8xf64>, tensor<1x2x4xf64>)
// CHECK:         %[[N:.*]] = moe.layer_norm %[[O]]
// CHECK:         %[[Y:.*]], %[[Z:.*]] = moe.ffn %[[N]], {{.*}} -> (tensor<1x4x8xf64>, tensor<4x8xf64>)
// CHECK:         arith.constant dense<1.000000e+00> : tensor<f64>
// CHECK:         %[[DY:.*]] = moe.cross_entropy_grad
// CHECK:         %[[DN:.*]], %[[DC:.*]] = moe.experts_grad %[[DY]], %[[N]] preactivation(%[[Z]]) {{.*}} wanted = array<i1: false, false, false, true>
// CHECK:         moe.accumulate_gradient @c, %[[DC]] : tensor<8xf64>
// CHECK:         %[[DO:.*]] = moe.layer_norm_grad %[[DN]], %[[O]]
// CHECK:         %[[DNW:.*]] = moe.layer_norm_weight_grad %[[DN]], %[[O]]
// CHECK:         %[[DNB:.*]] = moe.column_sum %[[DN]]
// CHECK:         %[[DNS:.*]] = moe.add %[[DNW]], %[[DNB]]
// CHECK:         moe.accumulate_gradient @n, %[[DNS]]
// CHECK:         %{{.*}}, %[[DK:.*]], %{{.*}} = moe.attention_grad %[[DO]], %[[Q]], %[[KR]], %{{.*}}, %[[O]], %[[LSE]]
// CHECK:         %[[DKR:.*]] = moe.rotary %[[DK]], %[[COS]], %[[SIN]] {inverse}
// CHECK:         %[[DKW:.*]] = moe.linear_weight_grad %[[DKR]]
// CHECK:         moe.accumulate_gradient @k, %[[DKW]]
// CHECK-NOT:     linear_input_grad
func.func @step(%x: tensor<1x4x8xf64>, %slots: tensor<1x4xi32>, %labels: tensor<1x4xi32>, %tw: tensor<f64>) -> tensor<f64> {
  %qw = moe.get_parameter @q : tensor<8x8xf64>
  %kw = moe.get_parameter @k : tensor<8x8xf64>
  %n = moe.get_parameter @n : tensor<8xf64>
  %b = moe.get_parameter @b : tensor<8xf64>
  %c = moe.get_parameter @c : tensor<8xf64>
  %cos, %sin = moe.rotary_table %slots {frequencies = array<f32: 1.0, 0.1>} : (tensor<1x4xi32>) -> (tensor<1x4x2xf64>, tensor<1x4x2xf64>)
  %q = moe.linear %x, %qw : (tensor<1x4x8xf64>, tensor<8x8xf64>) -> tensor<1x4x8xf64>
  %k = moe.linear %x, %kw : (tensor<1x4x8xf64>, tensor<8x8xf64>) -> tensor<1x4x8xf64>
  %kr = moe.rotary %k, %cos, %sin : (tensor<1x4x8xf64>, tensor<1x4x2xf64>, tensor<1x4x2xf64>) -> tensor<1x4x8xf64>
  %o = moe.attention %q, %kr, %x, %slots {heads = 2 : i64, kv_heads = 2 : i64, scale = 0.5}
    : (tensor<1x4x8xf64>, tensor<1x4x8xf64>, tensor<1x4x8xf64>, tensor<1x4xi32>) -> tensor<1x4x8xf64>
  %m = moe.layer_norm %o, %n, %n {epsilon = 1.0e-5} : (tensor<1x4x8xf64>, tensor<8xf64>, tensor<8xf64>) -> tensor<1x4x8xf64>
  %y = moe.ffn %m, %qw, %b, %qw, %c {form = #moe.ffn<plain>, activation = #moe.activation<gelu>}
    : (tensor<1x4x8xf64>, tensor<8x8xf64>, tensor<8xf64>, tensor<8x8xf64>, tensor<8xf64>) -> tensor<1x4x8xf64>
  %loss = moe.cross_entropy %y, %labels, %tw : (tensor<1x4x8xf64>, tensor<1x4xi32>, tensor<f64>) -> tensor<f64>
  return %loss : tensor<f64>
}

// -----

// With a forced expert the router has no influence: what would lead to it is
// left out.

moe.parameter trainable router @r : tensor<2x8xf32> from #moe.init<normal, seed = 0>
moe.parameter trainable expert @w : tensor<8x8xf32> from #moe.init<normal, seed = 0>

// CHECK-LABEL: func.func private @router
// CHECK-NOT:     .backward
func.func private @router(%x: tensor<1x4x8xf32>, %r: tensor<2x8xf32>) -> (!moe.routes<4x2, 1>, tensor<1x4x1xf32>) {
  %l = moe.router %x, %r : (tensor<1x4x8xf32>, tensor<2x8xf32>) -> tensor<1x4x2xf32>
  %routes, %s = moe.route %l {forced_expert = 0 : i64} : (tensor<1x4x2xf32>) -> (!moe.routes<4x2, 1>, tensor<1x4x1xf32>)
  return %routes, %s : !moe.routes<4x2, 1>, tensor<1x4x1xf32>
}

// CHECK-LABEL: func.func @step(
// CHECK-NOT:     @r,
// CHECK:         moe.accumulate_gradient @w
// CHECK-NOT:     @r,
func.func @step(%x: tensor<1x4x8xf32>, %labels: tensor<1x4xi32>, %tw: tensor<f32>) -> tensor<f32> {
  %r = moe.get_parameter @r : tensor<2x8xf32>
  %w = moe.get_parameter @w : tensor<8x8xf32>
  %routes, %s = call @router(%x, %r) : (tensor<1x4x8xf32>, tensor<2x8xf32>) -> (!moe.routes<4x2, 1>, tensor<1x4x1xf32>)
  %y = moe.experts %x, %s, %routes, %w, %w, %w, %w, %w, %w {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (tensor<1x4x8xf32>, tensor<1x4x1xf32>, !moe.routes<4x2, 1>, tensor<8x8xf32>, tensor<8x8xf32>, tensor<8x8xf32>,
       tensor<8x8xf32>, tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<1x4x8xf32>
  %loss = moe.cross_entropy %y, %labels, %tw : (tensor<1x4x8xf32>, tensor<1x4xi32>, tensor<f32>) -> tensor<f32>
  return %loss : tensor<f32>
}

// -----

// Two calls of one function, of which each has another active result.

moe.parameter trainable backbone @a : tensor<8x8xf32> from #moe.init<normal, seed = 0>
moe.parameter trainable backbone @b : tensor<8x8xf32> from #moe.init<normal, seed = 0>
moe.parameter backbone @frozen : tensor<8x8xf32> from #moe.init<normal, seed = 0>

func.func private @two(%x: tensor<1x4x8xf32>, %p: tensor<8x8xf32>, %q: tensor<8x8xf32>) -> (tensor<1x4x8xf32>, tensor<1x4x8xf32>) {
  %y = moe.linear %x, %p : (tensor<1x4x8xf32>, tensor<8x8xf32>) -> tensor<1x4x8xf32>
  %z = moe.linear %x, %q : (tensor<1x4x8xf32>, tensor<8x8xf32>) -> tensor<1x4x8xf32>
  return %y, %z : tensor<1x4x8xf32>, tensor<1x4x8xf32>
}

// CHECK-LABEL: func.func @step(
// CHECK:         %[[D:.*]] = moe.cross_entropy_grad
// CHECK:         %[[B:.*]] = call @two.backward(%arg0, %[[D]])
// CHECK:         moe.accumulate_gradient @b, %[[B]] :
// CHECK:         %[[A:.*]] = call @two.backward_1(%arg0, %[[D]])
// CHECK:         moe.accumulate_gradient @a, %[[A]]
func.func @step(%x: tensor<1x4x8xf32>, %labels: tensor<1x4xi32>, %tw: tensor<f32>) -> tensor<f32> {
  %a = moe.get_parameter @a : tensor<8x8xf32>
  %b = moe.get_parameter @b : tensor<8x8xf32>
  %frozen = moe.get_parameter @frozen : tensor<8x8xf32>
  %y, %u = call @two(%x, %a, %frozen) : (tensor<1x4x8xf32>, tensor<8x8xf32>, tensor<8x8xf32>) -> (tensor<1x4x8xf32>, tensor<1x4x8xf32>)
  %v, %z = call @two(%x, %frozen, %b) : (tensor<1x4x8xf32>, tensor<8x8xf32>, tensor<8x8xf32>) -> (tensor<1x4x8xf32>, tensor<1x4x8xf32>)
  %yu = moe.add %y, %u : (tensor<1x4x8xf32>, tensor<1x4x8xf32>) -> tensor<1x4x8xf32>
  %vz = moe.add %v, %z : (tensor<1x4x8xf32>, tensor<1x4x8xf32>) -> tensor<1x4x8xf32>
  %h = moe.add %yu, %vz : (tensor<1x4x8xf32>, tensor<1x4x8xf32>) -> tensor<1x4x8xf32>
  %loss = moe.cross_entropy %h, %labels, %tw : (tensor<1x4x8xf32>, tensor<1x4xi32>, tensor<f32>) -> tensor<f32>
  return %loss : tensor<f32>
}

// -----

// Soft caps, a scale, and a norm without a bias.

moe.parameter trainable backbone @w : tensor<8x8xf32> from #moe.init<normal, seed = 0>
moe.parameter trainable backbone @n : tensor<8xf32> from #moe.init<normal, seed = 0>

// CHECK-LABEL: func.func @step(
// CHECK:         %[[N:.*]] = moe.layer_norm %[[X:[^,]*]], %{{[^,]*}} {
// CHECK:         %[[Q:.*]] = moe.linear %[[N]]
// CHECK:         moe.attention %[[Q]], {{.*}} softcap = 5.000000e+01
// CHECK:         %[[S:.*]] = moe.scale %{{.*}} {factor = 5.000000e-01 : f64}
// CHECK:         moe.soft_cap %[[S]] {cap = 3.000000e+01 : f64}
// CHECK:         %[[DC:.*]] = moe.cross_entropy_grad
// CHECK:         %[[DS:.*]] = moe.soft_cap_grad %[[DC]], %[[S]] {cap = 3.000000e+01 : f64}
// CHECK:         %[[DA:.*]] = moe.scale %[[DS]] {factor = 5.000000e-01 : f64}
// CHECK:         %[[DQ:.*]], %{{.*}}, %{{.*}} = moe.attention_grad %[[DA]], %[[Q]], {{.*}} softcap = 5.000000e+01
// CHECK:         moe.linear_weight_grad %[[DQ]]
// CHECK:         moe.layer_norm_weight_grad %{{.*}}, %[[X]]
// CHECK-NOT:     moe.column_sum
func.func @step(%x: tensor<1x4x8xf32>, %slots: tensor<1x4xi32>, %labels: tensor<1x4xi32>, %tw: tensor<f32>) -> tensor<f32> {
  %w = moe.get_parameter @w : tensor<8x8xf32>
  %nw = moe.get_parameter @n : tensor<8xf32>
  %n = moe.layer_norm %x, %nw {epsilon = 1.0e-5} : (tensor<1x4x8xf32>, tensor<8xf32>) -> tensor<1x4x8xf32>
  %q = moe.linear %n, %w : (tensor<1x4x8xf32>, tensor<8x8xf32>) -> tensor<1x4x8xf32>
  %o = moe.attention %q, %x, %x, %slots {heads = 2 : i64, kv_heads = 2 : i64, scale = 0.5, softcap = 50.0}
    : (tensor<1x4x8xf32>, tensor<1x4x8xf32>, tensor<1x4x8xf32>, tensor<1x4xi32>) -> tensor<1x4x8xf32>
  %s = moe.scale %o {factor = 0.5} : tensor<1x4x8xf32>
  %c = moe.soft_cap %s {cap = 30.0} : tensor<1x4x8xf32>
  %loss = moe.cross_entropy %c, %labels, %tw : (tensor<1x4x8xf32>, tensor<1x4xi32>, tensor<f32>) -> tensor<f32>
  return %loss : tensor<f32>
}
