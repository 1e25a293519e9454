// RUN: moe-opt %s --moe-specialize-shapes --split-input-file --verify-diagnostics

// expected-error@below {{expected at most the two leading dimensions of every tensor to be dynamic, but got 'tensor<?x?x?xf32>'}}
module {
  func.func private @a_dynamic_width(tensor<?x?x?xf32>)
}
