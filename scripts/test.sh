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
default) folder=build tests=() packages=() ;;
*)
  folder=build-$preset
  tests=(--label-exclude 'python|tools')
  packages=(libclang-rt-22-dev)
  ;;
esac

# The preset leaves out -fsanitize=function: it reads the type of every function
# that is called from in front of it, where code made at run time has none.
# MLIR's allocators poison memory where our headers are instrumented, and the
# packaged library, which is not, uses it without a word to the sanitizer.
export ASAN_OPTIONS=allow_user_poisoning=0${ASAN_OPTIONS:+:$ASAN_OPTIONS}

scripts/setup.sh "${packages[@]}"
scripts/build.sh "$preset"
if [[ $preset == default ]]; then
  scripts/lint.sh
fi
ctest --test-dir "$folder" --output-on-failure --no-tests=error \
  --parallel "$(nproc)" "${tests[@]}"
