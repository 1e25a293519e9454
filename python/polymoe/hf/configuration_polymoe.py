# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Configurations of multilingual mixtures of experts made from dense models.

Each is its family's configuration with two to four more keys:

  polymoe_experts   one number a layer: how many experts, the original FFN
                    included; 0 or 1 says that the layer is dense
  polymoe_top_k     how many experts a token goes to

  polymoe_language_gates   the layers, from 0, that have a language gate in
                           front of their router
  polymoe_gate_pool        what a gate looks at: token, causal-mean (needs a
                           sequence from its start: no cache) or sequence-sum

The model types are not the families' own, so that a loader that does not know
the experts refuses the checkpoint instead of ignoring them.
"""

import functools

import transformers


@functools.cache
def config_of(family):
    """PolyMoE<family>Config, for the <family>Config of transformers."""
    base = getattr(transformers, f"{family}Config")
    name = f"PolyMoE{family}Config"
    return type(name, (base,), {"__module__": __name__, "model_type": f"polymoe_{base.model_type}"})


def __getattr__(name):
    """The configuration of any family that transformers has, made when it is
    asked for."""
    family = name.removeprefix("PolyMoE").removesuffix("Config")
    if name != f"PolyMoE{family}Config" or not hasattr(transformers, f"{family}Config"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return config_of(family)
