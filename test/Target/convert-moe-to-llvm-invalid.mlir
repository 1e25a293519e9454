// RUN: moe-opt %s --convert-moe-to-llvm --split-input-file --verify-diagnostics

func.func @f(%x: memref<4xf32> {moe.binding = #moe.binding<input, "x">}) {
  // expected-error@below {{expected launches of kernels, calls and views of the arena, as moe-plan-arena leaves them}}
  %y = memref.alloc() : memref<4xf32>
  return
}

// -----

// expected-error@below {{expected a body of one block}}
func.func private @declared(%x: memref<4xf32>)
