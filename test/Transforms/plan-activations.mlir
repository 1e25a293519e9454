// RUN: moe-opt %s --moe-plan-activations | FileCheck %s --check-prefixes=CHECK,CHEAP
// RUN: moe-opt %s --moe-plan-activations=memory-budget=16 | FileCheck %s --check-prefixes=CHECK,CHEAP
// RUN: moe-opt %s --moe-plan-activations=memory-budget=10 | FileCheck %s --check-prefixes=CHECK,SOME
// RUN: moe-opt %s --moe-plan-activations=memory-budget=1 | FileCheck %s --check-prefixes=CHECK,ALL
// RUN: not moe-opt %s --moe-plan-activations=memory-budget=-1 2>&1 | FileCheck %s --check-prefix=NEGATIVE

// NEGATIVE: error: expected a memory budget of at least 0, but got -1

// An activation has 1 MiB. What the cheap ops make, k and the input of the FFN,
// is always recomputed: two layers still hold 12 MiB, their input, q, the output
// of attention with its log-sum-exp, h1 and the pre-activation.

moe.parameter trainable backbone @w : tensor<512x512xf32> from #moe.init<normal, seed = 0>
moe.parameter backbone @n : tensor<512xf32> from #moe.init<ones, seed = 0>

// CHECK-LABEL: func.func private @layer.forward(
// CHEAP:         %[[Q:.*]] = moe.linear %arg0
// CHEAP:         %[[O:.*]], %[[LSE:.*]] = moe.attention
// CHEAP:         %[[H1:.*]] = moe.add
// CHEAP:         %[[Y:.*]], %[[Z:.*]] = moe.ffn
// CHEAP:         %[[H2:.*]] = moe.add
// CHEAP:         return %[[H2]], %[[Q]], %[[O]], %[[LSE]], %[[H1]], %[[Z]] :
// SOME:          %[[O:.*]], %[[LSE:.*]] = moe.attention
// SOME:          %{{.*}}, %[[Z:.*]] = moe.ffn
// SOME:          %[[H2:.*]] = moe.add
// SOME:          return %[[H2]], %[[O]], %[[LSE]], %[[Z]] :
// Nothing reads the log-sum-exp any more, so it is not made.
// ALL:           %[[O:.*]] = moe.attention {{.*}} -> tensor<1x512x512xf32>
// ALL:           moe.ffn
// ALL:           %[[H2:.*]] = moe.add
// ALL:           return %[[H2]] : tensor<1x512x512xf32>
func.func private @layer.forward(%h: tensor<1x512x512xf32>, %cos: tensor<1x512x64xf32>, %slots: tensor<1x512xi32>, %w: tensor<512x512xf32>, %n: tensor<512xf32>)
    -> (tensor<1x512x512xf32>, tensor<1x512x512xf32>, tensor<1x512x512xf32>, tensor<1x512x512xf32>, tensor<1x4x512xf32>, tensor<1x512x512xf32>, tensor<1x512x512xf32>, tensor<512x1024xf32>)
    attributes {moe.backward = @layer.backward} {
  %q = moe.linear %h, %w : (tensor<1x512x512xf32>, tensor<512x512xf32>) -> tensor<1x512x512xf32>
  %k = moe.rotary %q, %cos, %cos : (tensor<1x512x512xf32>, tensor<1x512x64xf32>, tensor<1x512x64xf32>) -> tensor<1x512x512xf32>
  %o, %lse = moe.attention %q, %k, %h, %slots {heads = 4 : i64, kv_heads = 4 : i64, scale = 0.1}
    : (tensor<1x512x512xf32>, tensor<1x512x512xf32>, tensor<1x512x512xf32>, tensor<1x512xi32>) -> (tensor<1x512x512xf32>, tensor<1x4x512xf32>)
  %h1 = moe.add %h, %o : (tensor<1x512x512xf32>, tensor<1x512x512xf32>) -> tensor<1x512x512xf32>
  %x = moe.rms_norm %h1, %n {epsilon = 1.0e-6} : (tensor<1x512x512xf32>, tensor<512xf32>) -> tensor<1x512x512xf32>
  %y, %z = moe.ffn %x, %w, %w, %w {form = #moe.ffn<gated>, activation = #moe.activation<silu>}
    : (tensor<1x512x512xf32>, tensor<512x512xf32>, tensor<512x512xf32>, tensor<512x512xf32>) -> (tensor<1x512x512xf32>, tensor<512x1024xf32>)
  %h2 = moe.add %h1, %y : (tensor<1x512x512xf32>, tensor<1x512x512xf32>) -> tensor<1x512x512xf32>
  return %h2, %q, %k, %o, %lse, %h1, %x, %z : tensor<1x512x512xf32>, tensor<1x512x512xf32>, tensor<1x512x512xf32>, tensor<1x512x512xf32>, tensor<1x4x512xf32>, tensor<1x512x512xf32>, tensor<1x512x512xf32>, tensor<512x1024xf32>
}

// CHECK-LABEL: func.func private @layer.backward(
// CHEAP-SAME:    %[[H:arg0]]: {{.*}} %[[N:arg4]]: tensor<512xf32>, %[[Q:arg5]]: {{.*}}, %[[O:arg6]]: {{.*}}, %[[LSE:arg7]]: {{.*}}, %[[H1:arg8]]: {{.*}}, %[[Z:arg9]]: {{.*}}, %[[DH2:arg10]]:
// CHEAP:         %[[X:.*]] = moe.rms_norm %[[H1]], %[[N]]
// CHEAP-NEXT:    %[[DX:.*]], %{{.*}} = moe.experts_grad %[[DH2]], %[[X]] preactivation(%[[Z]])
// CHEAP:         %[[DH1:.*]] = moe.rms_norm_grad %[[DX]], %[[H1]]
// CHEAP-NEXT:    %[[K:.*]] = moe.rotary %[[Q]], %arg1, %arg1 :
// CHEAP-NEXT:    moe.attention_grad %[[DH1]], %[[Q]], %[[K]], %[[H]], %[[O]], %[[LSE]]

// An addition and a linear bring more bytes per operation than FFN and attention.
// SOME-SAME:     %[[H:arg0]]: {{.*}} %[[O:arg5]]: {{.*}}, %[[LSE:arg6]]: {{.*}}, %[[Z:arg7]]: {{.*}}, %[[DH2:arg8]]:
// SOME:          %[[H1:.*]] = moe.add %[[H]], %[[O]]
// SOME-NEXT:     %[[X:.*]] = moe.rms_norm %[[H1]]
// SOME-NEXT:     moe.experts_grad %[[DH2]], %[[X]] preactivation(%[[Z]])
// SOME:          %[[Q:.*]] = moe.linear %[[H]]
// SOME-NEXT:     %[[K:.*]] = moe.rotary %[[Q]]
// SOME-NEXT:     moe.attention_grad %{{.*}}, %[[Q]], %[[K]], %[[H]], %[[O]], %[[LSE]]

// ALL-SAME:      %[[H:arg0]]: {{.*}} %arg4: tensor<512xf32>, %[[DH2:arg5]]: tensor<1x512x512xf32>)
// ALL:           %[[Q:.*]] = moe.linear %[[H]]
// ALL:           %[[K:.*]] = moe.rotary %[[Q]]
// ALL:           %[[O:.*]], %[[LSE:.*]] = moe.attention %[[Q]], %[[K]], %[[H]]
// ALL:           %[[H1:.*]] = moe.add %[[H]], %[[O]]
// ALL:           %[[X:.*]] = moe.rms_norm %[[H1]]
// ALL:           %{{.*}}, %[[Z:.*]] = moe.ffn %[[X]]
// ALL:           moe.experts_grad %[[DH2]], %[[X]] preactivation(%[[Z]])
// ALL:           moe.attention_grad %{{.*}}, %[[Q]], %[[K]], %[[H]], %[[O]], %[[LSE]]
func.func private @layer.backward(%h: tensor<1x512x512xf32>, %cos: tensor<1x512x64xf32>, %slots: tensor<1x512xi32>, %w: tensor<512x512xf32>, %n: tensor<512xf32>,
    %q: tensor<1x512x512xf32>, %k: tensor<1x512x512xf32>, %o: tensor<1x512x512xf32>, %lse: tensor<1x4x512xf32>, %h1: tensor<1x512x512xf32>, %x: tensor<1x512x512xf32>, %z: tensor<512x1024xf32>,
    %dh2: tensor<1x512x512xf32>) -> (tensor<1x512x512xf32>, tensor<512x512xf32>) {
  %dx, %dw = moe.experts_grad %dh2, %x preactivation(%z) weights(%w, %w, %w) {form = #moe.ffn<gated>, activation = #moe.activation<silu>, wanted = array<i1: true, false, false>}
    : (tensor<1x512x512xf32>, tensor<1x512x512xf32>, tensor<512x1024xf32>, tensor<512x512xf32>, tensor<512x512xf32>, tensor<512x512xf32>) -> dx(tensor<1x512x512xf32>) dweights(tensor<512x512xf32>)
  %dh1 = moe.rms_norm_grad %dx, %h1, %n {epsilon = 1.0e-6} : (tensor<1x512x512xf32>, tensor<1x512x512xf32>, tensor<512xf32>) -> tensor<1x512x512xf32>
  %dq, %dk, %dv = moe.attention_grad %dh1, %q, %k, %h, %o, %lse, %slots {heads = 4 : i64, kv_heads = 4 : i64, scale = 0.1}
    : (tensor<1x512x512xf32>, tensor<1x512x512xf32>, tensor<1x512x512xf32>, tensor<1x512x512xf32>, tensor<1x512x512xf32>, tensor<1x4x512xf32>, tensor<1x512xi32>)
    -> (tensor<1x512x512xf32>, tensor<1x512x512xf32>, tensor<1x512x512xf32>)
  %dk1 = moe.rotary %dk, %cos, %cos {inverse} : (tensor<1x512x512xf32>, tensor<1x512x64xf32>, tensor<1x512x64xf32>) -> tensor<1x512x512xf32>
  %dh = moe.linear_input_grad %dk1, %w : (tensor<1x512x512xf32>, tensor<512x512xf32>) -> tensor<1x512x512xf32>
  return %dh, %dw : tensor<1x512x512xf32>, tensor<512x512xf32>
}

// CHECK-LABEL: func.func @step(
// CHEAP:         %[[L1:.*]]:6 = call @layer.forward(
// CHEAP:         %[[L2:.*]]:6 = call @layer.forward(%[[L1]]#0
// CHEAP:         %[[G2:.*]]:2 = call @layer.backward(%[[L1]]#0, {{.*}}, %[[L2]]#1, %[[L2]]#2, %[[L2]]#3, %[[L2]]#4, %[[L2]]#5, %[[L2]]#0)
// CHEAP:         call @layer.backward(%arg0, {{.*}}, %[[L1]]#1, %[[L1]]#2, %[[L1]]#3, %[[L1]]#4, %[[L1]]#5, %[[G2]]#0)
// ALL:           %[[L1:.*]] = call @layer.forward(%arg0
// ALL:           %[[L2:.*]] = call @layer.forward(%[[L1]],
// ALL:           %[[G2:.*]]:2 = call @layer.backward(%[[L1]], %arg1, %arg2, %{{.*}}, %{{.*}}, %[[L2]])
// ALL:           call @layer.backward(%arg0, %arg1, %arg2, %{{.*}}, %{{.*}}, %[[G2]]#0)
func.func @step(%h0: tensor<1x512x512xf32>, %cos: tensor<1x512x64xf32>, %slots: tensor<1x512xi32>) -> tensor<1x512x512xf32> {
  %w = moe.get_parameter @w : tensor<512x512xf32>
  %n = moe.get_parameter @n : tensor<512xf32>
  %l1:8 = call @layer.forward(%h0, %cos, %slots, %w, %n) : (tensor<1x512x512xf32>, tensor<1x512x64xf32>, tensor<1x512xi32>, tensor<512x512xf32>, tensor<512xf32>)
    -> (tensor<1x512x512xf32>, tensor<1x512x512xf32>, tensor<1x512x512xf32>, tensor<1x512x512xf32>, tensor<1x4x512xf32>, tensor<1x512x512xf32>, tensor<1x512x512xf32>, tensor<512x1024xf32>)
  %l2:8 = call @layer.forward(%l1#0, %cos, %slots, %w, %n) : (tensor<1x512x512xf32>, tensor<1x512x64xf32>, tensor<1x512xi32>, tensor<512x512xf32>, tensor<512xf32>)
    -> (tensor<1x512x512xf32>, tensor<1x512x512xf32>, tensor<1x512x512xf32>, tensor<1x512x512xf32>, tensor<1x4x512xf32>, tensor<1x512x512xf32>, tensor<1x512x512xf32>, tensor<512x1024xf32>)
  %g2:2 = call @layer.backward(%l1#0, %cos, %slots, %w, %n, %l2#1, %l2#2, %l2#3, %l2#4, %l2#5, %l2#6, %l2#7, %l2#0)
    : (tensor<1x512x512xf32>, tensor<1x512x64xf32>, tensor<1x512xi32>, tensor<512x512xf32>, tensor<512xf32>, tensor<1x512x512xf32>, tensor<1x512x512xf32>, tensor<1x512x512xf32>,
       tensor<1x4x512xf32>, tensor<1x512x512xf32>, tensor<1x512x512xf32>, tensor<512x1024xf32>, tensor<1x512x512xf32>) -> (tensor<1x512x512xf32>, tensor<512x512xf32>)
  %g1:2 = call @layer.backward(%h0, %cos, %slots, %w, %n, %l1#1, %l1#2, %l1#3, %l1#4, %l1#5, %l1#6, %l1#7, %g2#0)
    : (tensor<1x512x512xf32>, tensor<1x512x64xf32>, tensor<1x512xi32>, tensor<512x512xf32>, tensor<512xf32>, tensor<1x512x512xf32>, tensor<1x512x512xf32>, tensor<1x512x512xf32>,
       tensor<1x4x512xf32>, tensor<1x512x512xf32>, tensor<1x512x512xf32>, tensor<512x1024xf32>, tensor<1x512x512xf32>) -> (tensor<1x512x512xf32>, tensor<512x512xf32>)
  %dw = moe.add %g2#1, %g1#1 : (tensor<512x512xf32>, tensor<512x512xf32>) -> tensor<512x512xf32>
  moe.accumulate_gradient @w, %dw : tensor<512x512xf32>
  return %g1#0 : tensor<1x512x512xf32>
}
