# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Makes ``python -m polymoe`` the command-line interface."""

from polymoe.cli import main

raise SystemExit(main())
