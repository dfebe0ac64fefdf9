"""Facts about the machine that figures depend on; nothing that names it."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def _memory_gib() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def _filesystem(path: str) -> str:
    best, kind = "", "unknown"
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, where, fs, *_ = line.split(" ")
        if (path + "/").startswith(where.rstrip("/") + "/") and len(where) >= len(best):
            best, kind = where, fs
    return kind


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


LOAD_BEFORE = os.getloadavg()[0]


def facts(path: str) -> dict[str, str]:
    """The machine, for the table; path: where the stores lie. Other work on it shows in the load."""
    return {
        "processor": f"{_cpu()}, {os.cpu_count()} cores",
        "memory": f"{_memory_gib()} GiB",
        "system": f"Linux {platform.release().split('-')[0]}, {_filesystem(os.path.realpath(path))}",
        "python": f"CPython {platform.python_version()}, NumPy {_version('numpy')}",
        "pystream": _version("pystream-log"),
        "load average": f"{LOAD_BEFORE:.1f} before, {os.getloadavg()[0]:.1f} after",
    }
