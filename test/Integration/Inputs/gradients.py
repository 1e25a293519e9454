# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Compares the gradients of step, planned and fused modules with differences.

    gradients.py gated|plain|bare

Builds a model of three layers in f64 with every op that has a derivative, lets
moe-opt differentiate it for several sets of trainable parameters, runs all of it
in the reference interpreter, and compares the gradients with central differences
of the loss along a random direction. Planning and fusing must not change them.
"""

import re
import sys

import numpy as np
from reference import Module

B, S, D, F, E, K, V, H, KV, LAYERS = 2, 160, 24, 32, 3, 2, 11, 4, 2, 3
HEAD = D // H
STEP = ["--moe-differentiate"]
FUSE = ["--moe-fuse-loss", "--moe-fuse-routed-matmuls"]
PIPELINES = {
    "step": STEP,
    "planned": [*STEP, "--moe-plan-activations"],
    "recomputed": [*STEP, "--moe-plan-activations=memory-budget=1"],
    "fused": [*STEP, *FUSE],
    "recomputed and fused": [*STEP, "--moe-plan-activations=memory-budget=1", *FUSE],
}


def tensor(*shape, element="f64"):
    return "tensor<" + "".join(f"{n}x" for n in shape) + element + ">"


IDS, X, SCALAR = tensor(B, S, element="i32"), tensor(B, S, D), tensor()
KEYS, TABLE, LOGITS = tensor(B, S, KV * HEAD), tensor(B, S, HEAD // 2), tensor(B, S, E)
INPUTS = dict.fromkeys(("tokens", "slots", "segments", "labels", "old", "groups"), IDS)
INPUTS |= dict.fromkeys(("tw", "ow", "mw", "pw"), SCALAR)

# Both forms share the router, its losses and the dense FFN, which is a call in
# the layer: calls nest, and one weight of the experts is passed to it too.
EXPERTS = {
    "gated": {"gate": [F, D], "up": [F, D], "down": [D, F]},
    "plain": {"up": [F, D], "up_bias": [F], "down": [D, F], "down_bias": [D]},
    "bare": {"up": [F, D], "down": [D, F], "alpha_p": [1], "alpha_n": [1]},
}
ATTENTION = {
    "gated": {"norm": [D], "q": [D, D], "q_norm": [HEAD], "k": [KV * HEAD, D], "v": [KV * HEAD, D], "norm2": [D]},
    "plain": {
        "norm": [D], "shift": [D], "q": [D, D], "q_bias": [D], "k": [KV * HEAD, D], "v": [KV * HEAD, D],
        "norm2": [D], "shift2": [D],
    },
    "bare": {"norm": [D], "q": [D, D], "k": [KV * HEAD, D], "v": [KV * HEAD, D], "norm2": [D]},
}  # fmt: skip

ATTENTION_OPS = {
    "gated": """
      %x = moe.rms_norm %h, %norm {epsilon = 1.0e-2, offset = 1.0} : (X, D) -> X
      %q0 = moe.linear %x, %q : (X, DD) -> X
      %q1 = moe.rms_norm %q0, %q_norm {epsilon = 1.0e-2} : (X, HEAD) -> X
      %q2 = moe.rotary %q1, %cos, %sin : (X, TABLE, TABLE) -> X
      %k0 = moe.linear %x, %k : (X, KD) -> KEYS
      %k2 = moe.rotary %k0, %cos, %sin : (KEYS, TABLE, TABLE) -> KEYS
      %v2 = moe.linear %x, %v : (X, KD) -> KEYS
      %a = moe.attention %q2, %k2, %v2, %slots, %segments {heads = 4 : i64, kv_heads = 2 : i64, scale = 0.4, window = 9 : i64}
        : (X, KEYS, KEYS, IDS, IDS) -> X
      %h1 = moe.add %h, %a : (X, X) -> X
      %y = moe.rms_norm %h1, %norm2 {epsilon = 1.0e-2} : (X, D) -> X
      %l = moe.router %y, %router : (X, ED) -> LOGITS
      %c0 = moe.language_gate %y, %classes : (X, CD) -> GATE
      %c1 = moe.pool %c0 {kind = #moe.pool<causal_mean>} : (GATE) -> GATE
      %c = moe.add %c0, %c1 : (GATE, GATE) -> GATE
      %r, %s = moe.route %l, %c {renormalize} : (LOGITS, GATE) -> (ROUTES, SCORES)""",
    "plain": """
      %x = moe.layer_norm %h, %norm, %shift {epsilon = 1.0e-2} : (X, D, D) -> X
      %q2 = moe.linear %x, %q, %q_bias : (X, DD, D) -> X
      %k2 = moe.linear %x, %k : (X, KD) -> KEYS
      %v2 = moe.linear %x, %v : (X, KD) -> KEYS
      %a = moe.attention %q2, %k2, %v2, %slots {heads = 4 : i64, kv_heads = 2 : i64, scale = 0.4, alibi} : (X, KEYS, KEYS, IDS) -> X
      %h1 = moe.add %h, %a : (X, X) -> X
      %y = moe.layer_norm %h1, %norm2, %shift2 {epsilon = 1.0e-2} : (X, D, D) -> X
      %joined = moe.concat_rows %router, %router_new : (OLD, NEW) -> ED
      %l = moe.router %y, %joined : (X, ED) -> LOGITS
      %c = moe.language_gate %y, %classes : (X, CD) -> GATE
      %r, %s = moe.route %l, %c : (LOGITS, GATE) -> (ROUTES, SCORES)""",
    "bare": """
      %x = moe.layer_norm %h, %norm {epsilon = 1.0e-2} : (X, D) -> X
      %q0 = moe.linear %x, %q : (X, DD) -> X
      %q2 = moe.rotary %q0, %cos, %sin {interleaved, head_dim = 12 : i64} : (X, TABLE, TABLE) -> X
      %k2 = moe.linear %x, %k : (X, KD) -> KEYS
      %v2 = moe.linear %x, %v : (X, KD) -> KEYS
      %a = moe.attention %q2, %k2, %v2, %slots, %segments {heads = 4 : i64, kv_heads = 2 : i64, scale = 2.0, window = 9 : i64, softcap = 1.5}
        : (X, KEYS, KEYS, IDS, IDS) -> X
      %a2 = moe.scale %a {factor = 0.7} : X
      %h1 = moe.add %h, %a2 : (X, X) -> X
      %y = moe.layer_norm %h1, %norm2 {epsilon = 1.0e-2} : (X, D) -> X
      %l = moe.router %y, %router : (X, ED) -> LOGITS
      %c = moe.language_gate %y, %classes : (X, CD) -> GATE
      %r, %s = moe.route %l groups(%groups) : (LOGITS, IDS) -> (ROUTES, SCORES)""",
}

# What turns the final hidden state %hf into logits.
HEAD_OPS = {
    "gated": "%logits = moe.linear %hf, %tied : (X, VD) -> BSV",
    "plain": "%logits = moe.linear %hf, %tied : (X, VD) -> BSV",
    "bare": """%hs = moe.scale %hf {factor = 3.0} : X
      %all = moe.linear %hs, %tied : (X, VD) -> BSV
      %logits = moe.soft_cap %all {cap = 2.0} : BSV""",
}

REST = """
      %b = moe.balance_loss %l, %r, %mw {form = #moe.form<FORM>} : (LOGITS, ROUTES, SCALAR) -> SCALAR
      %o = moe.classifier_loss %c, %old, %pw : (GATE, IDS, SCALAR) -> SCALAR
      %t = moe.cross_entropy %l, %groups, %pw : (LOGITS, IDS, SCALAR) -> SCALAR
      %p = moe.language_prior_loss %l, %old, %ow {form = #moe.form<FORM>} : (LOGITS, IDS, SCALAR) -> SCALAR
      %e = moe.experts %y, %s, %r, EXPERTS {form = #moe.ffn<KIND>, activation = #moe.activation<ACT>}
        : (X, SCORES, ROUTES, TYPES) -> X
      %h2 = moe.add %h1, %e : (X, X) -> X
      %d = func.call @dense(%h2, DENSE) : (X, OWN) -> X
      %h3 = moe.add %h2, %d : (X, X) -> X
      return %h3, %b, %p, %o, %t : X, SCALAR, SCALAR, SCALAR, SCALAR
    }"""

SHAPES = {
    "X": X, "KEYS": KEYS, "TABLE": TABLE, "LOGITS": LOGITS, "ROUTES": f"!moe.routes<{B * S}x{E}, {K}>", "SCORES": tensor(B, S, K), "IDS": IDS, "SCALAR": SCALAR,
    "D": tensor(D), "DD": tensor(D, D), "KD": tensor(KV * HEAD, D), "ED": tensor(E, D), "HEAD": tensor(HEAD), "GATE": tensor(B, S, 2), "CD": tensor(2, D),
    "OLD": tensor(E - 1, D), "NEW": tensor(1, D),
}  # fmt: skip


def typed(text, **more):
    """Puts types and names in the place of words in capitals."""
    words = {**SHAPES, **more}
    return "".join(words.get(word, word) for word in re.split(r"\b([A-Z]+)\b", text))


def build(kind, trains):
    """The module, and what each layer has of parameters."""
    own = {name: tensor(*shape) for name, shape in EXPERTS[kind].items()}
    layer = {name: tensor(*shape) for name, shape in ATTENTION[kind].items()}
    layer |= {"router": tensor(E, D), "classes": tensor(2, D)}
    if kind == "plain":  # a router in two parts
        layer |= {"router": tensor(E - 1, D), "router_new": tensor(1, D)}
    experts = {f"{name}{e}": type for e in range(E) for name, type in own.items()}
    layer |= experts | {"dense": tensor(F, D)}
    # The dense FFN's first matrix is its own, the others are an expert's.
    dense = ["%dense", *(f"%{name}1" for name in list(own)[1:])]
    parameters = {"embed": tensor(V, D), "final": tensor(D)}
    parameters |= {f"l{i}.{name}": type for i in range(LAYERS) for name, type in layer.items()}
    words = {
        "KIND": "gated" if kind == "gated" else "plain",
        "FORM": "paper" if kind == "gated" else "reference",
        "ACT": {"gated": "silu", "plain": "gelu_tanh", "bare": "xielu"}[kind],
        "EXPERTS": ", ".join(f"%{name}" for name in experts),
        "TYPES": ", ".join(experts.values()),
        "DENSE": ", ".join(dense),
        "OWN": ", ".join(own.values()),
    }
    if kind == "bare":  # tokens go by their groups
        words |= {"ROUTES": f"!moe.routes<{B * S}x{E}, 1>", "SCORES": tensor(B, S, 1)}
    lines = []
    for name, type in parameters.items():
        trainable = "trainable " if trains(name) else ""
        lines.append(f'moe.parameter {trainable}backbone @"{name}" : {type} from #moe.init<normal, seed = 0>')
    arguments = ", ".join(f"%{name}: {type}" for name, type in own.items())
    lines.append(
        typed(f"""
    func.func private @dense(%x: X, {arguments}) -> X {{
      %y = moe.ffn %x, {", ".join(f"%{name}" for name in own)} {{form = #moe.ffn<KIND>, activation = #moe.activation<ACT>}} : (X, OWN) -> X
      return %y : X
    }}""", **words)
    )  # fmt: skip
    arguments = ", ".join(f"%{name}: {type}" for name, type in layer.items())
    shared = {"cos": TABLE, "sin": TABLE}
    shared |= {name: INPUTS[name] for name in ("slots", "segments", "old", "groups", "mw", "ow", "pw")}
    signature = ", ".join(f"%{name}: {type}" for name, type in shared.items())
    lines.append(
        typed(f"func.func private @layer(%h: X, {signature}, {arguments}) -> (X, SCALAR, SCALAR, SCALAR, SCALAR) {{")
        + typed(ATTENTION_OPS[kind] + REST, **words)
    )
    lines.append(
        typed(f"""
    func.func @step({", ".join(f"%{name}: {type}" for name, type in INPUTS.items())}) -> SCALAR {{
      %cos, %sin = moe.rotary_table %slots {{frequencies = array<f32: 1.0, 0.5, 0.25>}} : (IDS) -> (TABLE, TABLE)
      %embed = moe.get_parameter @embed : VD
      %h0 = moe.embedding %tokens, %embed {{scale = 1.5}} : (IDS, VD) -> X""", VD=tensor(V, D))
    )  # fmt: skip
    for i in range(LAYERS):
        for name, type in layer.items():
            lines.append(f'%{name}_{i} = moe.get_parameter @"l{i}.{name}" : {type}')
        operands = [f"%h{i}", *(f"%{name}" for name in shared), *(f"%{name}_{i}" for name in layer)]
        types = ", ".join([X, *shared.values(), *layer.values()])
        lines.append(
            f"%h{i + 1}, %b{i}, %p{i}, %o{i}, %t{i} = func.call @layer({', '.join(operands)})"
            f" : ({types}) -> ({X}, {SCALAR}, {SCALAR}, {SCALAR}, {SCALAR})"
        )
    lines.append(
        typed(f"""
      %final = moe.get_parameter @final : D
      %tied = moe.get_parameter @embed : VD
      %hf = moe.rms_norm %h{LAYERS}, %final {{epsilon = 1.0e-2}} : (X, D) -> X
      {HEAD_OPS[kind]}
      %n = moe.cross_entropy %logits, %labels, %tw : (BSV, IDS, SCALAR) -> SCALAR
      %b = moe.weighted_sum %b0, %b1, %b2 {{coefficients = array<f64: 0.5, 0.3, 0.2>}} : (SCALAR, SCALAR, SCALAR) -> SCALAR
      %p = moe.weighted_sum %p0, %p1, %p2 {{coefficients = array<f64: 0.5, 0.3, 0.2>}} : (SCALAR, SCALAR, SCALAR) -> SCALAR
      %o = moe.weighted_sum %o0, %o1, %o2 {{coefficients = array<f64: 0.5, 0.3, 0.2>}} : (SCALAR, SCALAR, SCALAR) -> SCALAR
      %t = moe.weighted_sum %t0, %t1, %t2 {{coefficients = array<f64: 0.5, 0.3, 0.2>}} : (SCALAR, SCALAR, SCALAR) -> SCALAR
      %loss = moe.weighted_sum %n, %b, %p, %o, %t {{coefficients = array<f64: 1.0, 0.7, 0.4, 0.6, 0.8>}} : (SCALAR, SCALAR, SCALAR, SCALAR, SCALAR) -> SCALAR
      return %loss : SCALAR
    }}""", VD=tensor(V, D), BSV=tensor(B, S, V))
    )  # fmt: skip
    return "\n".join(lines)


def draw(rng, shapes):
    values = {name: 0.2 * rng.normal(size=shape) for name, shape in shapes.items()}
    for name, value in values.items():
        if "norm" in name or name == "final":
            value += 1.0
    slots = np.broadcast_to(np.arange(S), (B, S))
    labels = np.where(rng.random((B, S)) < 0.1, -1, rng.integers(0, V, (B, S)))
    inputs = [rng.integers(0, V, (B, S)), slots, (slots > [[9], [50]]).astype(int), labels, rng.integers(0, 2, (B, S))]
    inputs.append(rng.integers(0, E, (B, S)))
    return values, [*inputs, np.array(1 / 150), np.array(1 / 90), np.array(0.5), np.array(1 / 320)]


def compare(kind, title, trains):
    source = build(kind, trains)
    forward = Module(source)
    rng = np.random.default_rng(1)
    values, inputs = draw(rng, forward.parameters)

    def loss(values):
        return float(forward.step(values, inputs)[0][0])

    found = {}
    for name, passes in PIPELINES.items():
        (value, *_), gradients = Module(source, *passes).step(values, inputs)
        assert abs(value - loss(values)) < 1e-12, f"{title}, {name}: the loss is {value}, not {loss(values)}"
        found[name] = gradients
    gradients = found["step"]
    for name, others in found.items():
        assert set(others) == set(gradients), f"{title}, {name}: gradients of other parameters"
        for key, gradient in gradients.items():
            error = np.abs(others[key] - gradient).max() / np.abs(gradient).max()
            assert error < 1e-12, f"{title}, {name}: the gradient of {key} changed by {error}"

    assert set(gradients) == forward.trainable, f"{title}: gradients of {set(gradients) ^ forward.trainable}"
    worst = 0.0
    for key, gradient in gradients.items():
        direction = rng.normal(size=gradient.shape)
        expected = [loss({**values, key: values[key] + step * direction}) for step in (1e-6, -1e-6)]
        expected = (expected[0] - expected[1]) / 2e-6
        error = abs((gradient * direction).sum() - expected) / (abs(expected) + 1e-3)
        assert error < 1e-5, f"{title}: along {key} the loss changes by {expected}, not {(gradient * direction).sum()}"
        worst = max(worst, error)
    print(f"{title}: {len(gradients)} gradients, largest relative error {worst:.1e}")


def check_recomputes(kind):
    """Checks that the budget is so small that even matrix products are repeated."""
    _, ops = Module(build(kind, lambda name: True), *PIPELINES["recomputed"]).functions["layer.backward"]
    names = {op.name for op in ops}
    # With one expert a token their rows fit.
    repeated = {"linear"} if kind == "bare" else {"linear", "experts"}
    assert repeated <= names, f"the backward has only {sorted(names)}"


def main():
    kind = sys.argv[1]
    check_recomputes(kind)
    compare(kind, "all", lambda name: True)
    compare(kind, "stage 1", lambda name: "router" in name or name[-1] in "12")
    compare(kind, "stage 2", lambda name: "router" in name or "classes" in name)
    new = "router_new" if kind == "plain" else "router"
    compare(kind, "new rows", lambda name: name.endswith("." + new))
    compare(kind, "final norm", lambda name: name == "final")
    # Every layer and every call in it has another pattern of activity.
    compare(kind, "scattered", lambda name: name in ("l0.dense", "l1.q", "l1.down2", "l2.router"))
    compare(kind, "one expert", lambda name: name in ("l1.down1", "l2.router", "l2.up0"))
    rng = np.random.default_rng(7)
    for i in range(4):
        chosen = {}
        compare(kind, f"random {i}", lambda name, c=chosen: c.setdefault(name, name == "l0.v" or rng.random() < 0.05))


main()
