// Every op and attribute, from the examples in their documentation: what is
// printed parses again to the same, in the custom and in the generic form.
// RUN: %python %S/examples.py %moe_source/include/moe/Dialect > %t.mlir
// RUN: moe-opt %t.mlir -o %t.once
// RUN: FileCheck %t.mlir < %t.once
// RUN: moe-opt %t.once -o %t.twice
// RUN: diff %t.once %t.twice
// RUN: moe-opt %t.once --mlir-print-op-generic -o %t.generic
// RUN: moe-opt %t.generic -o %t.back
// RUN: diff %t.once %t.back
