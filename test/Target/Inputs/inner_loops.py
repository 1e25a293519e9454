"""inner_loops.py MODEL.mlir: what the innermost loops of products consist of, on many machines.

Compiles a training step of the model for every machine of the table, as the JIT
does (lib/Target/CPU/Compiler.cpp), and counts in each kernel's innermost loops (of
those with the most of the best instruction) the multiply-adds, the register that
they add to, and the moves from and to the stack that the register allocator has
put among them. A line for each kernel:

    bf16, 64 bytes, pairs: linear_matmul_0: 24 vdpbf16ps zmm, spills 0
"""

import re
import subprocess
import sys
from collections import Counter

# The type of the model, bytes of a vector, products of bf16, LLVM's processor.
MACHINES = [
    ("f32", 32, "widened", "haswell"),
    ("f32", 64, "widened", "skylake-avx512"),
    ("bf16", 32, "widened", "haswell"),
    ("bf16", 64, "widened", "skylake-avx512"),
    ("bf16", 32, "pairs", "cooperlake"),
    ("bf16", 64, "pairs", "cooperlake"),
    ("bf16", 64, "amx", "sapphirerapids"),
]

# Two by two tiles of AMX, several steps in a turn; without AMX, pairs if there are some.
TILES = "(16|24) tdpbf16ps tmm"
PAIRS, WIDENED = "pairs", "widened"

KERNELS = {
    "linear_cross_entropy_matmul_0": TILES,
    "linear_cross_entropy_matmul_1": TILES,
    "linear_cross_entropy_outer_0": None,  # With AMX its loop is unrolled.
    "linear_matmul_0": TILES,
    "linear_matmul_1": TILES,
    # Heads are narrow.
    "attention_0": PAIRS,
    "attention_grad_query_0": PAIRS,
    "attention_grad_key_0": PAIRS,
    "routed_up_0": TILES,
    "routed_down_0": TILES,
    "routed_down_grad_0": TILES,
    "routed_weight_grad_0": TILES,
    "routed_weight_grad_1": TILES,
    "routed_input_grad_0": "(16|20|24) tdpbf16ps tmm",
    # The gradient of router logits is f32, and the weight is widened.
    "linear_input_grad_matmul_0": WIDENED,
    "linear_input_grad_matmul_1": TILES,
    "linear_input_grad_matmul_2": TILES,
    "linear_weight_grad_outer_next_1": TILES,
    "linear_weight_grad_outer_next_2": TILES,
}


def expected(kernel, vector_bytes, products):
    """The multiply-adds of a register tile, as a regular expression.

    Of vectors, it is 12 rows of two where there are 32 registers and 6 where
    there are 16.
    """
    best = KERNELS[kernel]
    if products == "amx" and best not in (PAIRS, WIDENED):
        return best
    instruction = "vfmadd" if WIDENED in (products, best) else "vdpbf16ps"
    return f"24 {instruction} zmm" if vector_bytes == 64 else f"12 {instruction} ymm"


# Of LLVM's comments on assembly: where a block belongs, and what is a spill.
HEADER = re.compile(r"This Inner Loop Header")
MEMBER = re.compile(r"in Loop: Header=BB(\d+_\d+) ")
BLOCK = re.compile(r"^(?:\.LBB(\d+_\d+):|# %bb\.)")
SPILL = re.compile(r"-byte (?:Folded )?(?:Spill|Reload)")
INSTRUCTIONS = ["vfmadd", "vdpbf16ps", "tdpbf16ps"]  # The best comes last.
MULTIPLY_ADD = re.compile(rf"^\s+({'|'.join(INSTRUCTIONS)})\w*\s.*%([xyzt]mm)\d+")
FUNCTION = re.compile(r"^(\w+):")


class Loop:
    def __init__(self):
        self.products = Counter()
        self.spills = 0

    def best(self):
        """The instruction with the most products, and how often it is there."""
        return max((INSTRUCTIONS.index(name), count, f"{name} {register}")
                   for (name, register), count in self.products.items())  # fmt: skip


