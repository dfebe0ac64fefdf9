"""What is installed and what it runs on: the facts that belong in every report of a fault."""

from __future__ import annotations

from typing import Any, Final

OPTIONAL: Final = ("click", "rich", "pyarrow", "orjson", "msgpack", "matplotlib", "hdrhistogram")
"""Packages that pystream makes use of when they are there. None of them is imported to be asked."""


def collect() -> dict[str, Any]:
    """The facts that `show_versions` prints, as plain data that JSON can hold.

    Returns:
        A dict with `pystream`, `format` (the version of the format on disk), `location` (of the package),
        `python`, `numpy`, `lz4` (as loaded), `xxhash` (as compiled in), `checksum` (the vector set that the
        checksums use here), `packages` (name to version, or None where it is not installed), `platform`,
        `kernel`, `libc`, `cpus`, `directory` (the current one), `filesystem` (its kind) and `io` (how a store
        there would write: "mmap", "pwrite" or "refused"). `directory`, `filesystem` and `io` are None when
        the current directory is gone.
    """
    # Few ask, and these take longer to import than all of pystream.
    import os
    import platform
    from importlib import metadata

    import numpy as np

    import pystream
    from pystream._native import hashing, limits
    from pystream._native.limits import choose_io

    def installed(package: str) -> str | None:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return None

    libraries = limits.libraries()
    facts = {
        "pystream": pystream.__version__,
        "format": limits.FORMAT_VERSION,
        "location": os.path.dirname(os.path.abspath(pystream.__file__)),
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "numpy": np.__version__,
        "lz4": libraries["lz4"],
        "xxhash": libraries["xxhash"],
        "checksum": hashing.variant(),
        "packages": {package: installed(package) for package in OPTIONAL},
        "platform": platform.platform(),
        "kernel": platform.release(),
        "libc": " ".join(platform.libc_ver()).strip() or None,
        "cpus": os.cpu_count(),
    }
    try:
        directory = os.getcwd()
        io, filesystem = choose_io(directory)
        return facts | {"directory": directory, "filesystem": filesystem, "io": io}
    except OSError:
        return facts | {"directory": None, "filesystem": None, "io": None}


def as_text(facts: dict[str, Any]) -> str:
    """What `collect` found, a line each, for people."""
    lines: dict[str, object] = {}
    for name, value in facts.items():
        if isinstance(value, dict):
            lines |= {package: version or "not installed" for package, version in value.items()}
        else:
            lines[name] = "unknown" if value is None else value
    width = max(map(len, lines))
    return "\n".join(f"{name:{width}}  {value}" for name, value in lines.items())


def show_versions() -> None:
    """Print the versions of pystream, of what it stands on and of what it makes use of, and the platform.

    Put it into a report of a fault. `pystream version` prints the same, with `--json` for programs;
    `pystream.versions.collect` returns it.
    """
    print(as_text(collect()))
