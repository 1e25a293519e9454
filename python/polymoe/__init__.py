# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Corpora, tokenizers, references and reports for PolyMoE.

Run ``python -m polymoe --help``.
"""

__version__ = "0.1.0"
