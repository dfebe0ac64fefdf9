"""Says what is wrong with wheels: python tools/check_wheel.py [--repaired] WHEEL...

With --repaired they are for other machines, too: each carries liblz4 and needs nothing else that a machine
with glibc does not have. Exit code 1 if anything is wrong.
"""

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parent.parent
LIBS = "pystream_log.libs"
# Of what every manylinux tag lets a wheel expect of a machine, all that pystream has a use for.
EXPECTED = re.compile(r"lib(c|m|pthread|dl|rt)\.so\.\d+|ld-linux-[a-z0-9-]+\.so\.\d+")


def content_faults(names: set[str]) -> list[str]:
    """What is missing in the files of a wheel, and what should not be there."""
    faults = []
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "pystream").rglob("*.py*")}
    package = {name for name in package if name.endswith((".py", ".pyi"))} | {"pystream/py.typed"}
    modules = {f"pystream/_native/{path.stem}" for path in (ROOT / "pyx/pystream/_native").glob("*.pyx")}
    built = {name.partition(".")[0] for name in names if name.endswith(".so")}
    info = {name.partition("/")[0] for name in names if ".dist-info/" in name}
    licenses = {f"{folder}/licenses/{name}" for folder in info for name in ("LICENSE", "NOTICE")}
    faults += [f"{name} is missing" for name in sorted((package | licenses) - names)]
    faults += [f"the module {name} is missing" for name in sorted(modules - built)]
    for name in sorted(names):
        top = name.partition("/")[0]
        known = name in package or (name.endswith(".so") and name.partition(".")[0] in modules)
        if not known and top not in info and top != LIBS:
            faults.append(f"{name} does not belong there")
    return faults


def needed_by(module: Path) -> tuple[set[str], str]:
    """The libraries that `module` asks the loader for, and where it says to look first."""
    listing = subprocess.run(["readelf", "-d", module], check=True, capture_output=True, text=True).stdout
    paths = re.findall(r"\(RU?N?PATH\).*\[(.*)\]", listing)
    return set(re.findall(r"\(NEEDED\).*\[(.*)\]", listing)), ":".join(paths)


def library_faults(wheel: zipfile.ZipFile) -> list[str]:
    """What the modules of a wheel need and would not find on another machine."""
    names = {name for name in wheel.namelist() if not name.endswith("/")}
    carried = {PurePosixPath(name).name for name in names if name.startswith(f"{LIBS}/")}
    faults = []
    if len(carried) != 1 or not min(carried).startswith("liblz4"):
        faults.append(f"{LIBS} should hold liblz4 alone, not: {', '.join(sorted(carried)) or 'nothing'}")
    with tempfile.TemporaryDirectory() as directory:
        for name in sorted(name for name in names if ".so" in PurePosixPath(name).suffixes):
            needed, path = needed_by(Path(wheel.extract(name, directory)))
            own = {library for library in needed if not EXPECTED.fullmatch(library)}
            faults += [f"{name} needs {library}, which is not carried" for library in sorted(own - carried)]
            if own & carried and path != f"$ORIGIN/../../{LIBS}":
                faults.append(f"{name} looks for its libraries in {path or 'no place of its own'}")
    return faults


def faults(path: Path, *, repaired: bool) -> list[str]:
    """What is wrong with the wheel at `path`, one line each."""
    with zipfile.ZipFile(path) as wheel:
        found = content_faults({name for name in wheel.namelist() if not name.endswith("/")})
        if repaired:
            if "-manylinux_" not in path.name:
                found.append("its platform tag is not manylinux")
            found += library_faults(wheel)
    return found


def main() -> None:
    wheels = [Path(name) for name in sys.argv[1:] if name != "--repaired"]
    if not wheels:
        sys.exit("usage: python tools/check_wheel.py [--repaired] WHEEL...")
    found = {path.name: faults(path, repaired="--repaired" in sys.argv) for path in wheels}
    for name, lines in found.items():
        for line in lines:
            print(f"{name}: {line}", file=sys.stderr)
    sys.exit(any(found.values()))


if __name__ == "__main__":
    main()
