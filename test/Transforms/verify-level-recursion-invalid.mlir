// RUN: moe-opt %s --moe-verify-level=level=model --split-input-file --verify-diagnostics

func.func private @layer(%h: tensor<?x?x8xf32>) -> tensor<?x?x8xf32> {
  // expected-error @+1 {{expected no recursion, but @layer calls itself}}
  %y = call @layer(%h) : (tensor<?x?x8xf32>) -> tensor<?x?x8xf32>
  return %y : tensor<?x?x8xf32>
}

// -----

moe.parameter backbone @w : tensor<8xf32> from #moe.init<ones, seed = 0>
func.func private @layer(%h: tensor<?x?x8xf32>) -> tensor<?x?x8xf32> {
  // expected-error @+1 {{expected to be in an entry point}}
  %w = moe.get_parameter @w : tensor<8xf32>
  %y = moe.rms_norm %h, %w {epsilon = 1.0e-6} : (tensor<?x?x8xf32>, tensor<8xf32>) -> tensor<?x?x8xf32>
  return %y : tensor<?x?x8xf32>
}
