#!/usr/bin/env bash
# Configures a preset (default: `default`) and builds it.
set -euo pipefail
cd "$(dirname "$0")/.."

preset=${1:-default}
# The LibTorch executor compiles against the PyTorch of .venv.
torch=$(.venv/bin/python -c 'import torch.utils; print(torch.utils.cmake_prefix_path)')
cmake --preset "$preset" -DTorch_DIR="$torch/Torch" \
  -DPython3_EXECUTABLE="$PWD/.venv/bin/python"
cmake --build --preset "$preset"
