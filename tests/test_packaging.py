"""What is shipped, and what is said when the machine lacks something."""

import ast
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import pystream

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
CHECK = runpy.run_path(str(ROOT / "tools/check_wheel.py"))


def test_names_and_versions_agree():
    assert PROJECT["name"] == "pystream-log"
    assert metadata.version("pystream-log") == PROJECT["version"] == pystream.__version__
    assert PROJECT["requires-python"] == ">=3.11"


def test_the_version_is_written_once():
    sources = [ROOT / "setup.py", ROOT / "Makefile", ROOT / "mkdocs.yml", *(ROOT / "tools").iterdir()]
    for path in [*sources, *(ROOT / "pystream").rglob("*.py*")]:
        if path.suffix != ".pyc":
            assert PROJECT["version"] not in path.read_text(encoding="utf-8"), path


# ---- the extras -----------------------------------------------------------------------------------------


def imported(folder: Path) -> set[str]:
    """The packages from elsewhere that the Python files below `folder` import, wherever in them."""
    ours = [path for part in ("tests", "bench", "tools", "docs") for path in (ROOT / part).rglob("*.py*")]
    own = {name for path in ours for name in (path.stem, path.parent.name)}
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add((node.module or "").partition(".")[0])
    return found - sys.stdlib_module_names - own - {"pystream"}


def named(extra: str) -> set[str]:
    """What an extra names, beside other extras."""
    return {Requirement(line).name for line in EXTRAS[extra]} - {"pystream-log"}


def installed_by(extra: str) -> set[str]:
    """Everything that `pip install pystream-log[extra]` brings, as far as it is installed here."""
    brought: set[str] = set()
    queue = [Requirement(line) for line in PROJECT["dependencies"] + EXTRAS[extra]]
    while queue:
        wanted = queue.pop()
        name = canonicalize_name(wanted.name)
        if name == "pystream-log":
            queue += [Requirement(line) for other in wanted.extras for line in EXTRAS[other]]
            continue
        asked = {f"{name}[{other}]" for other in wanted.extras} | {name}
        if asked <= brought:
            continue
        brought |= asked
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for requirement in map(Requirement, lines):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in {"", *wanted.extras}):
                queue.append(requirement)
    return brought


def test_what_the_package_imports_is_in_the_extras_of_its_users_and_nothing_else():
    users = {"cli", "arrow", "serializers", "metrics", "demo", "bench"}
    providers = metadata.packages_distributions()
    brought = {canonicalize_name(providers[module][0]) for module in imported(ROOT / "pystream")}
    assert brought == set.union(*map(named, users)) | {"numpy"}
    for part, extra in {"cli": "cli", "ingest": "arrow", "export": "arrow"}.items():
        assert imported(ROOT / "pystream" / part) & named(extra), part


@pytest.mark.parametrize(
    ("folder", "extra"),
    [
        ("tests", "test"),
        ("examples", "test"),
        ("bench", "test"),
        ("docs", "docs"),
        ("pystream/demo", "demo"),
        ("pystream/benchmark", "bench"),
    ],
)
def test_an_extra_brings_what_its_users_import(folder, extra):
    brought = installed_by(extra)
    providers = metadata.packages_distributions()
    for module in imported(ROOT / folder) - {"floors"}:
        assert {canonicalize_name(name) for name in providers[module]} & brought, (module, extra)


def test_every_requirement_has_a_lower_bound_and_no_upper_one():
    for line in [*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)]:
        requirement = Requirement(line)
        if requirement.name != "pystream-log":
            assert [bound.operator for bound in requirement.specifier] == [">="], line
        assert requirement.extras <= set(EXTRAS) or requirement.name != "pystream-log", line


def test_all_is_all():
    (everything,) = map(Requirement, EXTRAS["all"])
    assert everything.name == "pystream-log"
    assert everything.extras == set(EXTRAS) - {"all"}


def test_extras_are_told_of_and_those_told_of_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for extra in EXTRAS:
        assert f"[{extra}]" in readme, f"the README says nothing of [{extra}]"
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    sources = [*(ROOT / "pystream").rglob("*.py"), *(ROOT / "pyx").rglob("*.pyx")]
    for path in [*pages, *sources]:
        for names in re.findall(r"pystream-log\[([^\]]*)\]", path.read_text(encoding="utf-8")):
            if "{" not in names:
                assert set(names.split(",")) <= set(EXTRAS), (path, names)


def test_the_entry_points():
    assert PROJECT["scripts"] == {"pystream": "pystream.__main__:main"}


# ---- the source distribution and the wheel --------------------------------------------------------------

