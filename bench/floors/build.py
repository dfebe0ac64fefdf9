"""Builds the floors into build/ with the project's own kernels and flags: python bench/floors/build.py"""

import importlib.util
import runpy
import sys
from glob import glob
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent


def build() -> Path:
    """The path of the module, compiled if anything it is made of is newer."""
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension

    others = [str(ROOT / f"csrc/ps_{noun}.c") for noun in ("os", "status", "fault")]
    kernels = sorted([*glob(str(ROOT / "csrc/ps_hash*.c")), *others])
    out = ROOT / "build" / f"floors-{sys.implementation.cache_tag}"
    # The project's flags, so that both sides are compiled alike; its setup() is not run.
    import setuptools

    original, setuptools.setup = setuptools.setup, lambda **_: None
    try:
        project = runpy.run_path(str(ROOT / "setup.py"))
    finally:
        setuptools.setup = original
    cflags, libs = project["system_libraries"]()
    extension = Extension(
        "floors",
        [str(HERE / "floors.pyx"), str(HERE / "floors.c"), *kernels],
        include_dirs=[str(ROOT / "csrc"), str(HERE)],
        depends=[*glob(str(ROOT / "csrc/*.h")), str(HERE / "floors.h")],
        extra_compile_args=[*project["COMPILE"], *cflags],
        extra_link_args=[*project["LINK"], *libs],
    )
    distribution = Distribution(
        {"name": "floors", "ext_modules": cythonize([extension], build_dir=str(out / "c"), quiet=True)}
    )
    command = distribution.get_command_obj("build_ext")
    command.build_lib = str(out)
    command.build_temp = str(out / "o")
    command.ensure_finalized()
    command.run()
    return Path(command.get_ext_fullpath("floors"))


def load() -> ModuleType:
    """The floors, built if need be."""
    return load_from(build())


def load_from(path: str | Path) -> ModuleType:
    """The floors, from where build() has put them: for other processes of the same run."""
    spec = importlib.util.spec_from_file_location("floors", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    print(build())
