"""inner_loops.py VECTOR_BYTES < module.ll: prepares a module for opt as the JIT does.
inner_loops.py < kernels.s: what the innermost loops of products consist of.

With an argument, functions get the attributes that keep the backend from
narrowing vectors (setVectorWidth in lib/Target/Compiler.cpp).

Without, a line for every kernel that multiplies: the multiply-adds of its
innermost loops (of those with the most of the best instruction), the register
that they add to, and how many moves from and to the stack the register allocator
has put among them.

    linear_matmul_0: 24 vfmadd zmm, spills 0
"""

import re
import sys
from collections import Counter

# Of LLVM's comments on assembly: where a block belongs, and what is a spill.
HEADER = re.compile(r"This Inner Loop Header")
MEMBER = re.compile(r"in Loop: Header=BB(\d+_\d+) ")
BLOCK = re.compile(r"^(?:\.LBB(\d+_\d+):|# %bb\.)")
SPILL = re.compile(r"-byte (?:Folded )?(?:Spill|Reload)")
INSTRUCTIONS = ["vfmadd", "vdpbf16ps", "tdpbf16ps"]  # The best comes last.
MULTIPLY_ADD = re.compile(rf"^\s+({'|'.join(INSTRUCTIONS)})\w*\s.*%([xyzt]mm)\d+")
FUNCTION = re.compile(r"^(\w+):")


def widen(module, vector_bytes):
    bits = 8 * vector_bytes
    attributes = f'"prefer-vector-width"="{bits}" "min-legal-vector-width"="{bits}"'
    return re.sub(r"(?m)^(define .*) \{$", rf"\1 {attributes} {{", module)


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


def main():
    if len(sys.argv) > 1:
        print(widen(sys.stdin.read(), int(sys.argv[1])))
        return
    for name, loops in kernels(sys.stdin).items():
        loops = [loop for loop in loops if loop.products]
        if not loops:
            continue
        best = max(loop.best() for loop in loops)
        spills = sum(loop.spills for loop in loops if loop.best() == best)
        print(f"{name}: {best[1]} {best[2]}, spills {spills}")


if __name__ == "__main__":
    main()
