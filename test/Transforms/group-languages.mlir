// RUN: moe-opt %s --moe-group-languages="groups=en+es,el+hu,zh-Hant layers=1,2" | FileCheck %s
// RUN: moe-opt %s --moe-group-languages="groups=en+es,el+hu,zh-Hant layers=1,2" | moe-opt | FileCheck %s
// RUN: moe-opt %s --moe-group-languages="groups=en,el layers=0 top-k=1 seed=3" | FileCheck %s --check-prefix=ONE
// RUN: moe-opt %s --moe-group-languages="groups=en,el layers=0" --moe-route-by-group --moe-verify-level=level=model | FileCheck %s --check-prefix=ROUTED

// RUN: not moe-opt %s --moe-group-languages 2>&1 | FileCheck %s --check-prefix=NOTHING
// NOTHING: error: expected a profile, or groups and layers, but got none; moe-run profile deviation measures one
// RUN: not moe-opt %s --moe-group-languages="groups=en,el layers=1 num-groups=2" 2>&1 | FileCheck %s --check-prefix=BOTH
// BOTH: error: expected groups or num-groups, but got both
// RUN: not moe-opt %s --moe-group-languages="groups=en,el layers=1 top=2" 2>&1 | FileCheck %s --check-prefix=TOP
// TOP: error: expected layers or top, but got both
// RUN: not moe-opt %s --moe-group-languages="groups=en+el layers=1" 2>&1 | FileCheck %s --check-prefix=SINGLE
// SINGLE: error: expected at least 2 groups, but got 1
// RUN: not moe-opt %s --moe-group-languages="groups=en+el,es+en layers=1" 2>&1 | FileCheck %s --check-prefix=TWICE
// TWICE: error: expected every language in one group, but got 'en' twice
// RUN: not moe-opt %s --moe-group-languages="groups=en+,es layers=1" 2>&1 | FileCheck %s --check-prefix=EMPTY
// EMPTY: error: expected groups as 'en+es,el+hu', but got an empty code in 'en+'
// RUN: not moe-opt %s --moe-group-languages="groups=en,es layers=3" 2>&1 | FileCheck %s --check-prefix=RANGE
// RANGE: error: expected layers in [0, 3), but got 3
// RUN: not moe-opt %s --moe-group-languages="groups=en,es layers=1,1" 2>&1 | FileCheck %s --check-prefix=SAME
// SAME: error: expected every layer once, but got 1 twice
// RUN: not moe-opt %s --moe-group-languages="groups=en,es layers=1" --moe-group-languages="groups=en,es layers=2" 2>&1 | FileCheck %s --check-prefix=AGAIN
// AGAIN: error: expected a model without groups of languages, but it has them already
// RUN: not moe-opt %s --moe-upcycle="counts=1,2,1" --moe-group-languages="groups=en,es layers=1" 2>&1 | FileCheck %s --check-prefix=SPARSE
// SPARSE: error: 'func.call' op expected a dense layer 1, but it has experts already
// RUN: not moe-opt %s --moe-group-languages="groups=en,es profile=nowhere.json" 2>&1 | FileCheck %s --check-prefix=NOWHERE
// NOWHERE: error: nowhere.json: cannot be opened: No such file or directory