IN_SDIST = ("bench", "csrc", "docs", "examples", "pystream", "pyx", "tests", "tools")
BESIDE = (
    "CHANGELOG.md LICENSE MANIFEST.in Makefile NOTICE README.md mkdocs.yml pyproject.toml setup.py "
    ".ci/run .clang-format"
).split()
JUNK = (
    ".git/HEAD",
    ".mypy_cache/3.11/x.json",
    ".venv/lib/x.py",
    "bench/results/last.md",
    "build/cython/x.c",
    "dist/x.whl",
    "events.ps/store.json",
    "pystream/_native/log.cpython-311-x86_64-linux-gnu.so",
    "pystream/__pycache__/topic.cpython-311.pyc",
    "site/index.html",
    "tests/__pycache__/conftest.cpython-311.pyc",
    "tests/c/test_frame.o",
)


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, as clean as a clone."""
    copy = tmp_path_factory.mktemp("checkout") / "pystream"
    untracked = shutil.ignore_patterns("__pycache__", "*.so", "*.o", "last.*", ".*_cache")
    for part in IN_SDIST:
        shutil.copytree(ROOT / part, copy / part, ignore=untracked)
    for name in BESIDE:
        (copy / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    return copy


def run_setuptools(folder: Path, code: str) -> None:
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_source_distribution_holds_the_sources_and_no_junk(checkout, tmp_path):
    wanted = files_below(checkout)
    tree = shutil.copytree(checkout, tmp_path / "tree")
    for name in JUNK:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(b"junk")
    run_setuptools(tree, f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})")
    with tarfile.open(tmp_path / f"pystream_log-{PROJECT['version']}.tar.gz") as archive:
        members = [member for member in archive.getmembers() if not member.isdir()]
    got = {member.name.partition("/")[2] for member in members}
    made = {name for name in got if name in ("PKG-INFO", "setup.cfg") or ".egg-info/" in name}
    assert got - made == wanted
    assert "PKG-INFO" in made


@pytest.fixture(scope="module")
def wheel_names(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the files in a wheel; of the compiled modules, which need not be compiled to know."""
    lib, info = tmp_path_factory.mktemp("lib"), tmp_path_factory.mktemp("info")
    run_setuptools(
        checkout,
        "import sys, runpy; from setuptools import build_meta; "
        f"build_meta.prepare_metadata_for_build_wheel({str(info)!r}); "
        f"sys.argv = ['setup.py', '-q', 'build_py', '--build-lib', {str(lib)!r}]; "
        "runpy.run_path('setup.py', run_name='__main__')",
    )
    modules = (ROOT / "pyx/pystream/_native").glob("*.pyx")
    compiled = {f"pystream/_native/{path.stem}.cpython-311-x86_64.so" for path in modules}
    # Some versions of setuptools leave what they made the metadata of beside it.
    return compiled | files_below(lib) | {name for name in files_below(info) if ".dist-info/" in name}


def test_a_wheel_holds_the_package_and_nothing_else(wheel_names):
    assert CHECK["content_faults"](wheel_names) == []


@pytest.mark.parametrize(
    "lost",
    [
        "pystream/py.typed",
        "pystream/store.py",
        "pystream/cli/__init__.py",
        "pystream/_native/log.pyi",
        "licenses/LICENSE",
        "licenses/NOTICE",
        "pystream/_native/log.cpython-311-x86_64.so",
    ],
)
def test_a_file_lost_from_a_wheel_is_noticed(wheel_names, lost):
    left = {name for name in wheel_names if not name.endswith(lost)}
    (fault,) = CHECK["content_faults"](left)
    assert lost.partition(".cpython")[0] in fault
    assert fault.endswith(" is missing")


@pytest.mark.parametrize(
    "added",
    [
        "pystream/cli.py",
        "pystream/_native/log.c",
        "pystream/_native/log.pyx",
        "tests/test_store.py",
        "setup.py",
    ],
)
def test_a_file_too_many_in_a_wheel_is_noticed(wheel_names, added):
    assert CHECK["content_faults"](wheel_names | {added}) == [f"{added} does not belong there"]


def test_a_wheel_without_its_libraries_is_noticed(tmp_path):
    path = tmp_path / f"pystream_log-{PROJECT['version']}-cp311-cp311-linux_x86_64.whl"
    module = next((Path(pystream.__file__).parent / "_native").glob("log.*.so"))
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.write(module, f"pystream/_native/{module.name}")
    faults = CHECK["faults"](path, repaired=True)
    assert "its platform tag is not manylinux" in faults
    assert "pystream_log.libs should hold liblz4 alone, not: nothing" in faults
    assert f"pystream/_native/{module.name} needs liblz4.so.1, which is not carried" in faults
    assert not [fault for fault in faults if "libc.so.6" in fault]


def test_the_licences_name_what_is_carried():
    assert PROJECT["license"] == "Apache-2.0 AND BSD-2-Clause"
    assert PROJECT["license-files"] == ["LICENSE", "NOTICE"]
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    for words in ("LZ4", "xxHash", "Yann Collet", "Redistributions in binary form must reproduce"):
        assert words in notice


# ---- what is installed ----------------------------------------------------------------------------------


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
