// RUN: moe-opt %s --moe-expand-math | FileCheck %s --implicit-check-not="math.{{exp|log|tanh|erf}} {{.*}}vector<16xf32>"

// Vectors of f32 become arithmetic; f64 is left to libm, a square root to the
// machine.
// CHECK-LABEL: func.func @f
// CHECK: math.fma
// CHECK: math.exp %{{.*}} : vector<8xf64>
// CHECK: math.sqrt %{{.*}} : vector<16xf32>
func.func @f(%x: vector<16xf32>, %y: vector<8xf64>) -> (vector<16xf32>, vector<8xf64>) {
  %exp = math.exp %x : vector<16xf32>
  %log = math.log %exp : vector<16xf32>
  %tanh = math.tanh %log : vector<16xf32>
  %erf = math.erf %tanh : vector<16xf32>
  %wide = math.exp %y : vector<8xf64>
  %root = math.sqrt %erf : vector<16xf32>
  return %root, %wide : vector<16xf32>, vector<8xf64>
}