// CHECK: module attributes {moe.groups = {el = 1 : i64, en = 0 : i64, es = 0 : i64, hu = 1 : i64, "zh-Hant" = 2 : i64}}
// CHECK: moe.parameter backbone @l1.up.weight
// CHECK: moe.parameter trainable router @l1.gate.weight : tensor<3x8xf32> from #moe.init<normal, seed = 0, std = 2.000000e-02
// CHECK: moe.parameter trainable expert @l1.experts.1.up.weight : tensor<12x8xf32> from #moe.copy<@l1.up.weight>
// CHECK: moe.parameter trainable expert @l1.experts.2.down.weight : tensor<8x12xf32> from #moe.copy<@l1.down.weight>
// ONE: moe.groups = {el = 1 : i64, en = 0 : i64}
// ONE: moe.parameter trainable router @l0.gate.weight : tensor<2x8xf32> from #moe.init<normal, seed = 3,
moe.parameter backbone @embed : tensor<16x8xf32> from #moe.checkpoint<"m", "embed">
moe.parameter backbone @l0.up.weight : tensor<12x8xf32> from #moe.checkpoint<"m", "up0">
moe.parameter backbone @l0.down.weight : tensor<8x12xf32> from #moe.checkpoint<"m", "down0">
moe.parameter backbone @l1.up.weight : tensor<12x8xf32> from #moe.checkpoint<"m", "up1">
moe.parameter backbone @l1.down.weight : tensor<8x12xf32> from #moe.checkpoint<"m", "down1">
moe.parameter backbone @l2.up.weight : tensor<12x8xf32> from #moe.checkpoint<"m", "up2">
moe.parameter backbone @l2.down.weight : tensor<8x12xf32> from #moe.checkpoint<"m", "down2">

// CHECK-LABEL: func.func @forward(
// CHECK: call @layer(
// CHECK: call @layer.experts3(
// CHECK: call @layer.experts3(
// ROUTED: call @layer.experts2({{.*}}, %{{.*}}) : ({{.*}}, tensor<?x?xi32>)
func.func @forward(%tokens: tensor<?x?xi32> {moe.binding = #moe.binding<input, "tokens">}) -> (tensor<?x?x16xf32> {moe.binding = #moe.binding<output, "logits">}) {
  %w = moe.get_parameter @embed : tensor<16x8xf32>
  %h = moe.embedding %tokens, %w : (tensor<?x?xi32>, tensor<16x8xf32>) -> tensor<?x?x8xf32>
  %u0 = moe.get_parameter @l0.up.weight : tensor<12x8xf32>
  %d0 = moe.get_parameter @l0.down.weight : tensor<8x12xf32>
  %h0 = call @layer(%h, %u0, %d0) : (tensor<?x?x8xf32>, tensor<12x8xf32>, tensor<8x12xf32>) -> tensor<?x?x8xf32>
  %u1 = moe.get_parameter @l1.up.weight : tensor<12x8xf32>
  %d1 = moe.get_parameter @l1.down.weight : tensor<8x12xf32>
  %h1 = call @layer(%h0, %u1, %d1) : (tensor<?x?x8xf32>, tensor<12x8xf32>, tensor<8x12xf32>) -> tensor<?x?x8xf32>
  %u2 = moe.get_parameter @l2.up.weight : tensor<12x8xf32>
  %d2 = moe.get_parameter @l2.down.weight : tensor<8x12xf32>
  %h2 = call @layer(%h1, %u2, %d2) : (tensor<?x?x8xf32>, tensor<12x8xf32>, tensor<8x12xf32>) -> tensor<?x?x8xf32>
  %logits = moe.linear %h2, %w : (tensor<?x?x8xf32>, tensor<16x8xf32>) -> tensor<?x?x16xf32>
  return %logits : tensor<?x?x16xf32>
}

// CHECK-LABEL: func.func private @layer(
// CHECK: moe.ffn
// CHECK-LABEL: func.func private @layer.experts3(
// CHECK: moe.route %{{.*}} {renormalize} : (tensor<?x?x3xf32>) -> (!moe.routes<?x3, 2>, tensor<?x?x2xf32>)
// ONE: moe.route %{{.*}} {renormalize} : (tensor<?x?x2xf32>) -> (!moe.routes<?x2, 1>, tensor<?x?x1xf32>)
func.func private @layer(%x: tensor<?x?x8xf32>, %up: tensor<12x8xf32>, %down: tensor<8x12xf32>) -> tensor<?x?x8xf32> {
  %y = moe.ffn %x, %up, %down {form = #moe.ffn<plain>, activation = #moe.activation<gelu>} : (tensor<?x?x8xf32>, tensor<12x8xf32>, tensor<8x12xf32>) -> tensor<?x?x8xf32>
  return %y : tensor<?x?x8xf32>
}
