"""The three floors: what may stand on each, and that imports go down only."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PYTHON = sorted((ROOT / "pystream").rglob("*.py"))
STUBS = sorted((ROOT / "pystream").rglob("*.pyi"))
CYTHON = sorted([*(ROOT / "pyx").rglob("*.pyx"), *(ROOT / "pyx").rglob("*.pxd")])
SOURCES = sorted((ROOT / "csrc").glob("*.c"))
KERNELS = sorted([*SOURCES, *(ROOT / "csrc").glob("*.h")])
MODULES = sorted(path.stem for path in (ROOT / "pyx/pystream/_native").glob("*.pyx"))
LINES_MAX = 600
# The one word of state in csrc/: the vector set of the machine, the same whoever finds it out.
STATE_ALLOWED = {("ps_hash.c", "chosen")}

# The top floor knows no bytes: what takes them apart belongs below.
NOT_IN_PYTHON = {"struct", "ctypes", "cffi", "mmap"}
# Outside the standard library, by the part of the tree that may import it.
ALLOWED = {
    "pystream": {"numpy", "pystream"},
    "pystream/benchmark": {"hdrh", "matplotlib", "numpy", "pystream"},
    "pystream/cli": {"click", "numpy", "pystream", "rich"},
    "pystream/export": {"numpy", "orjson", "pyarrow", "pystream"},
    "pystream/ingest": {"numpy", "orjson", "pyarrow", "pystream"},
    "pystream/metrics": {"prometheus_client", "pystream"},
    "pystream/serializers": {"msgpack", "numpy", "orjson", "pystream"},
    "pystream/demo": {"matplotlib", "numpy", "pystream", "rich"},
}
# What the native layer may import beside the standard library and itself.
CPYTHON_HEADERS = {"Python.h", "structmember.h"}
NATIVE_IMPORTS = {"numpy", "cython", "cpython", "libc"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports_of(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found.add(node.module or "")
    return found


def without_comments(text: str) -> str:
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\])*"', "", text, flags=re.DOTALL)


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_python_imports(path):
    name = name_of(path)
    allowed = next(ALLOWED[part] for part in sorted(ALLOWED, reverse=True) if name.startswith(part))
    for module in imports_of(ast.parse(path.read_text(encoding="utf-8"))):
        top = module.partition(".")[0]
        assert top not in NOT_IN_PYTHON, f"{name} imports {module}"
        assert top in sys.stdlib_module_names or top in allowed, f"{name} imports {module}"


@pytest.mark.parametrize("path", CYTHON, ids=name_of)
def test_cython_imports_nothing_from_above(path):
    text = path.read_text(encoding="utf-8")
    for line in text.splitlines():
        found = re.match(r"\s*(?:from\s+([\w.]+)\s+c?import|c?import\s+([\w.]+))", line)
        module = (found.group(1) or found.group(2)) if found else None
        if module is None or module.startswith("pystream._native"):
            continue
        top = module.partition(".")[0]
        assert top in NATIVE_IMPORTS or top in sys.stdlib_module_names, f"{name_of(path)}: {line.strip()}"


@pytest.mark.parametrize("path", CYTHON, ids=name_of)
def test_cython_reaches_c_through_our_headers(path):
    text = path.read_text(encoding="utf-8")
    for header in re.findall(r'cdef extern from\s+"([^"]+)"', text):
        system = header.startswith("<")
        assert system or header in CPYTHON_HEADERS or (ROOT / "csrc" / header).is_file(), header


@pytest.mark.parametrize("path", KERNELS, ids=name_of)
def test_kernels_know_no_python(path):
    text = without_comments(path.read_text(encoding="utf-8"))
    assert not re.search(r"\bPy(?:Object|_|Gil|Err)", text)
    assert "Python.h" not in path.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def objects(tmp_path_factory):
    """csrc/ compiled, one object a file."""
    place = tmp_path_factory.mktemp("objects")
    subprocess.run(
        ["cc", "-std=gnu11", "-O1", "-fPIC", "-I", ROOT / "csrc", "-c", *SOURCES],
        cwd=place,
        check=True,
    )
    return place


@pytest.mark.parametrize("source", SOURCES, ids=name_of)
def test_kernels_keep_no_state(objects, source):
    """No writable data: each extension module has its own copy of csrc/, so state there would be split."""
    listing = subprocess.run(
        ["nm", objects / (source.stem + ".o")], check=True, capture_output=True, text=True
    ).stdout
    symbols = [line.split()[-2:] for line in listing.splitlines()]
    # nm calls .data.rel.ro d as well, though it is read-only once loaded: tables of pointers.
    table = subprocess.run(
        ["objdump", "-t", objects / (source.stem + ".o")], check=True, capture_output=True, text=True
    ).stdout
    constant = {line.split()[-1] for line in table.splitlines() if ".data.rel.ro" in line}
    writable = {(source.name, name) for kind, name in symbols if kind in "bBdDCsS" and name not in constant}
    assert writable <= STATE_ALLOWED


def test_every_native_module_has_a_stub():
    stubs = {path.stem for path in STUBS if path.parent.name == "_native"} - {"__init__"}
    assert stubs == set(MODULES)


@pytest.mark.parametrize(
    "path", [*PYTHON, *STUBS, *CYTHON, *KERNELS, *sorted((ROOT / "tests").rglob("*.[pch]*"))], ids=name_of
)
def test_no_file_is_two_ideas(path):
    if path.suffix in {".pyc", ".so"}:
        return
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= LINES_MAX, f"{lines} lines"


def test_no_generated_code_beside_the_sources():
    generated = [
        name_of(path)
        for part in ("pystream", "pyx")
        for suffix in ("*.c", "*.cpp", "*.h", "*.html")
        for path in (ROOT / part).rglob(suffix)
    ]
    assert generated == []


def test_importing_the_package_brings_numpy_and_nothing_else():
    code = (
        "import sys, numpy; before = set(sys.modules); import pystream; "
        "print(*{m.partition('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names) "
        "- {'cython_runtime'})"
    )
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert {name for name in result.stdout.split() if not name.startswith("_")} == {"pystream"}
