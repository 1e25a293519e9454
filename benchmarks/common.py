# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What the benchmarks share: shapes as options, our tools, and the machine's peak."""

import subprocess
import time


def add_shape(parser, **defaults):
    """An option for each extent: hidden=512 gives --hidden."""
    shape = parser.add_argument_group("shape")
    for name, default in defaults.items():
        shape.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=f"(default: {default})")


def run(args, name, *arguments):
    """What one of our tools prints; its errors go where ours do."""
    command = [str(args.bin / name), *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def torch_dtype(name):
    """PyTorch's type for fp32 or bf16."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16}[name]


def matmul_peak(dtype, threads):
    """FLOP/s that torch.matmul reaches on large matrices of fp32 or bf16."""
    import torch

    torch.set_num_threads(threads)
    n, best = 2048, 0
    a, b = (torch.randn(n, n).to(torch_dtype(dtype)) for _ in range(2))
    for _ in range(5):
        start = time.perf_counter()
        a @ b
        best = max(best, 2 * n**3 / (time.perf_counter() - start))
    return best
