# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Runs modules of the moe dialect in numpy, in f64, as their descriptions say.

Slow and plain: one function for each op, no kernel, no derivative but those
that the descriptions of the gradient ops spell out.
"""

import math
import re
import subprocess

import numpy as np

TYPE = re.compile(r"tensor<([^>]*)>|!moe\.routes<\d+x(\d+), (\d+)>")
OP = re.compile(r'(?:(%\w+)(?::\d+)? = )?"(?:moe\.)?([\w.]+)"\(([^)]*)\)(.*)$')
OPS = {}


def op(function):
    OPS[function.__name__] = function
    return function


class Op:
    """An op of the generic form: operands, attributes and result types."""

    def __init__(self, match):
        self.result, self.name, operands, self.text = match.groups()
        self.operands = [o.strip() for o in operands.split(",") if o.strip()]
        self.types = [m.groups() for m in TYPE.finditer(self.text.rsplit("->", 1)[-1])]

    def shape(self, i=0):
        return [int(n) for n in self.types[i][0].split("x")[:-1]]

    def number(self, name, default=None):
        match = re.search(rf"\b{name} = ([-+.\deE]+)", self.text)
        return default if match is None else float(match.group(1))

    def array(self, name):
        match = re.search(rf"\b{name} = array<\w+: ([^>]*)>", self.text)
        return [] if match is None else match.group(1).split(", ")

    def segments(self, values):
        groups = []
        for size in map(int, self.array("operandSegmentSizes")):
            groups.append(values[:size])
            values = values[size:]
        return groups

    def has_result(self, i):
        return int(self.array("resultSegmentSizes")[i]) > 0

    def symbol(self, name):
        return re.search(rf'{name} = @"?([\w.]+)"?', self.text).group(1)

    def says(self, word):
        return re.search(rf"\b{word}\b", self.text) is not None


class Routes:
    """Rows grouped by expert, in token order inside an expert. A slot of which
    the expert is `experts` is missing."""

    def __init__(self, selected, experts):
        self.selected, self.experts = selected, experts
        order = [(e, t, k) for (t, k), e in np.ndenumerate(selected) if e < experts]
        order.sort()
        self.token = np.array([t for _, t, _ in order])
        self.choice = np.array([k for _, _, k in order])
        starts = np.searchsorted([e for e, _, _ in order], range(experts + 1))
        self.rows = [slice(a, b) for a, b in zip(starts, starts[1:], strict=False)]
        self.inverse = np.full(selected.shape, -1)
        self.inverse[self.token, self.choice] = range(len(order))

    def gather(self, x):
        """Rows of [B,S,width] by index; rows are rows already."""
        return self.used(x) if x.ndim == 2 else x.reshape(-1, x.shape[-1])[self.token]

    def used(self, rows):
        """The rows in use."""
        return rows[: len(self.token)]

    def score(self, scores):
        return scores.reshape(self.selected.shape)[self.token, self.choice][:, None]

    def by_token(self, rows):
        """[T,K] from a value for each row, 0 for missing slots."""
        values = rows[self.inverse]
        values[self.inverse < 0] = 0
        return values


def one_expert(x):
    return Routes(np.zeros((x.size // x.shape[-1], 1), int), 1)


class Module:
    def __init__(self, source, *passes, tool="moe-opt"):
        command = [tool, "-", "--mlir-print-op-generic", *passes]
        text = subprocess.run(command, input=source, capture_output=True, text=True, check=True).stdout
        self.parameters, self.trainable, self.functions = {}, set(), {}
        body = ([], [])
        for line in map(str.strip, text.splitlines()):
            name = re.search(r'sym_name = "([^"]+)"', line)
            if line.startswith('"func.func"'):
                body = self.functions[name.group(1)] = ([], [])
            elif line.startswith("^bb0"):
                body[0].extend(re.findall(r"(%\w+):", line))
            elif line.startswith('"moe.parameter"'):
                shape = re.search(r"type = tensor<([^>]*)>", line).group(1)
                self.parameters[name.group(1)] = [int(n) for n in shape.split("x")[:-1]]
                if "trainable" in line:
                    self.trainable.add(name.group(1))
            elif match := OP.match(line):
                body[1].append(Op(match))

    def step(self, parameters, inputs):
        """What @step returns, and the gradients that it accumulates."""
        self.values, self.gradients = parameters, {}
        return self.call("step", inputs), self.gradients

    def call(self, name, arguments):
        names, ops = self.functions[name]
        env = dict(zip(names, arguments, strict=True))
        for o in ops:
            operands = [env[v] for v in o.operands]
            if o.name == "func.return":
                return operands
            for i, result in enumerate(self.run(o, operands)):
                env[f"{o.result}#{i}"] = result
                env.setdefault(o.result, result)
        raise AssertionError(f"@{name} does not return")

    def run(self, o, operands):
        if o.name == "func.call":
            return self.call(o.symbol("callee"), operands)
        if o.name == "get_parameter":
            return [self.values[o.symbol("name")]]
        if o.name == "accumulate_gradient":
            assert o.symbol("name") not in self.gradients, "accumulated twice"
            self.gradients[o.symbol("name")] = operands[0]
            return []
        if o.name == "arith.constant":
            return [np.array(float(re.search(r"dense<([^>]*)>", o.text).group(1)))]
        results = OPS[o.name](o, *operands)
        results = list(results) if isinstance(results, tuple) else [results]
        results = results[: len(o.types)]
        for i, result in enumerate(results):
            if isinstance(result, Routes):
                continue
            # What lies in rows that are not in use may be anything.
            if np.ndim(result) == 2 and len(o.shape(i)) == 2 and len(result) < o.shape(i)[0]:
                result = np.pad(result, ((0, o.shape(i)[0] - len(result)), (0, 0)), constant_values=np.nan)
            results[i] = np.reshape(result, o.shape(i))
        return results


# The backbone.


@op
def embedding(o, tokens, table):
    return o.number("scale", 1.0) * table[tokens]


@op
def embedding_grad(o, tokens, dy):
    table = np.zeros(o.shape())
    np.add.at(table, tokens, o.number("scale", 1.0) * dy)
    return table


def root(o, groups):
    return 1 / np.sqrt((groups**2).mean(-1, keepdims=True) + o.number("epsilon"))


@op
def rms_norm(o, x, weight):
    groups = x.reshape(-1, len(weight))
    return groups * root(o, groups) * (o.number("offset", 0.0) + weight)


@op
def rms_norm_grad(o, dy, x, weight):
    groups = x.reshape(-1, len(weight))
    r, g = root(o, groups), dy.reshape(groups.shape) * (o.number("offset", 0.0) + weight)
    return r * (g - groups * r**2 * (g * groups).mean(-1, keepdims=True))


@op
def rms_norm_weight_grad(o, dy, x):
    groups = x.reshape(-1, o.shape()[0])
    return (dy.reshape(groups.shape) * groups * root(o, groups)).sum(0)


def normalised(o, x):
    centred = x - x.mean(-1, keepdims=True)
    return centred * root(o, centred), root(o, centred)


@op
def layer_norm(o, x, weight, bias=0.0):
    return normalised(o, x)[0] * weight + bias


@op
def layer_norm_grad(o, dy, x, weight):
    (n, r), g = normalised(o, x), dy * weight
    return r * (g - g.mean(-1, keepdims=True) - n * (g * n).mean(-1, keepdims=True))


@op
def layer_norm_weight_grad(o, dy, x):
    return (dy * normalised(o, x)[0]).sum((0, 1))


@op
def column_sum(o, dy):
    return dy.sum((0, 1))


@op
def concat_rows(o, *inputs):
    return np.concatenate(inputs)


@op
def take_rows(o, dy):
    first = int(o.number("first"))
    return dy[first : first + o.shape()[0]]


@op
def linear(o, x, weight, bias=0.0):
    return x @ weight.T + bias


@op
def router(o, x, weight):
    return x @ weight.T


@op
def language_gate(o, x, weight):
    return x @ weight.T


@op
def pool(o, x):
    if o.says("sequence_sum"):
        return np.broadcast_to(x.sum(1, keepdims=True), x.shape)
    return x.cumsum(1) / np.arange(1, x.shape[1] + 1)[:, None]


@op
def pool_grad(o, dy):
    if o.says("sequence_sum"):
        return np.broadcast_to(dy.sum(1, keepdims=True), dy.shape)
    return (dy / np.arange(1, dy.shape[1] + 1)[:, None])[:, ::-1].cumsum(1)[:, ::-1]


@op
def linear_input_grad(o, dy, weight):
    return dy @ weight


@op
def linear_weight_grad(o, dy, x):
    return np.einsum("bsn,bsk->nk", dy, x)


@op
def add(o, a, b):
    return a + b


@op
def scale(o, x):
    return o.number("factor") * x


def capped(x, cap):
    """The soft cap and its derivative."""
    return (x, 1.0) if cap is None else (cap * np.tanh(x / cap), 1 - np.tanh(x / cap) ** 2)


@op
def soft_cap(o, x):
    return capped(x, o.number("cap"))[0]


@op
def soft_cap_grad(o, dy, x):
    return dy * capped(x, o.number("cap"))[1]


@op
def rotary_table(o, positions):
    angle = positions[..., None] * np.array(o.array("frequencies"), float)
    return o.number("scale", 1.0) * np.cos(angle), o.number("scale", 1.0) * np.sin(angle)


@op
def rotary(o, x, cos, sin):
    half = cos.shape[-1]
    y = x.reshape(*x.shape[:2], -1, int(o.number("head_dim", 2 * half))).copy()
    pairs = (np.s_[..., : 2 * half : 2], np.s_[..., 1 : 2 * half : 2])
    first, second = pairs if o.says("interleaved") else (np.s_[..., :half], np.s_[..., half : 2 * half])
    a, b = y[first].copy(), y[second].copy()
    cos, sin = cos[:, :, None], (-1 if o.says("inverse") else 1) * sin[:, :, None]
    y[first], y[second] = a * cos - b * sin, b * cos + a * sin
    return y


def heads_of(x, heads, repeat=1):
    """[B,S,heads*d] as [B,heads,S,d], each head as often as queries read it."""
    return np.repeat(x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3), repeat, 1)


def attend(o, query, key, value, slots, segments):
    heads, kv = int(o.number("heads")), int(o.number("kv_heads"))
    q, k, v = heads_of(query, heads), heads_of(key, kv, heads // kv), heads_of(value, kv, heads // kv)
    distance = slots[:, :, None] - np.arange(key.shape[1])
    hidden = distance < 0
    if o.number("window"):
        hidden |= distance >= o.number("window")
    if segments is not None:
        hidden |= segments[:, :, None] != segments[:, None, :]
    logits, slope = capped(o.number("scale") * q @ k.swapaxes(2, 3), o.number("softcap"))
    if o.says("alibi"):
        n = 2 ** int(math.log2(heads))
        slopes = [2 ** (-8 * (h + 1) / n) if h < n else 2 ** (-4 * (2 * (h - n) + 1) / n) for h in range(heads)]
        logits -= np.array(slopes)[:, None, None] * distance[:, None]
    logits[np.broadcast_to(hidden[:, None], logits.shape)] = -np.inf
    lse = np.logaddexp.reduce(logits, -1)
    return q, k, v, np.exp(logits - lse[..., None]), lse, slope


@op
def attention(o, query, key, value, slots, segments=None):
    _, _, v, p, lse, _ = attend(o, query, key, value, slots, segments)
    return (p @ v).transpose(0, 2, 1, 3).reshape(query.shape), lse


@op
def attention_grad(o, dout, query, key, value, out, lse, slots, segments=None):
    q, k, v, p, recomputed, slope = attend(o, query, key, value, slots, segments)
    assert np.allclose(lse, recomputed), "the log-sum-exp is another's"
    heads, kv = int(o.number("heads")), int(o.number("kv_heads"))
    dout, out = heads_of(dout, heads), heads_of(out, heads)
    ds = o.number("scale") * slope * p * (dout @ v.swapaxes(2, 3) - (out * dout).sum(-1, keepdims=True))

    def shared(grad):
        return grad.reshape(grad.shape[0], kv, heads // kv, *grad.shape[2:]).sum(2).transpose(0, 2, 1, 3)

    return (ds @ k).transpose(0, 2, 1, 3), shared(ds.swapaxes(2, 3) @ q), shared(p.swapaxes(2, 3) @ dout)


# Routing and losses.


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def through_softmax(p, dp):
    return p * (dp - (dp * p).sum(-1, keepdims=True))


@op
def route(o, *operands):
    experts, k = map(int, o.types[0][1:])
    (logits,), gate, groups = o.segments(operands)
    p = softmax(logits.reshape(-1, experts))
    if groups:
        return Routes(groups[0].reshape(-1, 1), experts), np.ones(o.shape(1))
    if o.number("forced_expert") is not None:
        return Routes(np.full((len(p), 1), int(o.number("forced_expert"))), experts), np.ones(o.shape(1))
    selected = np.argsort(-p, -1, kind="stable")[:, :k]
    scores = np.take_along_axis(p, selected, -1)
    if o.says("renormalize") and k > 1:
        scores /= scores.sum(-1, keepdims=True)
    if gate:
        selected[old_tokens(gate[0])] = [0] + [experts] * (k - 1)
        scores[old_tokens(gate[0])] = [1] + [0] * (k - 1)
    return Routes(selected, experts), scores


def old_tokens(gate):
    old, new = gate.reshape(-1, 2).T
    return old >= new


@op
def route_grad(o, dscores, logits, routes, gate=None):
    p = softmax(logits.reshape(-1, routes.experts))
    selected = routes.selected.clip(max=routes.experts - 1)
    q = np.take_along_axis(p, selected, -1)
    ds = dscores.reshape(q.shape)
    if o.says("renormalize") and q.shape[1] > 1:
        z = q.sum(-1, keepdims=True)
        ds = (ds - (ds * q).sum(-1, keepdims=True) / z) / z
    dp = np.zeros_like(p)
    np.put_along_axis(dp, selected, ds, -1)
    if gate is not None:
        dp[old_tokens(gate)] = 0
    return through_softmax(p, dp)


@op
def cross_entropy(o, logits, labels, weight):
    chosen = np.take_along_axis(np.log(softmax(logits)), labels.clip(0)[..., None], -1)[..., 0]
    return -weight * chosen[labels >= 0].sum()


@op
def cross_entropy_grad(o, dloss, logits, labels, weight):
    onehot = np.eye(logits.shape[-1])[labels.clip(0)]
    return dloss * weight * (softmax(logits) - onehot) * (labels >= 0)[..., None]


def load(o, routes):
    tokens, k = routes.selected.shape
    f = np.bincount(routes.selected.ravel(), minlength=routes.experts)[: routes.experts] * routes.experts / (k * tokens)
    return f * (k if o.says("reference") else 1)


@op
def balance_loss(o, logits, routes, weight):
    return weight * (load(o, routes) * softmax(logits).mean((0, 1))).sum()


@op
def balance_loss_grad(o, dloss, logits, routes, weight):
    return through_softmax(softmax(logits), dloss * weight * load(o, routes) / len(routes.selected))


@op
def language_prior_loss(o, logits, old, weight):
    p = softmax(logits)
    loss = np.log(np.exp(p).sum(-1)) - p[..., 0] if o.says("reference") else -np.log(p[..., 0])
    return weight * loss[old != 0].sum()


@op
def language_prior_loss_grad(o, dloss, logits, old, weight):
    p, first = softmax(logits), np.eye(logits.shape[-1])[0]
    grad = through_softmax(p, softmax(p) - first) if o.says("reference") else p - first
    return dloss * weight * grad * (old != 0)[..., None]


@op
def classifier_loss(o, logits, old, weight):
    chosen = np.take_along_axis(np.log(softmax(logits)), (old == 0).astype(int)[..., None], -1)
    return -weight * chosen.sum()


@op
def classifier_loss_grad(o, dloss, logits, old, weight):
    return dloss * weight * (softmax(logits) - np.eye(2)[(old == 0).astype(int)])


@op
def weighted_sum(o, *terms):
    return sum(float(c) * t for c, t in zip(o.array("coefficients"), terms, strict=True))


# FFNs and experts, before and after fusion.

erf = np.vectorize(math.erf, otypes=[float])


def activate(o, z, scalars=()):
    """The activation, its derivative, and its derivatives by its scalars."""
    if o.says("xielu"):
        p, n = (np.logaddexp(0, a) for a in scalars)
        dp, dn = (1 / (1 + np.exp(-a)) for a in scalars)
        positive, least = z > 0, np.minimum(z, -1e-6)
        below = np.expm1(least) - z
        return (
            np.where(positive, p * z * z, (0.5 + n) * below) + 0.5 * z,
            np.where(positive, 2 * p * z, (0.5 + n) * (np.exp(least) * (z < -1e-6) - 1)) + 0.5,
            positive * dp * z * z,
            ~positive * dn * below,
        )
    if o.says("silu"):
        s = 1 / (1 + np.exp(-z))
        return z * s, s * (1 + z * (1 - s))
    if o.says("gelu_tanh"):
        c = math.sqrt(2 / math.pi)
        t = np.tanh(c * (z + 0.044715 * z**3))
        return 0.5 * z * (1 + t), 0.5 * (1 + t) + 0.5 * z * (1 - t**2) * c * (1 + 3 * 0.044715 * z**2)
    p = 0.5 * (1 + erf(z / math.sqrt(2)))
    return z * p, p + z * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def hidden_of(o, z, scalars=()):
    """What the down projection reads, given the pre-activation."""
    if not o.says("gated"):
        return activate(o, z, scalars)[0]
    gate, up = np.split(z, 2, -1)
    return activate(o, gate, scalars)[0] * up


def hidden_grad(o, z, dh, scalars=()):
    """The gradient of the pre-activation, and what each row adds to those of the scalars."""
    if not o.says("gated"):
        _, da, *dscalars = activate(o, z, scalars)
        return dh * da, [(dh * d).sum(-1, keepdims=True) for d in dscalars]
    gate, up = np.split(z, 2, -1)
    a, da, *dscalars = activate(o, gate, scalars)
    return np.concatenate([dh * up * da, dh * a], -1), [(dh * up * d).sum(-1, keepdims=True) for d in dscalars]


def preactivation(o, x, first, second=0.0):
    return np.concatenate([x @ first.T, x @ second.T], -1) if o.says("gated") else x @ first.T + second


def per_expert(routes, weights):
    """Each expert's rows with its weights."""
    each = len(weights) // routes.experts
    return [(routes.rows[e], weights[e * each : (e + 1) * each]) for e in range(routes.experts)]


