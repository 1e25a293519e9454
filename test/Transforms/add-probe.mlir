// RUN: moe-opt %s --moe-add-probe | FileCheck %s
// RUN: moe-opt %s --moe-add-probe | moe-opt | FileCheck %s
// RUN: moe-opt %s --moe-add-probe="what=loads" | FileCheck %s --check-prefix=LOADS
// RUN: moe-opt %s --moe-probe-pipeline="rows=3 length=5" | FileCheck %s --check-prefix=PIPELINE
// RUN: not moe-opt %s --moe-add-probe="what=norms" 2>&1 | FileCheck %s --check-prefix=WHAT
// RUN: moe-opt %s --moe-force-expert | moe-opt --moe-add-probe="what=loads" | FileCheck %s --check-prefix=FORCED

// WHAT: error: expected what to be directions or loads, but got 'norms'
// FORCED: !moe.routes<?x3, 1>, tensor<?x?xi32>) -> tensor<?x3xf32>

// Experts that are not there have nothing to measure.
// RUN: sed "s/%y = moe.experts.*/%y = moe.add %x, %x : (tensor<?x?x8xbf16>, tensor<?x?x8xbf16>) -> tensor<?x?x8xbf16>/; /^    : (tensor/d" %s | not moe-opt --moe-add-probe 2>&1 | FileCheck %s --check-prefix=WITHOUT
// WITHOUT: error: 'moe.route' op expected a moe.experts in its layer

moe.parameter backbone @up : tensor<12x8xbf16> from #moe.checkpoint<"m", "up">
moe.parameter backbone @down : tensor<8x12xbf16> from #moe.checkpoint<"m", "down">
moe.parameter router @gate : tensor<3x8xbf16> from #moe.init<xavier_normal, seed = 0>

// CHECK-LABEL: func.func @probe(
// CHECK-SAME: %[[LABELS:[^:]*]]: tensor<?x?xi32> {moe.binding = #moe.binding<input, "labels">})
// CHECK-SAME: -> (tensor<?x8xf32> {moe.binding = #moe.binding<output, "directions.0">}, tensor<?x8xf32> {moe.binding = #moe.binding<output, "directions.1">}, tensor<?x8xf32> {moe.binding = #moe.binding<output, "directions.2">})
// CHECK: %[[H0:.*]]:2 = call @dense(%{{.*}}, %[[LABELS]])
// CHECK: %[[H1:.*]]:2 = call @layer(%[[H0]]#0, %{{.*}}, %[[LABELS]])
// CHECK: %[[H2:.*]]:2 = call @layer(%[[H1]]#0, %{{.*}}, %[[LABELS]])
// CHECK: return %[[H0]]#1, %[[H1]]#1, %[[H2]]#1

// Dense layers have no experts whose load there is to count.
// LOADS-LABEL: func.func @probe(
// LOADS-SAME: -> (tensor<?x3xf32> {moe.binding = #moe.binding<output, "loads.1">}, tensor<?x3xf32> {moe.binding = #moe.binding<output, "loads.2">})
// LOADS: %[[H0:.*]] = call @dense(
// LOADS: %[[H1:.*]]:2 = call @layer(%[[H0]],

// What only the logits needed is gone.
// PIPELINE-LABEL: func.func @probe(
// PIPELINE-NOT: moe.linear
// PIPELINE: moe.direction_sum {{.*}} -> tensor<3x8xf32>
func.func @forward(%tokens: tensor<?x?xi32> {moe.binding = #moe.binding<input, "tokens">}) -> (tensor<?x?x12xbf16> {moe.binding = #moe.binding<output, "logits">}) {
  %u = moe.get_parameter @up : tensor<12x8xbf16>
  %d = moe.get_parameter @down : tensor<8x12xbf16>
  %g = moe.get_parameter @gate : tensor<3x8xbf16>
  %h = moe.embedding %tokens, %u : (tensor<?x?xi32>, tensor<12x8xbf16>) -> tensor<?x?x8xbf16>
  %h0 = call @dense(%h, %u, %d) : (tensor<?x?x8xbf16>, tensor<12x8xbf16>, tensor<8x12xbf16>) -> tensor<?x?x8xbf16>
  %h1 = call @layer(%h0, %g, %u, %d) : (tensor<?x?x8xbf16>, tensor<3x8xbf16>, tensor<12x8xbf16>, tensor<8x12xbf16>) -> tensor<?x?x8xbf16>
  %h2 = call @layer(%h1, %g, %u, %d) : (tensor<?x?x8xbf16>, tensor<3x8xbf16>, tensor<12x8xbf16>, tensor<8x12xbf16>) -> tensor<?x?x8xbf16>
  %logits = moe.linear %h2, %u : (tensor<?x?x8xbf16>, tensor<12x8xbf16>) -> tensor<?x?x12xbf16>
  return %logits : tensor<?x?x12xbf16>
}

// CHECK-LABEL: func.func private @dense(
// CHECK-SAME: %[[X:[^:]*]]: tensor<?x?x8xbf16>
// CHECK-SAME: %[[LABELS:[^:]*]]: tensor<?x?xi32>) -> (tensor<?x?x8xbf16>, tensor<?x8xf32>)
// CHECK: %[[SUM:.*]] = moe.direction_sum %[[X]], %[[LABELS]] : (tensor<?x?x8xbf16>, tensor<?x?xi32>) -> tensor<?x8xf32>
// CHECK: return %{{.*}}, %[[SUM]]
func.func private @dense(%x: tensor<?x?x8xbf16>, %u: tensor<12x8xbf16>, %d: tensor<8x12xbf16>) -> tensor<?x?x8xbf16> {
  %y = moe.ffn %x, %u, %u, %d {form = #moe.ffn<gated>, activation = #moe.activation<silu>} : (tensor<?x?x8xbf16>, tensor<12x8xbf16>, tensor<12x8xbf16>, tensor<8x12xbf16>) -> tensor<?x?x8xbf16>
  return %y : tensor<?x?x8xbf16>
}

// CHECK-LABEL: func.func private @layer(
// CHECK: moe.direction_sum
// LOADS-LABEL: func.func private @layer(
// LOADS: %[[R:.*]], %{{.*}} = moe.route
// LOADS: %[[LOAD:.*]] = moe.expert_load %[[R]], %{{.*}} : (!moe.routes<?x3, 2>, tensor<?x?xi32>) -> tensor<?x3xf32>
// LOADS: return %{{.*}}, %[[LOAD]]
func.func private @layer(%x: tensor<?x?x8xbf16>, %router: tensor<3x8xbf16>, %u: tensor<12x8xbf16>, %d: tensor<8x12xbf16>) -> tensor<?x?x8xbf16> {
  %l = moe.router %x, %router : (tensor<?x?x8xbf16>, tensor<3x8xbf16>) -> tensor<?x?x3xf32>
  %r, %s = moe.route %l {renormalize} : (tensor<?x?x3xf32>) -> (!moe.routes<?x3, 2>, tensor<?x?x2xf32>)
  %y = moe.experts %x, %s, %r, %u, %u, %d, %u, %u, %d, %u, %u, %d {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (tensor<?x?x8xbf16>, tensor<?x?x2xf32>, !moe.routes<?x3, 2>, tensor<12x8xbf16>, tensor<12x8xbf16>, tensor<8x12xbf16>, tensor<12x8xbf16>, tensor<12x8xbf16>, tensor<8x12xbf16>, tensor<12x8xbf16>, tensor<12x8xbf16>, tensor<8x12xbf16>) -> tensor<?x?x8xbf16>
  return %y : tensor<?x?x8xbf16>
}
