// RUN: %python %S/Inputs/similarity.py %s %t.json 0.1 0.2
// RUN: moe-opt %s --moe-allocate-experts="profile=%t.json budget=3 seed=7" | FileCheck %s
// RUN: moe-opt %s --moe-allocate-experts="profile=%t.json budget=3 seed=7" | moe-opt | FileCheck %s
// RUN: moe-opt %s --moe-allocate-experts="profile=%t.json delta=3" | FileCheck %s --check-prefix=DELTA
// RUN: moe-opt %s --moe-allocate-experts="profile=%t.json budget=0" | FileCheck %s --check-prefix=DENSE

// The gate of the layer where languages are most alike.
// RUN: moe-opt %s --moe-allocate-experts="profile=%t.json budget=3" --moe-insert-language-gates="profile=%t.json most-similar=1" | FileCheck %s --check-prefix=GATES

// A second round, on a profile of the mixture.
// RUN: moe-opt %s --moe-upcycle="counts=3,2" --moe-insert-language-gates="layers=0" -o %t.moe.mlir
// RUN: %python %S/Inputs/similarity.py %t.moe.mlir %t.moe.json 0.1 0.2 --experts 3,2
// RUN: moe-opt %t.moe.mlir --moe-allocate-experts="profile=%t.moe.json delta=3 seed=9" --moe-freeze-backbone | FileCheck %s --check-prefix=ROUND2

// RUN: not moe-opt %s --moe-allocate-experts="profile=%t.json" 2>&1 | FileCheck %s --check-prefix=NEITHER
// RUN: not moe-opt %s --moe-allocate-experts="profile=%t.json budget=3 delta=3" 2>&1 | FileCheck %s --check-prefix=BOTH
// RUN: not moe-opt %s --moe-allocate-experts="profile=%t.json budget=-1" 2>&1 | FileCheck %s --check-prefix=NEGATIVE
// RUN: not moe-opt %s --moe-allocate-experts="profile=%t.json delta=0" 2>&1 | FileCheck %s --check-prefix=ZERO
// RUN: not moe-opt %s --moe-allocate-experts="budget=3" 2>&1 | FileCheck %s --check-prefix=NONE
// RUN: not moe-opt %s --moe-allocate-experts="profile=%t.nothing budget=3" 2>&1 | FileCheck %s --check-prefix=MISSING
// RUN: not moe-opt %t.moe.mlir --moe-allocate-experts="profile=%t.json budget=3" 2>&1 | FileCheck %s --check-prefix=EXPERTS
// RUN: %python %S/Inputs/similarity.py %s %t.other.json 0.1 0.2 --base 0123456789abcdef
// RUN: not moe-opt %s --moe-allocate-experts="profile=%t.other.json budget=3" 2>&1 | FileCheck %s --check-prefix=OTHER
// RUN: %python %S/Inputs/similarity.py %s %t.three.json 0.1 0.2 0.3
// RUN: not moe-opt %s --moe-allocate-experts="profile=%t.three.json budget=3" 2>&1 | FileCheck %s --check-prefix=THREE
// RUN: %python %S/Inputs/similarity.py %s %t.zero.json 0.1 0
// RUN: not moe-opt %s --moe-allocate-experts="profile=%t.zero.json budget=3" 2>&1 | FileCheck %s --check-prefix=POSITIVE

// RUN: %python %S/Inputs/similarity.py %s %t.tiny.json 0.1 1e-310
// RUN: not moe-opt %s --moe-allocate-experts="profile=%t.tiny.json budget=3" 2>&1 | FileCheck %s --check-prefix=TINY
// RUN: not moe-opt %s --moe-allocate-experts="profile=%t.json delta=1e300" 2>&1 | FileCheck %s --check-prefix=HUGE
// TINY: error: {{.*}}tiny.json: key 'layers[1]': expected languages with a positive mean similarity, but got
// HUGE: expected at most 1024 experts in a layer, but got 1048576

// NEITHER: error: expected delta or budget, but got neither
// BOTH: error: expected delta or budget, but got both
// NEGATIVE: error: expected a budget of at least 0 new experts, but got -1
// ZERO: error: expected a positive delta, but got 0
// NONE: error: expected profile to name a file that moe-run profile similarity wrote
// MISSING: error: {{.*}}nothing
// EXPERTS: error: {{.*}}.json: key 'model.experts[0]': expected 3, as this model has, but got 1; moe-run profile measures this model
// OTHER: error: {{.*}}other.json: key 'model.base': expected {{[0-9a-f]+}}, as this model has, but got 0123456789abcdef
// THREE: error: {{.*}}three.json: key 'model.experts': expected 2 layers, as this model has, but got 3 layers
// POSITIVE: error: {{.*}}zero.json: key 'layers[1]': expected languages with a positive mean similarity, but got 0