def kernels(lines):
    """{kernel: its innermost loops}"""
    found, loops, loop, label = {}, None, None, None
    for line in lines:
        if function := FUNCTION.match(line):
            loops = found[function[1]] = {}
            loop = None
        elif block := BLOCK.match(line):
            label, loop = block[1], None
        if loops is None:
            continue
        # Comments on a block follow its label, over several lines.
        if HEADER.search(line):
            loop = loops[label] = Loop()
        elif member := MEMBER.search(line):
            loop = loops.get(member[1])
        if loop is None:
            continue
        if product := MULTIPLY_ADD.match(line):
            loop.products[product[1], product[2]] += 1
        loop.spills += bool(SPILL.search(line))
    return {name: list(loops.values()) for name, loops in found.items()}


def run(command, text):
    return subprocess.run(command, input=text, stdout=subprocess.PIPE, text=True, check=True).stdout


def fused(model, types):
    """The training step of the model. Weights train: kernels of experts, which have few rows here, pack them."""
    model = re.sub(r"(?m)^!.*", lambda alias: alias[0].replace("f32", types), model)
    passes = [
        "upcycle=experts=8",
        "freeze-backbone=train=backbone,router,expert",
        "train-pipeline=rows=2 length=512",
    ]
    return run(["moe-opt", *(f"--moe-{name}" for name in passes)], model)


def assembly(step, vector_bytes, products, processor):
    options = f"packed-once=frozen vector-bytes={vector_bytes} bf16-products={products}"
    module = run(["moe-opt", f"--moe-cpu-pipeline={options}"], step)
    module = run(["mlir-translate", "--mlir-to-llvmir", "--allow-unregistered-dialect"], module)
    # What keeps the backend from narrowing vectors (setVectorWidth of the JIT).
    bits = 8 * vector_bytes
    width = f'"prefer-vector-width"="{bits}" "min-legal-vector-width"="{bits}"'
    module = re.sub(r"(?m)^(define .*) \{$", rf"\1 {width} {{", module)
    target = ["-O2", "-mtriple=x86_64-unknown-linux-gnu", f"-mcpu={processor}"]
    return run(["llc", *target], run(["opt", "-S", *target], module))


def check(machine, code):
    """Prints a line for every kernel that multiplies, and yields what is wrong."""
    types, vector_bytes, products, _ = machine
    name = f"{types}, {vector_bytes} bytes, {products}"
    # No function is called for every element that is rounded to bf16.
    if "truncsfbf2" in code:
        yield f"{name}: expected no call of truncsfbf2"
    wanted = {kernel: expected(kernel, vector_bytes, products) for kernel in KERNELS}
    wanted = {kernel: f"{pattern}, spills 0" for kernel, pattern in wanted.items() if pattern}
    for kernel, loops in kernels(code.splitlines()).items():
        loops = [loop for loop in loops if loop.products]
        if not loops:
            continue
        best = max(loop.best() for loop in loops)
        spills = sum(loop.spills for loop in loops if loop.best() == best)
        found = f"{best[1]} {best[2]}, spills {spills}"
        print(f"{name}: {kernel}: {found}")
        # Other kernels may spill scalars.
        pattern = wanted.pop(kernel, r"\d+ \w+ ([yzt]mm, spills 0|xmm, .*)")
        if not re.fullmatch(pattern, found):
            yield f"{name}: {kernel}: expected {pattern}, but got {found}"
    for kernel, pattern in wanted.items():
        yield f"{name}: {kernel}: expected {pattern}, but got nothing that multiplies"


def main(path):
    with open(path, encoding="utf-8") as file:
        model = file.read()
    steps = {types: fused(model, types) for types in ("f32", "bf16")}
    errors = [error for machine in MACHINES for error in check(machine, assembly(steps[machine[0]], *machine[1:]))]
    sys.exit("\n".join(errors) or 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
