# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What `moe-translate --export-hf` copies beside a mixture that no
architecture of transformers describes: loaded by `trust_remote_code=True`,
these two files depend on transformers alone, not on this package.
"""