// Twice as alike, half as many: with delta = 4.5 the formula has 3 and 2.
// CHECK: moe.parameter trainable router @p.0.gate.weight : tensor<3x8xf32> from #moe.init<xavier_normal, seed = 7>
// CHECK: moe.parameter trainable expert @p.0.experts.2.down : tensor<8x12xf32> from #moe.copy<@p.0.down>
// CHECK: moe.parameter trainable router @p.1.gate.weight : tensor<2x8xf32>
// CHECK-NOT: @p.1.experts.2
// CHECK: call @layer.experts3(
// CHECK: call @layer.experts2(

// DELTA: call @layer.experts2(
// DELTA: call @layer(

// DENSE-NOT: moe.experts

// GATES-NOT: @p.0.language_gate.weight
// GATES: @p.1.language_gate.weight

// The experts of the first round do not train any more; routers and gates are drawn anew.
// ROUND2: moe.parameter backbone @p.0.down
// ROUND2: moe.parameter trainable router @p.0.gate.weight : tensor<4x8xf32> from #moe.init<xavier_normal, seed = 9>
// ROUND2: moe.parameter language_gate @p.0.language_gate.weight : tensor<2x8xf32> from #moe.init<xavier_normal, seed = 9>
// ROUND2: moe.parameter backbone @p.0.experts.1.up
// ROUND2: moe.parameter backbone @p.0.experts.2.down
// ROUND2: moe.parameter trainable expert @p.0.experts.3.up : tensor<12x8xf32> from #moe.copy<@p.0.up>
// Nothing is new in the second layer, whose expert is of the first round, too.
// ROUND2: moe.parameter trainable router @p.1.gate.weight : tensor<2x8xf32> from #moe.init<xavier_normal, seed = 0>
// ROUND2: moe.parameter backbone @p.1.experts.1.up
// ROUND2-LABEL: func.func private @layer.experts3{{.*}}(
// ROUND2: moe.router %{{.*}} : (tensor<?x?x8xf32>, tensor<4x8xf32>) -> tensor<?x?x4xf32>
// ROUND2: moe.route {{.*}} {renormalize} : (tensor<?x?x4xf32>, tensor<?x?x2xf32>) -> (!moe.routes<?x4, 2>, tensor<?x?x2xf32>)
// ROUND2: moe.experts

moe.parameter backbone @p.0.up : tensor<12x8xf32> from #moe.checkpoint<"m", "p.0.up">
moe.parameter backbone @p.0.down : tensor<8x12xf32> from #moe.checkpoint<"m", "p.0.down">
moe.parameter backbone @p.1.up : tensor<12x8xf32> from #moe.checkpoint<"m", "p.1.up">
moe.parameter backbone @p.1.down : tensor<8x12xf32> from #moe.checkpoint<"m", "p.1.down">

func.func @forward(%h: tensor<?x?x8xf32> {moe.binding = #moe.binding<input, "tokens">}) -> (tensor<?x?x8xf32> {moe.binding = #moe.binding<output, "logits">}) {
  %u0 = moe.get_parameter @p.0.up : tensor<12x8xf32>
  %d0 = moe.get_parameter @p.0.down : tensor<8x12xf32>
  %h0 = call @layer(%h, %u0, %d0) : (tensor<?x?x8xf32>, tensor<12x8xf32>, tensor<8x12xf32>) -> tensor<?x?x8xf32>
  %u1 = moe.get_parameter @p.1.up : tensor<12x8xf32>
  %d1 = moe.get_parameter @p.1.down : tensor<8x12xf32>
  %h1 = call @layer(%h0, %u1, %d1) : (tensor<?x?x8xf32>, tensor<12x8xf32>, tensor<8x12xf32>) -> tensor<?x?x8xf32>
  return %h1 : tensor<?x?x8xf32>
}

func.func private @layer(%x: tensor<?x?x8xf32>, %u: tensor<12x8xf32>, %d: tensor<8x12xf32>) -> tensor<?x?x8xf32> {
  %y = moe.ffn %x, %u, %d {form = #moe.ffn<plain>, activation = #moe.activation<silu>} : (tensor<?x?x8xf32>, tensor<12x8xf32>, tensor<8x12xf32>) -> tensor<?x?x8xf32>
  return %y : tensor<?x?x8xf32>
}
