#!/usr/bin/env bash
# Makes what is released: the source distribution, and from it (so it is complete) a wheel for each CPython
# found here, which carries the liblz4 that it was linked with.
#
#   tools/wheels.sh DIRECTORY             for every CPython 3.11 or newer
#   tools/wheels.sh DIRECTORY 3.12 3.13   for these, all of which must be there
#
# The directory then holds these, and none of pystream's from before.
# A wheel says which glibc it needs (its platform tag). The older the system that this runs on, the more
# systems the wheels run on.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/common.sh

[ $# -ge 1 ] || { echo "usage: tools/wheels.sh DIRECTORY [VERSION...]" >&2; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
shift
all=no versions=("$@")
[ $# -gt 0 ] || all=yes versions=(3.11 3.12 3.13 3.14 3.15)
tools=$PWD/.venv/bin
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What an earlier build listed is not what this one holds.
rm -rf ./*.egg-info
quietly "$tools/python" -m build --sdist --outdir "$work" .
sdist=$(cd "$work" && ls pystream_log-*.tar.gz)
tar -xzf "$work/$sdist" -C "$work"
tree=$work/${sdist%.tar.gz}

made=()
for version in "${versions[@]}"; do
  if ! python=$(python_for "$version"); then
    [ $all = yes ] && continue
    echo "wheels: there is no CPython $version here that can build (with its headers and the module venv)" >&2
    exit 1
  fi
  "$python" -m venv "$work/venv-$version"
  "$work/venv-$version/bin/python" -m pip --disable-pip-version-check --quiet \
    wheel --no-deps --wheel-dir "$work/plain-$version" "$tree"
  # It looks for patchelf on PATH.
  PATH=$tools:$PATH quietly auditwheel repair --strip --wheel-dir "$work/repaired" "$work/plain-$version"/*.whl
  made+=("$version")
done
[ ${#made[@]} -gt 0 ] || { echo "wheels: there is no CPython 3.11 or newer here that can build" >&2; exit 1; }

quietly "$tools/twine" check --strict "$work/$sdist" "$work/repaired"/*.whl
"$tools/python" tools/check_wheel.py --repaired "$work/repaired"/*.whl
rm -f "$out"/pystream_log-*
mv "$work/$sdist" "$work/repaired"/*.whl "$out"
echo "wheels: $sdist and wheels for CPython ${made[*]} are in $out"
