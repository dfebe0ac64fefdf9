# shellcheck shell=bash
# Sourced by the scripts beside it.

# Run a command whose words matter only when it fails.
quietly() {
  local log
  log=$(mktemp)
  if ! "$@" >"$log" 2>&1; then
    cat "$log" >&2
    rm -f "$log"
    return 1
  fi
  rm -f "$log"
}

# python_for 3.12: prints a program that is CPython 3.12 and can build an extension; fails when there is none.
# The one that PYTHON names goes first. A name on PATH may be a shim that runs nothing: only one that answers
# with its version counts.
python_for() {
  local python
  for python in "${PYTHON:-python3}" "python$1" "$HOME"/.pyenv/versions/"$1".*/bin/python3; do
    if "$python" - "$1" 2>/dev/null <<'PYTHON'
import ensurepip, os, sys, sysconfig, venv
found = "%s %d.%d" % (sys.implementation.name, *sys.version_info[:2])
headers = os.path.join(sysconfig.get_paths()["include"], "Python.h")
sys.exit(found != "cpython " + sys.argv[1] or not os.path.exists(headers))
PYTHON
    then
      echo "$python"
      return 0
    fi
  done
  return 1
}
