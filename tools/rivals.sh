#!/usr/bin/env bash
# Installs what `make bench` sets beside pystream: Python packages into .venv, and into build/rivals/ servers and
# jars. What cannot be had is told in a line, and left out; `make bench` does likewise.
#
#   tools/rivals.sh [python] [redis] [nats] [kafka] [chronicle]     all of them, when none is named
#
# Servers are unpacked, not installed: no service is started, and `make clean` removes them. Java and Maven are
# installed when they are missing. BIN names the directory of the Python to install packages for (.venv/bin).
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/common.sh

bin=${BIN:-.venv/bin}
into=build/rivals
wanted=("$@")
[ ${#wanted[@]} -gt 0 ] || wanted=(python redis nats kafka chronicle)
left_out=()

have() { command -v "$1" >/dev/null 2>&1; }
without() {
  echo "rivals: without $1: $2"
  left_out+=("$1")
}

as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)
updated=
may_apt() {
  have apt-get || return 1
  [ ${#as_root[@]} = 0 ] || have sudo || return 1
  if [ -z "$updated" ]; then
    quietly "${as_root[@]}" apt-get update -qq || return 1
    updated=yes
  fi
}

# --- Python packages: the group "rivals" of pyproject.toml, one by one, so that one missing leaves the others
python_packages() {
  local requirement
  while read -r requirement; do
    quietly "$bin/python" -m pip --disable-pip-version-check --quiet install "$requirement" ||
      without "$requirement" "pip could not install it"
  done < <("$bin/python" - <<'PYTHON'
import tomllib
with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["dependency-groups"]["rivals"], sep="\n")
PYTHON
  )
}

# --- servers: Debian's packages and the libraries they miss here, unpacked into build/rivals/root
server() {
  local package=$1
  if have "$package" || [ -x "/usr/sbin/$package" ] || [ -x "$into/root/usr/bin/$package" ] ||
    [ -x "$into/root/usr/sbin/$package" ]; then
    return
  fi
  if ! may_apt; then
    without "$package" "it is not installed, and apt-get cannot be used"
    return
  fi
  local cache
  cache=$(mktemp -d)
  mkdir -p "$cache/partial" $into/root
  if quietly "${as_root[@]}" apt-get -qq -y -o Dir::Cache::archives="$cache" --no-install-recommends \
    --download-only install "$package"; then
    local archive
    for archive in "$cache"/*.deb; do dpkg -x "$archive" $into/root; done
  else
    without "$package" "apt-get could not download it"
  fi
  "${as_root[@]}" rm -rf "$cache"
}

# --- jars, by Maven, with all that they need
java_there=
java_tools() {
  [ -z "$java_there" ] || [ "$java_there" = yes ] || return 1
  local missing=()
  have javac || missing+=(default-jdk-headless)
  have mvn || missing+=(maven)
  if [ ${#missing[@]} -gt 0 ]; then
    echo "rivals: installing ${missing[*]}"
    if ! may_apt || ! quietly "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
      apt-get install -y -qq --no-install-recommends "${missing[@]}"; then
      java_there=no
      return 1
    fi
  fi
  java_there=yes
}

jars() {
  local name=$1 pom=bench/rivals/java/$1.xml
  [ "$into/$name/pom.xml" -nt "$pom" ] && return
  if ! java_tools; then
    without "$name" "there is no javac or no mvn, and apt-get could not install them"
    return
  fi
  rm -rf "${into:?}/$name"
  mkdir -p "$into/$name"
  if quietly mvn -q -B -f "$pom" dependency:copy-dependencies -DincludeScope=runtime \
    -DoutputDirectory="$PWD/$into/$name"; then
    cp "$pom" "$into/$name/pom.xml"
  else
    rm -rf "${into:?}/$name"
    without "$name" "Maven could not get its jars"
  fi
}

chronicle() {
  local source=bench/rivals/java/ChronicleBench.java
  jars chronicle
  [ -d $into/chronicle ] || return 0
  [ $into/chronicle/ChronicleBench.class -nt $source ] && return
  quietly javac -cp "$into/chronicle/*" -d $into/chronicle $source ||
    without chronicle "its harness does not compile"
}

for name in "${wanted[@]}"; do
  case $name in
    python) python_packages ;;
    redis) server redis-server ;;
    nats) server nats-server ;;
    kafka) jars kafka ;;
    chronicle) chronicle ;;
    *) echo "usage: tools/rivals.sh [python] [redis] [nats] [kafka] [chronicle]" >&2; exit 2 ;;
  esac
done
if [ ${#left_out[@]} -gt 0 ]; then
  echo "rivals: everything is there but ${left_out[*]}"
else
  echo "rivals: everything is there"
fi
