#!/usr/bin/env bash
# Style: clang-format and clang-tidy 22 on C++, ruff on Python.
#
#   scripts/lint.sh              every file; clang-tidy skips what it has passed
#   scripts/lint.sh --changed    only files that differ from main
#   scripts/lint.sh --fix        format instead of checking
#
# clang-tidy needs the compile commands of build/ (scripts/build.sh).
set -euo pipefail
cd "$(dirname "$0")/.."
exec .venv/bin/python scripts/lint.py "$@"
