#!/usr/bin/env bash
# Configures a preset (default: `default`) and builds it.
set -euo pipefail
cd "$(dirname "$0")/.."

preset=${1:-default}
# The LibTorch executor compiles against the PyTorch of .venv, and ctest runs
# its pytest.
cmake --preset "$preset" -DMOE_PYTHON="$PWD/.venv/bin/python"
cmake --build --preset "$preset"
