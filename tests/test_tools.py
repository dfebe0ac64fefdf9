"""The scripts in tools/ and the Makefile: set-up does what is needed, once; all that is named is there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted([ROOT / ".ci/run", *(ROOT / "tools").glob("*.sh")])
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")

# Stands for the Python of .venv: answers by a real one, but for pip, of which it notes the calls.
FAKE_PYTHON = """#!/bin/sh
case " $* " in
  *" -m pip "*) echo "$*" >>"{log}"; exit {code} ;;
  *) exec "{python}" "$@" ;;
esac
"""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound_shell(script):
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK) == (script.name != "common.sh")


def test_usage_errors_of_the_scripts():
    for script, usage in {
        "setup.sh": "usage: tools/setup.sh demo|docs|test|wheels\n",
        "wheels.sh": "usage: tools/wheels.sh DIRECTORY [VERSION...]\n",
        "wheel-smoke.sh": "usage: tools/wheel-smoke.sh WHEEL...\n",
    }.items():
        result = subprocess.run([ROOT / "tools" / script], capture_output=True, text=True)
        assert (result.returncode, result.stdout, result.stderr) == (2, "", usage)


def python_for(version: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", ". tools/common.sh; python_for " + version],
        cwd=ROOT,
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )


def test_a_python_is_found_by_its_version():
    found = python_for(f"{sys.version_info.major}.{sys.version_info.minor}")
    assert (found.returncode, found.stdout) == (0, f"{sys.executable}\n")
    missing = python_for("3.99")
    assert (missing.returncode, missing.stdout) == (1, "")


class Checkout:
    """A small copy of the sources whose pip is a fake."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = path / "pip.log"
        for part in ("csrc", "pyx", "tools"):
            shutil.copytree(ROOT / part, path / part)
        for name in ("setup.py", "pyproject.toml"):
            shutil.copy(ROOT / name, path / name)
        self.bin = path / "bin"
        self.bin.mkdir()
        # Nothing is to be installed on the machine that runs the tests.
        self.program(self.bin / "apt-get", "#!/bin/sh\necho apt-get was asked >&2; exit 1\n")
        self.program(self.bin / "clang-format", "#!/bin/sh\n")
        (path / ".venv/bin").mkdir(parents=True)
        self.pip_ends_with(0)

    def program(self, path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def pip_ends_with(self, code: int) -> None:
        python = FAKE_PYTHON.format(log=self.log, python=sys.executable, code=code)
        self.program(self.path / ".venv/bin/python", python)

    def setup(self, mode: str) -> tuple[int, str, str, list[str]]:
        """Run setup.sh: its exit code, what it said, and the calls of pip."""
        self.log.write_text("")
        environment = {**os.environ, "PYTHON": sys.executable, "PATH": f"{self.bin}:{os.environ['PATH']}"}
        result = subprocess.run(
            [self.path / "tools/setup.sh", mode], env=environment, capture_output=True, text=True
        )
        return result.returncode, result.stdout, result.stderr, self.log.read_text().splitlines()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.mark.parametrize("mode", ["demo", "docs", "test", "wheels"])
def test_set_up_is_done_once_and_again_when_a_source_changes(checkout, mode):
    code, said, _, calls = checkout.setup(mode)
    assert code == 0
    assert said.startswith("setup: ")
    wanted = {"wheels": "--group wheels"}.get(mode, f"--editable .[{mode}]")
    assert [call for call in calls if call.endswith(wanted)]
    assert checkout.setup(mode) == (0, "", "", [])
    with open(checkout.path / "csrc/ps_log.h", "a") as header:
        header.write("\n")
    assert checkout.setup(mode) == (0, said, "", calls)
    assert checkout.setup(mode) == (0, "", "", [])


def test_what_the_tests_need_is_enough_for_the_documentation_but_not_the_other_way_round(checkout):
    assert checkout.setup("test")[3]
    assert not checkout.setup("docs")[3]
    (checkout.path / ".venv/.pystream").unlink()
    assert checkout.setup("docs")[3]
    assert checkout.setup("test")[3]


def test_a_failed_set_up_says_so_and_is_tried_again(checkout):
    checkout.pip_ends_with(1)
    code, _, said, _ = checkout.setup("test")
    assert code == 1
    assert said == "setup: pip could not reach a package index\n"
    checkout.pip_ends_with(0)
    assert checkout.setup("test")[3]


def test_help_tells_of_every_target():
    result = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True)
    told = set(re.findall(r"\bmake ([a-z-]+)", result.stdout)) | set(
        re.findall(r"; *make ([a-z]+)", result.stdout)
    )
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert told == set(phony.split()) - {"all", "help"}


def test_what_the_makefile_names_is_there():
    (linted,) = re.findall(r"^PY_FILES = (.*)$", MAKEFILE, re.MULTILINE)
    benches = [
        f"bench/{name}.py" for name in re.findall(r"bench-(pipes|transfer|groups|growth|busy)", MAKEFILE)
    ]
    for name in [*linted.split(), *benches, "bench/table.py", "tools/setup.sh"]:
        assert (ROOT / name).exists(), name
    # Whatever holds Python is linted.
    holders = {path.relative_to(ROOT).parts[0] for path in ROOT.glob("*/**/*.py")}
    assert holders - {"build", "dist", "site"} - {h for h in holders if h.startswith(".")} <= set(
        linted.split()
    )
