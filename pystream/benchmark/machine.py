"""Facts about the machine that figures depend on; nothing that names it."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from pystream import versions
from pystream._native.limits import choose_io


def machine_facts(path: Path) -> dict[str, Any]:
    """The machine, and the file system at `path`. Other work on it shows in the load."""
    facts = versions.collect()
    return {
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "cpus_usable": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "architecture": platform.machine(),
        "kernel": facts["kernel"],
        "filesystem": _filesystem(path),
        "checksum": facts["checksum"],
        "load_average": round(os.getloadavg()[0], 2),
    }


def version_facts() -> dict[str, str | None]:
    """Versions of what the figures are of."""
    facts = versions.collect()
    own = {name: facts[name] for name in ("pystream", "python", "numpy", "lz4", "xxhash")}
    return own | {"hdrhistogram": facts["packages"]["hdrhistogram"]}


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def _filesystem(path: Path) -> str:
    return choose_io(str(path))[1]
