// What each level allows; what it refuses is in verify-level-invalid.mlir.
// RUN: moe-opt %s --moe-verify-level --split-input-file
// RUN: moe-opt %s --moe-specialize-shapes --moe-verify-level="level=objective" --split-input-file
// RUN: not moe-opt %s --moe-verify-level="level=dense" --split-input-file 2>&1 | FileCheck %s --check-prefix=UNKNOWN
// RUN: not moe-opt %s --moe-verify-level="level=objective" --split-input-file 2>&1 | FileCheck %s --check-prefix=DYNAMIC
// RUN: not moe-opt %s --moe-specialize-shapes --moe-verify-level="level=fused" --split-input-file 2>&1 | FileCheck %s --check-prefix=FUSED
// RUN: not moe-opt %s --moe-specialize-shapes --moe-verify-level="level=kernels" --split-input-file 2>&1 | FileCheck %s --check-prefix=KERNELS

// UNKNOWN: error: expected level to be model, objective, step, fused or kernels, but got 'dense'
// DYNAMIC: error: 'func.func' op expected a static shape at level objective, but got 'tensor<?x?x8xf32>'
// FUSED: error: 'moe.ffn' op does not belong to level fused
// KERNELS: error: 'func.func' op expected no tensor at level kernels, but got 'tensor<1x1x8xf32>'
func.func private @layer(%x: tensor<?x?x8xf32>, %g: tensor<12x8xf32>, %d: tensor<8x12xf32>) -> tensor<?x?x8xf32> {
  %y = moe.ffn %x, %g, %g, %d {form = #moe.ffn<gated>, activation = #moe.activation<silu>} : (tensor<?x?x8xf32>, tensor<12x8xf32>, tensor<12x8xf32>, tensor<8x12xf32>) -> tensor<?x?x8xf32>
  return %y : tensor<?x?x8xf32>
}
