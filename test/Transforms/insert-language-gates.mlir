// RUN: moe-opt %s --moe-insert-language-gates | FileCheck %s
// RUN: moe-opt %s --moe-insert-language-gates | moe-opt | FileCheck %s
// RUN: moe-opt %s --moe-insert-language-gates="layers=2 seed=7" | FileCheck %s --check-prefix=SOME
// RUN: moe-opt %s --moe-insert-language-gates="pool=causal-mean" | FileCheck %s --check-prefix=MEAN
// RUN: moe-opt %s --moe-insert-language-gates="pool=sequence-sum" | FileCheck %s --check-prefix=SUM
// RUN: moe-opt %s --moe-insert-language-gates | not moe-opt --moe-insert-language-gates 2>&1 | FileCheck %s --check-prefix=TWICE
// RUN: not moe-opt %s --moe-insert-language-gates="layers=0" 2>&1 | FileCheck %s --check-prefix=DENSE
// RUN: not moe-opt %s --moe-insert-language-gates="layers=1,3" 2>&1 | FileCheck %s --check-prefix=RANGE
// RUN: not moe-opt %s --moe-insert-language-gates="layers=1,1" 2>&1 | FileCheck %s --check-prefix=REPEATED
// RUN: not moe-opt %s --moe-insert-language-gates="pool=mean" 2>&1 | FileCheck %s --check-prefix=POOL
// RUN: moe-opt %s --moe-force-expert | not moe-opt --moe-insert-language-gates 2>&1 | FileCheck %s --check-prefix=FORCED
// RUN: moe-opt %s --moe-insert-language-gates --moe-force-expert | FileCheck %s --check-prefix=FORCE

// TWICE: error: 'moe.route' op expected no language gate yet, but there is one
// DENSE: error: 'func.call' op expected experts in layer 0, but it is dense
// RANGE: error: expected layers in [0, 3), but got 3
// REPEATED: error: expected every layer once, but got 1 twice
// POOL: error: expected pool to be token, causal-mean or sequence-sum, but got 'mean'
// FORCED: error: 'moe.route' op expected a route that follows its router, but it is forced
// A forced route takes no notice of a gate.
// FORCE: moe.route %{{[^,]*}} {forced_expert = 0 : i64}

// Gates are frozen until stage 2.
// CHECK: moe.parameter router @mlp.1.gate.weight
// CHECK: moe.parameter language_gate @mlp.1.language_gate.weight : tensor<2x8xf32> from #moe.init<xavier_normal, seed = 0>
// CHECK: moe.parameter language_gate @mlp.2.language_gate.weight
// SOME-NOT: @mlp.1.language_gate.weight
// SOME: moe.parameter language_gate @mlp.2.language_gate.weight : tensor<2x8xf32> from #moe.init<xavier_normal, seed = 7>
moe.parameter backbone @up : tensor<12x8xf32> from #moe.checkpoint<"m", "up">
moe.parameter backbone @down : tensor<8x12xf32> from #moe.checkpoint<"m", "down">
moe.parameter router @mlp.1.gate.weight : tensor<3x8xf32> from #moe.init<xavier_normal, seed = 0>
moe.parameter router @mlp.2.gate.weight : tensor<3x8xf32> from #moe.init<xavier_normal, seed = 0>

