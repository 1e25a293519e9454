#!/usr/bin/env bash
# The test command: installs what is needed, checks style, builds with warnings
# as errors, and runs lit, GoogleTest and pytest under ctest.
#
#   scripts/test.sh              everything, as CI runs it
#   scripts/test.sh sanitize     unit tests under ASan and UBSan
set -euo pipefail
cd "$(dirname "$0")/.."

preset=${1:-default}
case $preset in
default) folder=build tests=() ;;
*) folder=build-$preset tests=(--label-exclude 'python|tools') ;;
esac

scripts/setup.sh
scripts/build.sh "$preset"
if [[ $preset == default ]]; then
  scripts/lint.sh
fi
ctest --test-dir "$folder" --output-on-failure --no-tests=error \
  --parallel "$(nproc)" "${tests[@]}"
