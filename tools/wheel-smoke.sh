#!/usr/bin/env bash
# Tries wheels as a machine without liblz4 would: each goes, with NumPy and nothing else, into a fresh
# environment of its own CPython, and takes compressed records there and back while the system's liblz4 is
# hidden behind an empty file, in a mount namespace that ends with the try.
#
#   tools/wheel-smoke.sh WHEEL...
set -euo pipefail
# shellcheck source=tools/common.sh
. "$(dirname "$0")/common.sh"

[ $# -ge 1 ] || { echo "usage: tools/wheel-smoke.sh WHEEL..." >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
: >"$work/empty"

cat >"$work/smoke.py" <<'PYTHON'
import contextlib, ctypes, io, os, pathlib, subprocess, sys, tempfile

if "hidden" in sys.argv:
    try:
        ctypes.CDLL("liblz4.so.1")
    except OSError:
        pass
    else:
        sys.exit("the system's liblz4 is not hidden: this proves nothing")
import pystream

with tempfile.TemporaryDirectory() as directory, pystream.open(directory + "/store") as store:
    topic = store.topic("smoke", create=True, compression="lz4")
    with topic.producer() as producer:
        producer.send(b"value", key=b"key")
        producer.send_many([b"x" * 100] * 1000)
    got = [(r.offset, r.key, r.value) for r in topic.records()]
    assert got[0] == (0, b"key", b"value") and len(got) == 1001 and got[-1] == (1000, None, b"x" * 100), got[:2]

# The library in use is the wheel's own.
maps = pathlib.Path("/proc/self/maps").read_text().splitlines()
used = {line.split(None, 5)[5] for line in maps if "liblz4" in line}
own = pathlib.Path(pystream.__file__).parents[1] / "pystream_log.libs"
assert used and {os.path.dirname(path) for path in used} == {str(own)}, used
with contextlib.redirect_stdout(io.StringIO()) as said:
    pystream.show_versions()
assert "lz4" in said.getvalue()
# With no extra there is no command line, but a word about it.
said = subprocess.run([sys.executable, "-m", "pystream"], capture_output=True, text=True)
assert said.returncode == 2 and "pip install 'pystream-log[cli]'" in said.stderr, said
print("wheel-smoke: CPython %d.%d: %d records there and back" % (*sys.version_info[:2], len(got)))
PYTHON

# Every liblz4 that the loader knows, hidden for one command.
cat >"$work/hide.sh" <<'SHELL'
set -eu
empty=$1
shift
PATH=$PATH:/sbin:/usr/sbin
for library in $(ldconfig -p | sed -n 's/.*liblz4\.so.* => //p'); do
  mount --bind "$empty" "$(readlink -f "$library")"
done
exec "$@"
SHELL

if unshare --mount true 2>/dev/null; then
  hide=(unshare --mount sh "$work/hide.sh" "$work/empty")
elif unshare --map-root-user --mount true 2>/dev/null; then
  hide=(unshare --map-root-user --mount sh "$work/hide.sh" "$work/empty")
else
  hide=()
  echo "wheel-smoke: no mount namespace can be made here; liblz4 is not hidden, only looked for among what is loaded"
fi

for wheel in "$@"; do
  wheel=$(readlink -f "$wheel")
  tag=${wheel##*/pystream_log-*-cp3}
  minor=${tag%%-*}
  python=$(python_for "3.$minor") || { echo "wheel-smoke: no CPython 3.$minor to try $wheel with" >&2; exit 1; }
  "$python" -m venv "$work/$minor"
  "$work/$minor/bin/python" -m pip --disable-pip-version-check --quiet install --only-binary :all: "$wheel"
  # Not where the sources are: what is tried must be what was installed.
  (cd "$work" && "${hide[@]}" "$work/$minor/bin/python" -W error smoke.py ${hide:+hidden})
  rm -rf "${work:?}/$minor"
done
