#!/usr/bin/env bash
# Builds a wheel with every CPython 3.11+ to be found beside the one of .venv, installs it with NumPy and
# nothing else, and takes one record round.
set -euo pipefail
cd "$(dirname "$0")/.."

smoke='
import sys, tempfile, pystream
with tempfile.TemporaryDirectory() as directory, pystream.open(directory + "/store") as store:
    topic = store.topic("smoke", create=True, compression="lz4")
    with topic.producer() as producer:
        producer.send(b"value", key=b"key")
        producer.send_many([b"x" * 100] * 1000)
    got = [(r.offset, r.key, r.value) for r in topic.records()]
    assert got[0] == (0, b"key", b"value") and len(got) == 1001 and got[-1] == (1000, None, b"x" * 100), got[:2]
print("wheel-smoke: CPython %d.%d: %d records there and back" % (*sys.version_info[:2], len(got)))
'

own=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tried=0
for minor in 11 12 13 14; do
  [ "3.$minor" = "$own" ] && continue
  for python in "python3.$minor" "$HOME"/.pyenv/versions/3."$minor".*/bin/python3; do
    # A name on PATH may be a shim that runs nothing: only one that answers with its version counts.
    [ "$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = "3.$minor" ] || continue
    "$python" -m venv "$work/$minor"
    pip=("$work/$minor/bin/python" -m pip --disable-pip-version-check --quiet)
    "${pip[@]}" wheel --no-deps --wheel-dir "$work/wheels-$minor" .
    "${pip[@]}" install "$work/wheels-$minor"/*.whl
    (cd "$work" && "$work/$minor/bin/python" -W error -c "$smoke")
    tried=$((tried + 1))
    break
  done
done
echo "wheel-smoke: $tried other CPython versions tried"
