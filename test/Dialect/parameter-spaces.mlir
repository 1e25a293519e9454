// A parameter is printed with one space between its words.
// RUN: moe-opt %s | FileCheck %s --strict-whitespace --match-full-lines

//      CHECK:  moe.parameter backbone @w : tensor<4xf32> from #moe.init<zeros, seed = 0>
moe.parameter   backbone @w : tensor<4xf32> from #moe.init<zeros, seed = 0>
// CHECK-NEXT:  moe.parameter trainable router @gate : tensor<2x4xf32> from #moe.init<zeros, seed = 0>
moe.parameter trainable   router @gate : tensor<2x4xf32> from #moe.init<zeros, seed = 0>
