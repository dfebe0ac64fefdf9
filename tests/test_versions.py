"""What is installed: `pystream.show_versions` and `pystream version`."""

import json
import os
import platform
import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest

import pystream
from pystream import versions
from pystream._native import limits
from pystream._native.hashing import variant


def test_prints_what_collect_found_and_returns_nothing(capsys):
    assert pystream.show_versions() is None
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out == versions.as_text(versions.collect()) + "\n"
    lines = dict(line.split(None, 1) for line in printed.out.splitlines())
    assert lines["pystream"] == pystream.__version__
    assert lines["numpy"] == np.__version__
    assert lines["python"].startswith(platform.python_version())
    assert lines["click"] == metadata.version("click")


def test_collect_says_what_is_here():
    facts = versions.collect()
    assert facts["format"] == limits.FORMAT_VERSION == 1
    assert facts["checksum"] == variant()
    assert os.path.samefile(facts["location"], os.path.dirname(pystream.__file__))
    optional = {"click", "hdrhistogram", "matplotlib", "msgpack", "orjson", "pyarrow", "rich"}
    assert set(facts["packages"]) == optional
    assert facts["directory"] == os.getcwd()
    assert facts["kernel"] == os.uname().release
    assert facts["io"] in ("mmap", "pwrite", "refused")
    assert json.loads(json.dumps(facts)) == facts


def test_libraries_are_those_that_are_used():
    """LZ4's own word for its version, and the version of the xxHash header."""
    libraries = limits.libraries()
    assert set(libraries) == {"lz4", "xxhash"}
    for version in libraries.values():
        major, minor, release = map(int, version.split("."))
        assert (major, minor, release) >= (0, 8, 0)
    facts = versions.collect()
    assert (facts["lz4"], facts["xxhash"]) == (libraries["lz4"], libraries["xxhash"])


def test_the_file_system_is_that_of_the_current_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    facts = versions.collect()
    with pystream.open(tmp_path / "s") as store:
        assert facts["filesystem"] == store.filesystem
        assert facts["io"] in (store.io, "refused")


def test_what_is_not_installed_is_said_to_be_so(monkeypatch):
    real = metadata.version

    def version(name):
        if name in ("orjson", "pyarrow"):
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    facts = versions.collect()
    assert facts["packages"]["orjson"] is facts["packages"]["pyarrow"] is None
    assert facts["packages"]["click"] == real("click")
    text = versions.as_text(facts)
    assert text.count("not installed") == 2


def test_a_directory_that_is_gone(tmp_path):
    code = (
        "import os, sys; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')\n"
        "from pystream import versions; facts = versions.collect()\n"
        "print([facts[name] for name in ('directory', 'filesystem', 'io')]); print(versions.as_text(facts))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.stdout.startswith("[None, None, None]\n"), result.stderr
    assert result.stdout.count("unknown") == 3


def test_optional_packages_are_asked_without_being_imported():
    code = "import sys, pystream; pystream.show_versions(); print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(result.stdout.splitlines()[-1].split()) & set(versions.OPTIONAL) == set()


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_says_the_same(as_json, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-m", "pystream", "version", *(["--json"] * as_json)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    facts = versions.collect()
    if as_json:
        assert json.loads(result.stdout) == facts
    else:
        assert result.stdout == versions.as_text(facts) + "\n"
