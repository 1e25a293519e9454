#!/usr/bin/env bash
# Installs what PolyMoE needs on Debian 12: packages (as root or with sudo) and
# the Python environment .venv with pinned versions. Takes a blink when all of
# it is there.
#
#   scripts/setup.sh [PACKAGE ...]    these packages, too
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(
  # compiler
  libmlir-22-dev mlir-22-tools llvm-22-dev llvm-22-tools clang-22 lld-22
  clang-tidy-22 clang-format-22
  # build
  ccache cmake ninja-build git
  # libraries
  nlohmann-json3-dev libpcre2-dev libicu-dev libgtest-dev libbenchmark-dev
  libcli11-dev libxxhash-dev zlib1g-dev
  # Python
  python3 python3-venv
  "$@"
)

say() { printf '== %s\n' "$*" >&2; }

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [[ $status == installed ]] || missing+=("$package")
done
if ((${#missing[@]})); then
  say "installing ${missing[*]}"
  as_root=()
  if ((EUID != 0)); then
    command -v sudo >/dev/null || {
      echo "setup.sh: error: expected root or sudo to install: ${missing[*]}" >&2
      exit 1
    }
    as_root=(sudo)
  fi
  "${as_root[@]}" apt-get update -q
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -q -y --no-install-recommends "${missing[@]}"
fi

# The stamp is written last: an interrupted installation is done again.
stamp=.venv/.polymoe
wanted=$(cat python/requirements.txt python/pyproject.toml | sha256sum)
if [[ $(cat "$stamp" 2>/dev/null || true) != "$wanted" ]]; then
  say "installing the Python environment .venv"
  # A moved or broken environment is made anew.
  .venv/bin/python -c 'import pip' 2>/dev/null || python3 -m venv --clear .venv
  export PIP_DISABLE_PIP_VERSION_CHECK=1
  .venv/bin/python -m pip install -q -r python/requirements.txt
  .venv/bin/python -m pip install -q --no-deps --no-build-isolation -e python
  echo "$wanted" >"$stamp"
fi
