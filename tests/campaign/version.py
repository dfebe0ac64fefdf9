"""What was tried, and where: the version of the code, and the machine."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parent.parent.parent
SOURCES: Final = {
    "csrc": {".c", ".h"},
    "pyx": {".pyx", ".pxd"},
    "pystream": {".py"},
}
"""Of these the library is made. Stubs and documents change nothing that runs."""


class Version(NamedTuple):
    release: str
    digest: str
    commit: str


def sources(root: Path = ROOT) -> Iterator[Path]:
    """The files that the digest is of, in its order."""
    for part, suffixes in SOURCES.items():
        yield from sorted(path for path in (root / part).rglob("*") if path.suffix in suffixes)


def digest(root: Path = ROOT) -> str:
    """12 hexadecimal digits of the names and contents of all sources."""
    whole = hashlib.sha256()
    for path in sources(root):
        for part in (str(path.relative_to(root)).encode(), path.read_bytes()):
            whole.update(len(part).to_bytes(8, "little") + part)
    return whole.hexdigest()[:12]


def release(root: Path = ROOT) -> str:
    found = re.search(
        r'^version = "(.+)"$', (root / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert found is not None, "pyproject.toml has no version"
    return found[1]


def commit(root: Path = ROOT) -> str:
    """Git's, with a "+" when sources differ from it; empty where there is no git."""

    def git(*words: str) -> str:
        result = subprocess.run(["git", "-C", root, *words], capture_output=True, text=True, check=True)
        return result.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root.resolve():
            return ""
        return git("rev-parse", "--short=12", "HEAD") + (
            "+" if git("status", "--porcelain", *SOURCES) else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return ""


def version(root: Path = ROOT) -> Version:
    return Version(release(root), digest(root), commit(root))


def unbuilt(root: Path = ROOT) -> str:
    """The source that a native module is older than, so not made of; empty when all are up to date."""
    kernels = [path for path in sources(root) if path.suffix in (".c", ".h")]
    for module in sorted((root / "pyx/pystream/_native").glob("*.pyx")):
        built = list((root / "pystream/_native").glob(f"{module.stem}.*.so"))
        if not built:
            return str(module.relative_to(root))
        made = max(path.stat().st_mtime for path in built)
        for source in (module, *kernels):
            if source.stat().st_mtime > made:
                return str(source.relative_to(root))
    return ""


def filesystem(path: str | Path) -> str:
    """The type of the file system that a path is on, as "ext4"."""
    real, best, found = os.path.realpath(path), -1, "unknown"
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        for line in mounts:
            words = line.split()
            point = words[4].replace("\\040", " ")
            inside = point == "/" or real == point or real.startswith(point + "/")
            if inside and len(point) >= best:  # of several mounts at one point, the last one is seen
                best, found = len(point), words[words.index("-") + 1]
    return found


def machine(place: str | Path) -> str:
    """Kernel, processor, cores, and the file system on which the stores lie."""
    cores, kernel = len(os.sched_getaffinity(0)), platform.release().split("-")[0]
    return f"Linux {kernel}, {platform.machine()}, {cores} cores, {filesystem(place)}"
