// RUN: moe-opt %s --moe-freeze-backbone | FileCheck %s
// RUN: moe-opt %s --moe-freeze-backbone | moe-opt | FileCheck %s
// RUN: moe-opt %s --moe-freeze-backbone="train=router" | FileCheck %s --check-prefix=REVIEW
// RUN: moe-opt %s --moe-freeze-backbone="train=backbone,expert" | FileCheck %s --check-prefix=DENSE
// RUN: not moe-opt %s --moe-freeze-backbone="train=language_gate" 2>&1 | FileCheck %s --check-prefix=NONE
// RUN: not moe-opt %s --moe-freeze-backbone="train=experts" 2>&1 | FileCheck %s --check-prefix=UNKNOWN

// NONE: error: expected a parameter to train, but there is none of role language_gate
// UNKNOWN: error: expected train to name backbone, expert, router or language_gate, but got 'experts'

// CHECK: moe.parameter backbone @up :
// REVIEW: moe.parameter backbone @up :
// DENSE: moe.parameter trainable backbone @up :
moe.parameter trainable backbone @up : tensor<16x8xf32> from #moe.checkpoint<"m.safetensors", "up">

// CHECK: moe.parameter trainable expert @experts.1.up :
// REVIEW: moe.parameter expert @experts.1.up :
// DENSE: moe.parameter trainable expert @experts.1.up :
moe.parameter expert @experts.1.up : tensor<16x8xf32> from #moe.copy<@up>

// CHECK: moe.parameter trainable router @gate.weight :
// REVIEW: moe.parameter trainable router @gate.weight :
// DENSE: moe.parameter router @gate.weight :
moe.parameter trainable router @gate.weight : tensor<2x8xf32> from #moe.init<xavier_normal, seed = 0>
