"""Break the library, one promise at a time, and see that the tests say so.

    python -m tests.stress.mutations

Each mutation is an exact edit of the sources, in a copy of the tree that is built there. Processes are then
set on it until the checker names an anomaly of the expected kind; or, where only a power failure can show it,
the campaign that plays those. The first lines are of the library as it is: it must have no anomaly.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from .edits import MUTATIONS, Edit, Mutation

ROOT: Final = Path(__file__).resolve().parent.parent.parent
LEFT_OUT: Final = shutil.ignore_patterns(
    ".git",
    ".venv",
    "build",
    "dist",
    "site",
    "*.so",
    "*.pyc",
    "__pycache__",
    "*.egg-info",
    ".*_cache",
    "results",
)
ROUND_S: Final = 8
CAMPAIGN: Final = """
import json, sys
import pystream
from campaign.kinds import KINDS, MANY, failures_of, seeds_of
(kind,) = [kind for kind in KINDS if kind.name == sys.argv[1]]
seed, seconds = int(sys.argv[2]), float(sys.argv[3])
answer = kind.run(seed, MANY, seconds=seconds, workers=2)
failures = failures_of(answer, seed)
print(json.dumps({
    "seed": failures[0][0] if failures else seed + seeds_of(answer) - 1,
    "counts": {"failure": len(failures)} if failures else {},
    "anomalies": failures,
    "library": pystream.__file__,
}))
"""
"""A round of a campaign, as a verdict of the stress."""
CAUGHT: Final = "caught"


class MutationError(Exception):
    """A mutation that cannot be made: the sources have changed, or do not compile."""


class Tree:
    """A copy of the tree, built, in which sources can be edited and what depends on them be made anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        shutil.copytree(ROOT, path, ignore=LEFT_OUT)
        self.commands = self.setup().splitlines()

    def setup(self) -> str:
        """Build whatever is not up to date; the commands that did."""
        return self.command([sys.executable, "setup.py", "build_ext", "--inplace"])

    def command(self, words: list[str], environment: Mapping[str, str] | None = None) -> str:
        variables = os.environ | (environment or {})
        result = subprocess.run(words, cwd=self.path, env=variables, capture_output=True, text=True)
        if result.returncode != 0:
            raise MutationError(f"{shlex.join(words)}\n{result.stdout}{result.stderr}")
        return result.stdout

    def build(self, edits: tuple[Edit, ...]) -> None:
        """Build what the edits touch. A kernel is compiled by itself and linked anew with each module: for
        setup.py every module depends on every kernel, which takes much longer."""
        kinds = {Path(edit.file).suffix for edit in edits}
        if kinds <= {".py"}:
            return
        if kinds == {".c"}:
            compiles = [f" -c {edit.file} " for edit in edits]
            for line in self.commands:
                if any(part in line for part in compiles) or line.startswith("ar "):
                    self.command(shlex.split(line))
            for line in self.commands:
                if " -shared " in line:
                    words = shlex.split(line)
                    self.command(words)
                    made = Path(words[words.index("-o") + 1])
                    shutil.copy2(self.path / made, self.path / "pystream/_native" / made.name)
            return
        self.setup()

    @contextmanager
    def mutated(self, edits: tuple[Edit, ...]) -> Iterator[None]:
        """The tree with these edits, built; put back afterwards, without a rebuild."""
        kept = Path(tempfile.mkdtemp(prefix="kept-", dir=self.path.parent))
        files = [Path(edit.file) for edit in edits] + [
            path.relative_to(self.path) for path in self.path.glob("pystream/_native/*.so")
        ]
        files += [path.relative_to(self.path) for path in self.path.glob("build/**/*") if path.is_file()]
        files = list(dict.fromkeys(files))
        for file in files:
            (kept / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self.path / file, kept / file)
        try:
            for edit in edits:
                (self.path / edit.file).write_text(edited(self.path / edit.file, edit), encoding="utf-8")
            self.build(edits)
            yield
        finally:
            for file in files:
                shutil.copy2(kept / file, self.path / file)
            shutil.rmtree(kept)

    def stress(self, cast: str, seconds: float, seed: int) -> Iterator[dict[str, object]]:
        """The verdicts of rounds with the library as it now is; the first that has an anomaly is the last."""
        words = f"-m tests.stress --seconds {seconds} --round {ROUND_S} --seed {seed} --cast {cast}"
        stores = self.path.parent / "stores"
        stores.mkdir(exist_ok=True)
        environment = os.environ | {"PYTHONPATH": str(self.path)}
        process = subprocess.Popen(
            [sys.executable, *words.split(), "--json", "--first", "--directory", str(stores)],
            cwd=self.path,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                verdict = json.loads(line)
                if not Path(verdict["library"]).is_relative_to(self.path):
                    raise MutationError(
                        f"{verdict['library']} was tried, not the mutated copy in {self.path}"
                    )
                yield verdict
            if process.wait() not in (0, 1):
                raise MutationError(f"the stress ended with {process.returncode}")
        finally:
            process.terminate()
            process.wait()
            shutil.rmtree(stores)

    def campaign(self, name: str, seconds: float, seed: int) -> Iterator[dict[str, object]]:
        """The same of a test of the campaigns, a round of so many seeds at a time."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            answer = self.command(
                [sys.executable, "-c", CAMPAIGN, name, str(seed), str(min(ROUND_S, left))],
                environment={"PYTHONPATH": os.pathsep.join([str(self.path), str(self.path / "tests")])},
            )
            verdict = json.loads(answer.splitlines()[-1])
            if not Path(verdict["library"]).is_relative_to(self.path):
                raise MutationError(f"{verdict['library']} was tried, not the mutated copy in {self.path}")
            yield verdict
            seed = verdict["seed"] + 1
            if verdict["counts"]:
                break


def edited(path: Path, edit: Edit) -> str:
    """The file's text with the edit in it."""
    text = path.read_text(encoding="utf-8")
    count = text.count(edit.old)
    if count != 1:
        raise MutationError(
            f"{edit.file}: the text to replace stands there {count} times, not once:\n{edit.old}"
        )
    return text.replace(edit.old, edit.new)


class Row(NamedTuple):
    """What became of a mutation."""

    name: str
    found: str
    seconds: float
    seed: int
    mark: str


def try_out(tree: Tree, mutation: Mutation, seconds: float, seed: int) -> Row:
    """Rounds until an anomaly of an expected kind is found, or the time is over."""
    start, other = time.monotonic(), ""
    until = start + seconds
    while time.monotonic() < until:
        left = max(2, until - time.monotonic())
        if mutation.campaign:
            verdicts = tree.campaign(mutation.campaign, left, seed)
        else:
            verdicts = tree.stress(mutation.cast, left, seed)
        for verdict in verdicts:
            counts, at = verdict["counts"], verdict["seed"]
            assert isinstance(counts, dict) and isinstance(at, int)
            found = ", ".join(f"{count} {kind}" for kind, count in counts.items())
            seed = at + 1
            if counts.keys() & (mutation.kinds or {"failure"}):
                return Row(mutation.name, found, time.monotonic() - start, at, CAUGHT)
            other = found or other
    return Row(mutation.name, other or "nothing", time.monotonic() - start, seed - 1, "NOT CAUGHT")


def controls(chosen: Sequence[Mutation]) -> Iterator[Mutation]:
    """No mutation at all, for each of the tests that these need."""
    casts = ",".join(mutation.cast for mutation in chosen if mutation.cast)
    if casts:
        yield Mutation("(none)", "", (), ",".join(dict.fromkeys(casts.split(","))))
    for name in sorted({mutation.campaign for mutation in chosen} - {""}):
        yield Mutation(f"(none), {name}", "", (), campaign=name)


def show(row: Row) -> None:
    print(f"{row.name:<28} {row.mark:<10} {row.seconds:>5.0f} s  seed {row.seed:<7} {row.found}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.stress.mutations", description=__doc__)
    names = [mutation.name for mutation in MUTATIONS]
    parser.add_argument("--only", choices=names, action="append", metavar="NAME", help=", ".join(names))
    parser.add_argument("--seconds", type=float, default=120, help="for each mutation at most (default 120)")
    parser.add_argument("--seed", type=int, default=1, help="of the first round of each (default 1)")
    parser.add_argument(
        "--control", type=float, default=24, help="seconds for the library as it is; 0: not at all"
    )
    options = parser.parse_args()
    chosen = [m for m in MUTATIONS if options.only is None or m.name in options.only]
    missed = 0
    for mutation in chosen:  # one that has no place in the sources any more is not found out after hours
        for edit in mutation.edits:
            edited(ROOT / edit.file, edit)
    with tempfile.TemporaryDirectory(prefix="pystream-mutations-") as directory:
        tree = Tree(Path(directory) / "tree")
        if options.control:
            for sound in controls(chosen):
                row = try_out(tree, sound, options.control, options.seed)
                missed += row.found != "nothing"
                show(row._replace(mark="sound" if row.found == "nothing" else "NOT SOUND"))
        for mutation in chosen:
            with tree.mutated(mutation.edits):
                row = try_out(tree, mutation, options.seconds, options.seed)
            show(row)
            missed += row.mark != CAUGHT
    return 1 if missed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MutationError as error:
        sys.exit(f"mutations: {error}")