// CHECK-LABEL: func.func @forward(
// CHECK: call @dense
// CHECK: %[[G1:.*]] = moe.get_parameter @mlp.1.language_gate.weight
// CHECK: call @layer(%{{.*}}, %[[G1]])
// CHECK: %[[G2:.*]] = moe.get_parameter @mlp.2.language_gate.weight
// CHECK: call @layer(%{{.*}}, %[[G2]])
// Layers that were alike and no longer are get a function of their own.
// SOME-LABEL: func.func @forward(
// SOME: call @layer(
// SOME: call @layer.gated(
func.func @forward(%h: tensor<?x?x8xf32> {moe.binding = #moe.binding<input, "tokens">}) -> (tensor<?x?x8xf32> {moe.binding = #moe.binding<output, "logits">}) {
  %u = moe.get_parameter @up : tensor<12x8xf32>
  %d = moe.get_parameter @down : tensor<8x12xf32>
  %h0 = call @dense(%h, %u, %d) : (tensor<?x?x8xf32>, tensor<12x8xf32>, tensor<8x12xf32>) -> tensor<?x?x8xf32>
  %r1 = moe.get_parameter @mlp.1.gate.weight : tensor<3x8xf32>
  %h1 = call @layer(%h0, %r1, %u, %d) : (tensor<?x?x8xf32>, tensor<3x8xf32>, tensor<12x8xf32>, tensor<8x12xf32>) -> tensor<?x?x8xf32>
  %r2 = moe.get_parameter @mlp.2.gate.weight : tensor<3x8xf32>
  %h2 = call @layer(%h1, %r2, %u, %d) : (tensor<?x?x8xf32>, tensor<3x8xf32>, tensor<12x8xf32>, tensor<8x12xf32>) -> tensor<?x?x8xf32>
  return %h2 : tensor<?x?x8xf32>
}

func.func private @dense(%x: tensor<?x?x8xf32>, %u: tensor<12x8xf32>, %d: tensor<8x12xf32>) -> tensor<?x?x8xf32> {
  %y = moe.ffn %x, %u, %u, %d {form = #moe.ffn<gated>, activation = #moe.activation<silu>} : (tensor<?x?x8xf32>, tensor<12x8xf32>, tensor<12x8xf32>, tensor<8x12xf32>) -> tensor<?x?x8xf32>
  return %y : tensor<?x?x8xf32>
}

// CHECK-LABEL: func.func private @layer(
// CHECK-SAME: %[[X:[^:]*]]: tensor<?x?x8xf32>
// CHECK-SAME: %[[W:[^:]*]]: tensor<2x8xf32>) -> tensor<?x?x8xf32>
// CHECK: %[[L:.*]] = moe.router %[[X]]
// CHECK: %[[G:.*]] = moe.language_gate %[[X]], %[[W]] : (tensor<?x?x8xf32>, tensor<2x8xf32>) -> tensor<?x?x2xf32>
// CHECK: moe.route %[[L]], %[[G]] {renormalize} : (tensor<?x?x3xf32>, tensor<?x?x2xf32>) -> (!moe.routes<?x3, 2>, tensor<?x?x2xf32>)
// SOME-LABEL: func.func private @layer(
// SOME: moe.route %{{[^,]*}} {renormalize}
// SOME-LABEL: func.func private @layer.gated(
// SOME: moe.language_gate
// SOME: moe.route %{{.*}}, %{{.*}} {renormalize}
// MEAN: %[[G:.*]] = moe.language_gate
// MEAN: %[[P:.*]] = moe.pool %[[G]] {kind = #moe.pool<causal_mean>}
// MEAN: moe.route %{{.*}}, %[[P]] {renormalize}
// SUM: moe.pool %{{.*}} {kind = #moe.pool<sequence_sum>}
func.func private @layer(%x: tensor<?x?x8xf32>, %router: tensor<3x8xf32>, %u: tensor<12x8xf32>, %d: tensor<8x12xf32>) -> tensor<?x?x8xf32> {
  %l = moe.router %x, %router : (tensor<?x?x8xf32>, tensor<3x8xf32>) -> tensor<?x?x3xf32>
  %r, %s = moe.route %l {renormalize} : (tensor<?x?x3xf32>) -> (!moe.routes<?x3, 2>, tensor<?x?x2xf32>)
  %y = moe.experts %x, %s, %r, %u, %u, %d, %u, %u, %d, %u, %u, %d {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (tensor<?x?x8xf32>, tensor<?x?x2xf32>, !moe.routes<?x3, 2>, tensor<12x8xf32>, tensor<12x8xf32>, tensor<8x12xf32>, tensor<12x8xf32>, tensor<12x8xf32>, tensor<8x12xf32>, tensor<12x8xf32>, tensor<12x8xf32>, tensor<8x12xf32>) -> tensor<?x?x8xf32>
  return %y : tensor<?x?x8xf32>
}