def parts(o, weights):
    """The weights of an expert's up projection, those of its down projection, and the activation's scalars."""
    weights, scalars = (weights[:-2], weights[-2:]) if o.says("xielu") else (weights, ())
    up = 1 if len(weights) == 2 else 2
    return weights[:up], weights[up:], scalars


def mixture(o, x, scores, routes, weights):
    rows = routes.gather(x)
    z, y = [], []
    for own, own_weights in per_expert(routes, weights):
        up, (down, *bias), scalars = parts(o, own_weights)
        z.append(preactivation(o, rows[own], *up))
        y.append(hidden_of(o, z[-1], scalars) @ down.T + sum(bias))
    y = np.concatenate(y) * routes.score(scores)
    return routes.by_token(y).sum(1), np.concatenate(z)


@op
def ffn(o, x, *weights):
    return mixture(o, x, np.ones(x.size // x.shape[-1]), one_expert(x), weights)


@op
def experts(o, x, scores, routes, *weights):
    return mixture(o, x, scores, routes, weights)


@op
def experts_grad(o, *operands):
    (dy,), (x,), scores, routes, (z,), weights = o.segments(operands)
    routes = routes[0] if routes else one_expert(x)
    score = routes.score(scores[0] if scores else np.ones(len(routes.selected)))
    x, dy = routes.gather(x), routes.gather(dy)
    dx, dscore, dweights = np.empty_like(x), np.empty(len(x)), []
    for own, own_weights in per_expert(routes, weights):
        (first, *second), (down, *bias), scalars = parts(o, own_weights)
        h, dout = hidden_of(o, z[own], scalars), score[own] * dy[own]
        dscore[own] = ((h @ down.T + sum(bias)) * dy[own]).sum(-1)
        dz, dscalars = hidden_grad(o, z[own], dout @ down, scalars)
        if o.says("gated"):
            dgate, dup = np.split(dz, 2, -1)
            dx[own] = dgate @ first + dup @ second[0]
            dweights += [dgate.T @ x[own], dup.T @ x[own], dout.T @ h]
        else:
            dx[own] = dz @ first
            dweights += [dz.T @ x[own], *(dz.sum(0) for _ in second), dout.T @ h, *(dout.sum(0) for _ in bias)]
        dweights += [d.sum(0) for d in dscalars]
    wanted = [w for w, flag in zip(dweights, o.array("wanted"), strict=True) if flag == "true"]
    dx = [routes.by_token(dx).sum(1)] if o.has_result(0) else []
    return (*dx, *([routes.by_token(dscore)] if o.has_result(1) else []), *wanted)


@op
def routed_up(o, *operands):
    (x,), routes, weights, scalars = o.segments(operands)
    routes = routes[0] if routes else one_expert(x)
    rows = routes.gather(x)
    z = [preactivation(o, rows[own], *pair) for own, pair in per_expert(routes, weights)]
    h = [hidden_of(o, own, s) for own, (_, s) in zip(z, per_expert(routes, scalars), strict=True)]
    return np.concatenate(h), np.concatenate(z)


@op
def routed_down(o, *operands):
    (h,), routes, weights = o.segments(operands)
    routes = routes[0] if routes else one_expert(h)
    return np.concatenate([h[own] @ w[0].T + sum(w[1:]) for own, w in per_expert(routes, weights)])


@op
def combine(o, rows, routes, scores=None):
    rows = routes.used(rows)
    return routes.by_token(rows if scores is None else rows * routes.score(scores)).sum(1)


@op
def routed_down_grad(o, *operands):
    (dy,), scores, routes, (z,), weights, scalars = o.segments(operands)
    routes = routes[0] if routes else one_expert(dy)
    score = routes.score(scores[0] if scores else np.ones(len(routes.selected)))
    dy = routes.gather(dy)
    z = routes.used(z)
    dz, dscore, hidden, dscalars = np.empty_like(z), np.empty(len(z)), [], []
    for (own, (down, *bias)), (_, s) in zip(per_expert(routes, weights), per_expert(routes, scalars), strict=True):
        h = dy[own] @ down
        hidden.append(hidden_of(o, z[own], s))
        dz[own], rows = hidden_grad(o, z[own], score[own] * h, s)
        dscalars.append(rows)
        dscore[own] = (h * hidden[-1]).sum(-1) + sum(dy[own] @ c for c in bias)
    scaled = [score * np.concatenate(hidden)] if o.has_result(1) else []
    rows = [np.concatenate(rows) for rows in zip(*dscalars, strict=True)] if o.has_result(3) else []
    return (dz, *scaled, *([routes.by_token(dscore)] if o.has_result(2) else []), *rows)


@op
def routed_input_grad(o, *operands):
    (dz,), routes, weights = o.segments(operands)
    routes = routes[0] if routes else one_expert(dz)
    return np.concatenate([dz[own] @ np.concatenate(w) for own, w in per_expert(routes, weights)])


@op
def routed_weight_grad(o, lhs, rhs, routes=None):
    routes = routes or one_expert(lhs)
    lhs, rhs, offset = routes.gather(lhs), routes.gather(rhs), int(o.number("offset", 0))
    own = [routes.rows[int(e)] for e in o.array("experts")]
    return tuple(lhs[r, offset : offset + o.shape(i)[0]].T @ rhs[r] for i, r in enumerate(own))


@op
def routed_bias_grad(o, *operands):
    (dy,), routes, scores = o.segments(operands)
    routes = routes[0] if routes else one_expert(dy)
    rows = routes.gather(dy) * (routes.score(scores[0]) if scores else 1)
    return tuple(rows[routes.rows[int(e)]].sum(0) for e in o.array("experts"))


@op
def linear_cross_entropy(o, x, weight, labels, loss_weight):
    logits, slope = capped(x @ weight.T, o.number("softcap"))
    dlogits = slope * cross_entropy_grad(o, 1.0, logits, labels, loss_weight)
    dx = [dlogits @ weight] if o.has_result(1) else []
    dweight = [linear_weight_grad(o, dlogits, x)] if o.has_result(2) else []
    return (cross_entropy(o, logits, labels, loss_weight), *dx, *dweight)
