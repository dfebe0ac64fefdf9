"""What is shipped, and what is said when the machine lacks something."""

import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import pystream

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_names_and_versions_agree():
    assert PROJECT["name"] == "pystream-log"
    assert metadata.version("pystream-log") == PROJECT["version"] == pystream.__version__
    assert PROJECT["requires-python"] == ">=3.11"


def test_numpy_is_the_only_runtime_dependency():
    needed = [line for line in metadata.requires("pystream-log") or [] if "extra ==" not in line]
    assert [line[:5] for line in needed] == ["numpy"]


def test_typed():
    package = Path(pystream.__file__).parent
    assert (package / "py.typed").is_file()
    assert list((package / "_native").glob("*.pyi"))


def test_stubs_say_what_the_modules_have():
    options = (
        "--mypy-config-file pyproject.toml --ignore-disjoint-bases "
        "--allowlist tools/stubtest-allow.txt --ignore-unused-allowlist"
    )
    result = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "pystream._native", *options.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_modules_export_nothing_but_their_init():
    modules = sorted((Path(pystream.__file__).parent / "_native").glob("*.so"))
    assert modules
    for module in modules:
        listing = subprocess.run(
            ["nm", "-D", "--defined-only", module], check=True, capture_output=True, text=True
        ).stdout
        names = {line.split()[-1] for line in listing.splitlines()} - {"_init", "_fini"}
        wanted = f"PyInit_{module.name.partition('.')[0]}"
        assert {name for name in names if not name.startswith("__")} == {wanted}


FAKES = {
    "no library": (
        "#!/bin/sh\necho \"Package 'liblz4' not found\" >&2\nexit 1\n",
        "Package 'liblz4' not found",
    ),
    "no pkg-config": (None, "cannot run"),
}


@pytest.mark.parametrize("fake", FAKES)
def test_a_missing_library_is_one_error_that_names_the_packages(tmp_path, fake):
    script, said = FAKES[fake]
    program = tmp_path / "pkg-config"
    if script is not None:
        program.write_text(script)
        program.chmod(0o755)
    result = subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_ext", "--build-lib", tmp_path / "lib"],
        cwd=ROOT,
        env={**os.environ, "PATH": str(tmp_path)} | {"PKG_CONFIG": "pkg-config"},
        capture_output=True,
        text=True,
    )
    assert result.returncode != 0
    assert said in result.stderr
    for line in (
        "apt-get install liblz4-dev libxxhash-dev pkg-config",
        "dnf install lz4-devel xxhash-devel pkgconf-pkg-config",
        "apk add lz4-dev xxhash-dev pkgconf",
    ):
        assert line in result.stderr
    assert "Traceback" not in result.stderr


def test_the_command_line_says_which_extra_it_needs(tmp_path):
    hide = (
        "import sys, importlib.util as u; real = u.find_spec; "
        "u.find_spec = lambda n, *a: None if n == 'click' else real(n, *a); "
        "from pystream.__main__ import main; main()"
    )
    result = subprocess.run([sys.executable, "-c", hide], capture_output=True, text=True)
    assert result.returncode == 2
    assert "pip install 'pystream-log[cli]'" in result.stderr


def test_scripts_are_sound_shell():
    for script in (".ci/run", "tools/setup.sh", "tools/wheel-smoke.sh"):
        subprocess.run(["bash", "-n", ROOT / script], check=True)
        assert os.access(ROOT / script, os.X_OK)
