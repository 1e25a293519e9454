#!/usr/bin/env bash
# The main job: installs what is needed, builds, and teaches a real model three
# languages, next to continued pre-training. Run it again after an interruption
# and it goes on. Options are those of `python -m polymoe demo`.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh
scripts/build.sh default
exec .venv/bin/python -m polymoe demo "$@"
