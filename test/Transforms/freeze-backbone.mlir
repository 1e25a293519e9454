// RUN: moe-opt %s --moe-freeze-backbone | FileCheck %s
// RUN: moe-opt %s --moe-freeze-backbone | moe-opt | FileCheck %s
// RUN: moe-opt %s --moe-freeze-backbone="train=router" | FileCheck %s --check-prefix=REVIEW
// RUN: moe-opt %s --moe-freeze-backbone="train=backbone,expert" | FileCheck %s --check-prefix=DENSE
// RUN: moe-opt %s --moe-freeze-backbone="train=none" | FileCheck %s --check-prefix=ALL
// RUN: not moe-opt %s --moe-freeze-backbone="train=none,router" 2>&1 | FileCheck %s --check-prefix=BOTH
// RUN: moe-opt %s --moe-freeze-backbone="train=backbone" | FileCheck %s --check-prefix=SOURCE
// RUN: moe-opt %s --moe-freeze-backbone="train=router" | sed 's/#moe.checkpoint<[^>]*>/#moe.init<zeros, seed = 0>/' | not moe-opt --moe-freeze-backbone="train=backbone" 2>&1 | FileCheck %s --check-prefix=DRAWN
// RUN: not moe-opt %s --moe-freeze-backbone="train=language_gate" 2>&1 | FileCheck %s --check-prefix=NONE
// RUN: not moe-opt %s --moe-freeze-backbone="train=experts" 2>&1 | FileCheck %s --check-prefix=UNKNOWN

// NONE: error: expected a parameter to train, but there is none of role language_gate
// BOTH: error: expected train to name backbone, expert, router or language_gate, but got 'none'
// ALL-NOT: trainable
// A copy stays what it is while its source trains, so it cannot be drawn later.
// SOURCE: moe.parameter expert @experts.1.up : tensor<16x8xf32> from #moe.checkpoint<"m.safetensors", "up">
// DRAWN: error: 'moe.parameter' op expected a frozen parameter, but it is a copy of one that trains and lies in no checkpoint
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
