// Kernels and their launches, where they violate a constraint.
// RUN: moe-opt %s --split-input-file --verify-diagnostics

// moe.pointer_table (C1)
func.func @f(%w: memref<?x64xf32>) {
  // expected-error@below {{expected buffers of static shape, but got 'memref<?x64xf32>'}}
  %t = moe.pointer_table %w : memref<?x64xf32>
  return
}
// mended: memref<?x64xf32> => memref<4x64xf32>

// -----

// moe.table_entry (C1)
moe.kernel @k(%item: index, %table: !moe.table) {
  // expected-error@below {{result #0 must be statically shaped memref of any type values, but got 'memref<?x64xf32>'}}
  %w = moe.table_entry %table[%item] : memref<?x64xf32>
}
// mended: memref<?x64xf32> => memref<4x64xf32>

// -----

// moe.kernel (C1)
// expected-error@below {{expected the number of the work item, an index, as the first argument}}
moe.kernel @k(%x: memref<8xf32>) {
}
// mended: %x: memref<8xf32> => %item: index, %x: memref<8xf32>

// -----

// moe.kernel (C2)
// expected-error@below {{expected a memref of static shape, a table or an index, but got 'memref<?x64xf32>'}}
moe.kernel @k(%item: index, %x: memref<?x64xf32>) {
}
// mended: memref<?x64xf32> => memref<4x64xf32>

// -----

// moe.dispatch (C1)
func.func private @k(index, memref<4x64xf32>)
func.func @f(%a: memref<4x64xf32>) {
  // expected-error@below {{expected a kernel, but there is none called @k}}
  moe.dispatch @k [4] (%a) : memref<4x64xf32>
  return
}
// mended: func.func private @k(index, memref<4x64xf32>) => moe.kernel @k(%item: index, %x: memref<4x64xf32>) {}

// -----

// moe.dispatch (C1)
// expected-note@below {{the kernel is here}}
moe.kernel @k(%item: index, %x: memref<4x64xf32>, %first: index) {
}
func.func @f(%a: memref<4x64xf32>) {
  // expected-error@below {{expected what the kernel takes, ('memref<4x64xf32>', 'index'), but got ('memref<4x64xf32>')}}
  moe.dispatch @k [4] (%a) : memref<4x64xf32>
  return
}
// mended: xf32>, %first: index) => xf32>)

// -----

// moe.dispatch (C2)
moe.kernel @k(%item: index, %x: memref<4x64xf32>, %first: index) {
}
func.func @f(%a: memref<4x64xf32>, %n: index) {
  // expected-error@below {{expected memrefs to derive from and into, but got ('memref<4x64xf32>', 'index')}}
  moe.dispatch @k [4] (%a, %n) {derives = "something"} : memref<4x64xf32>, index
  return
}
// mended: %first: index => %first: memref<4x64xf32>
// mended: %n: index => %n: memref<4x64xf32>
// mended: : memref<4x64xf32>, index => : memref<4x64xf32>, memref<4x64xf32>
