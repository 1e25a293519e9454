//===-- MoEOps.td - every op of the moe dialect ------------*- tablegen -*-===//
//
// Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef MOE_DIALECT_MOEOPS
#define MOE_DIALECT_MOEOPS

include "moe/Dialect/ParameterOps.td"
include "moe/Dialect/BackboneOps.td"
include "moe/Dialect/RoutingOps.td"
include "moe/Dialect/LossOps.td"
include "moe/Dialect/ProbeOps.td"
include "moe/Dialect/GradientOps.td"
include "moe/Dialect/FusedOps.td"
include "moe/Dialect/TargetOps.td"

#endif // MOE_DIALECT_MOEOPS
