# Part of PolyMoE, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The one exception that a user reads."""


class UserError(Exception):
    """A mistake in the input. Its text is one line: file, key, what was expected."""
