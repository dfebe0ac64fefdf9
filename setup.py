"""Builds csrc/ into one static library and every pyx/pystream/_native/NAME.pyx into pystream._native.NAME.

Environment:
  PYSTREAM_SANITIZE=1  compile and link with AddressSanitizer and UndefinedBehaviorSanitizer. Run with
                       LD_PRELOAD="$(cc -print-file-name=libasan.so)" ASAN_OPTIONS=detect_leaks=0 python ...
  PYSTREAM_WERROR=1    warnings in csrc/ are errors.
  PKG_CONFIG           the pkg-config program (default: pkg-config).
"""

import os
import shlex
import shutil
import subprocess
import sys
import zlib
from functools import cache
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_clib import build_clib
from setuptools.command.build_ext import build_ext

try:
    from setuptools.modified import newer_group
except ImportError:  # setuptools before 69.3
    from distutils.dep_util import newer_group

KERNELS = sorted(glob("csrc/*.c"))
MODULES = sorted(glob("pyx/pystream/_native/*.pyx"))
# An edit to any of these rebuilds what stands on it.
SHARED = sorted(["setup.py", *glob("csrc/*.h"), *glob("pyx/**/*.pxd", recursive=True)])

SANITIZE = os.environ.get("PYSTREAM_SANITIZE", "") not in ("", "0")
WERROR = os.environ.get("PYSTREAM_WERROR", "") not in ("", "0")

# The interpreter's own flags come first, so the last -O wins. Never -march=native: the hash kernels
# choose their vector set at run time. PyInit_* stay visible, CPython's macro marks them.
COMPILE = ["-std=gnu11", "-O3", "-g1", "-fvisibility=hidden", "-pthread"]
WARNINGS = ["-Wall", "-Wextra"]
LINK = ["-pthread"]
if SANITIZE:
    sanitizers = [
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        "-fno-omit-frame-pointer",
        "-g",
    ]
    COMPILE += [*sanitizers, "-O1"]
    LINK += sanitizers
if WERROR:
    WARNINGS.append("-Werror")

# How many compilers at once.
CORES = len(os.sched_getaffinity(0))

NEEDED = ("liblz4 >= 1.8.0", "libxxhash >= 0.8.0")
INSTALL = """pystream needs the LZ4 and xxHash development files, found through pkg-config ({problem}).
Install them and try again:
  Debian, Ubuntu:  apt-get install liblz4-dev libxxhash-dev pkg-config
  Fedora, RHEL:    dnf install lz4-devel xxhash-devel pkgconf-pkg-config
  Alpine:          apk add lz4-dev xxhash-dev pkgconf"""


@cache
def system_libraries() -> tuple[list[str], list[str]]:
    """The compiler's and the linker's flags for LZ4 and xxHash (of which only the header is used)."""
    program = os.environ.get("PKG_CONFIG", "pkg-config")

    def ask(*arguments: str) -> list[str]:
        result = subprocess.run([program, *arguments], capture_output=True, text=True)
        if result.returncode != 0:
            said = " ".join(result.stderr.split()) or f"{program} ended with {result.returncode}"
            raise SystemExit(INSTALL.format(problem=said))
        return shlex.split(result.stdout)

    try:
        ask("--exists", "--print-errors", *NEEDED)
        return ask("--cflags", *NEEDED), ask("--libs", NEEDED[0])
    except OSError as error:
        raise SystemExit(INSTALL.format(problem=f"cannot run {program}: {error.strerror}")) from None


def kept_under(noun: str) -> str:
    """A directory under build/ for results of this interpreter, compiler and set of flags."""
    settings = repr([COMPILE, LINK, sys.version, *(os.environ.get(v) for v in ("CC", "CFLAGS", "LDFLAGS"))])
    return f"build/{noun}-{sys.implementation.cache_tag}-{zlib.crc32(settings.encode()):08x}"


class BuildKernels(build_clib):
    """csrc/ as libps_kernels.a."""

    def finalize_options(self):
        super().finalize_options()
        self.build_temp = self.build_clib = kept_under("kernels")

    def build_libraries(self, libraries):
        cflags, _ = system_libraries()
        for _, info in libraries:
            info["cflags"] = [*COMPILE, *WARNINGS, *cflags]
        super().build_libraries(libraries)


class BuildModules(build_ext):
    """The extension modules, after the library they link with.

    An editable install compiles in a fresh temporary directory each time; so finished modules are kept
    under build/ as well, and taken from there while nothing they are made of has changed.
    """

    def finalize_options(self):
        super().finalize_options()
        self.kept = kept_under("modules")
        self.parallel = self.parallel or CORES

    def run(self):
        # Not before: naming the sources, as an sdist does, needs neither libraries nor Cython.
        from Cython.Build import cythonize

        cflags, libs = system_libraries()
        generated = cythonize(
            [
                Extension(extension.name, extension.sources, include_dirs=["csrc"])
                for extension in self.extensions
            ],
            build_dir="build/cython",
            nthreads=CORES,
            include_path=["pyx"],
            compiler_directives={"language_level": 3},
        )
        sources = {extension.name: extension.sources for extension in generated}
        for extension in self.extensions:
            extension.sources = sources[extension.name]
            extension.extra_compile_args = [*COMPILE, *cflags]
            extension.extra_link_args = [*LINK, *libs]  # the system's libraries come after ours
        self.run_command("build_clib")
        super().run()

    def build_extension(self, extension):
        target = self.get_ext_fullpath(extension.name)
        kept = os.path.join(self.kept, os.path.basename(target))
        module = extension.name.rpartition(".")[2]
        extension.depends = [*SHARED, *KERNELS, f"pyx/pystream/_native/{module}.pyx"]
        if self.force or newer_group(extension.depends, kept):
            super().build_extension(extension)
            os.makedirs(self.kept, exist_ok=True)
            shutil.copy2(target, kept + ".new")
            os.replace(kept + ".new", kept)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copy2(kept, target)


setup(
    libraries=[
        ("ps_kernels", {"sources": KERNELS, "include_dirs": ["csrc"], "obj_deps": {"": SHARED}}),
    ],
    ext_modules=[
        Extension(
            "pystream._native." + os.path.splitext(os.path.basename(path))[0],
            [path],
            include_dirs=["csrc"],
        )
        for path in MODULES
    ],
    cmdclass={"build_clib": BuildKernels, "build_ext": BuildModules},
)
