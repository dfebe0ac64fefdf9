"""Runs the code blocks of a page of the documentation, in order, as a reader would who typed them.

The rules, which the pages keep and test_docs.py checks:

    ```python                       run in the page's own Python process; names last from block to block
    ```python title="NAME.py"       written to that file, which a later block runs
    ```sh                           run by bash, in the same directory; a failing command fails the page
    ```sh title="Set-up"            not run; holds nothing but commands that install or build
    ```sh title="Exit code N"       run, and must end with N
    ```text title="Output"          what the block before it prints to standard output (or to standard error,
                                    or to both); `...` stands for any text, and what no two runs have in
                                    common (see CHANGING) may differ
    ```text, ```toml                 a drawing or a file: no code

As a program, `pages.py BLOCKS.json` runs the blocks in the current directory.
"""

from __future__ import annotations

import json
import linecache
import os
import re
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import NamedTuple

FENCE = re.compile(r"^(?P<indent> *)(?P<marks>`{3,}|~{3,}) *(?P<info>[^\n]*)$")
TITLE = re.compile(r'title="([^"]*)"')
SECONDS_MAX = 240
# What changes from run to run: the present time, uuids, sizes of files, durations, the width of a column.
CHANGING = [
    (re.compile(r"20(?:2[6-9]|[3-9]\d)-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?"), "NOW"),
    (re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "UUID"),
    (re.compile(r"\d[\d,.]* (?:B|[KMGT]iB)\b"), "SIZE"),
    (re.compile(r"\d[\d,.]* (s|rows/s|records/s)\b"), r"N \1"),
    (re.compile(r"(?<=\S) +"), " "),
]


class Block(NamedTuple):
    """A fenced block: where it is, what it says it is, and its text."""

    page: str
    line: int
    language: str
    title: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(path: Path, name: str) -> list[Block]:
    """The fenced blocks of a Markdown file, in order.

    Raises:
        ValueError: a fence is never closed.
    """
    found: list[Block] = []
    lines = path.read_text(encoding="utf-8").splitlines()
    at = 0
    while at < len(lines):
        fence = FENCE.match(lines[at])
        at += 1
        if fence is None:
            continue
        first, indent, marks = at, len(fence["indent"]), fence["marks"]
        while at < len(lines) and lines[at].strip() != marks:
            at += 1
        if at == len(lines):
            raise ValueError(f"{name}:{first}: this fence is never closed")
        title = TITLE.search(fence["info"])
        language = fence["info"].split(" ")[0]
        text = "\n".join(line[indent:] for line in lines[first:at]) + "\n"
        found.append(Block(name, first, language, title[1] if title else "", text))
        at += 1
    return found


def matches(expected: str, printed: str) -> bool:
    """Whether what was printed is what a page shows, where `...` stands for any text."""
    parts = [re.escape(part) for part in tidy(expected).split("...")]
    return re.fullmatch(".*?".join(parts), tidy(printed), re.DOTALL) is not None


def tidy(text: str) -> str:
    """A text without what changes from run to run."""
    text = "\n".join(line.rstrip() for line in text.strip("\n").splitlines())
    for pattern, name in CHANGING:
        text = pattern.sub(name, text)
    return text


def run_page(blocks: list[Block], directory: Path, home: Path) -> None:
    """Run the blocks of one page in `directory`, in a process of their own.

    Args:
        home: a directory outside, for the commands `pystream` and `python` of this interpreter.

    Raises:
        AssertionError: a block failed, or printed something else than the page shows.
    """
    commands = home / "bin"
    commands.mkdir(parents=True)
    for name, arguments in (("pystream", "-m pystream"), ("python", "")):
        program = commands / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n', encoding="utf-8")
        program.chmod(0o755)
    plan = home / "blocks.json"
    plan.write_text(json.dumps(blocks), encoding="utf-8")
    environment = os.environ | {
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "COLUMNS": "100",
        "PYTHONWARNINGS": "error",
    }
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM", "PYTHONPATH"):
        environment.pop(name, None)
    if extra := os.environ.get("PYTHONPATH"):
        environment["PYTHONPATH"] = extra
    result = subprocess.run(
        [sys.executable, __file__, plan],
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
    )
    assert result.returncode == 0, f"\n{result.stdout}{result.stderr}"


# ---- in the process of its own --------------------------------------------------------------------------


class Printed(NamedTuple):
    """What a block printed."""

    output: str = ""
    errors: str = ""

    @property
    def either(self) -> tuple[str, ...]:
        """What a page may show of it."""
        return self.output, self.errors, self.errors + self.output


def run_python(block: Block, names: dict[str, object]) -> Printed:
    """Run a block in the page's namespace. Returns what it printed; raises what it raised."""
    source = "\n" * block.line + block.text  # lines are numbered as in the page
    linecache.cache[block.page] = (len(source), None, source.splitlines(keepends=True), block.page)
    code = compile(source, block.page, "exec")
    sys.stdout.flush()
    kept = os.dup(1)
    with tempfile.TemporaryFile() as printed:
        os.dup2(printed.fileno(), 1)
        try:
            exec(code, names)
        finally:
            sys.stdout.flush()
            os.dup2(kept, 1)
            os.close(kept)
        printed.seek(0)
        return Printed(printed.read().decode())


def run_shell(block: Block) -> Printed:
    """Run a block by bash. Returns what it printed."""
    wanted = int(block.title.removeprefix("Exit code ")) if block.title else 0
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    printed = Printed(result.stdout, result.stderr)
    assert result.returncode == wanted, f"ended with {result.returncode}, not {wanted}:\n{printed}"
    return printed


def run_block(block: Block, names: dict[str, object]) -> Printed:
    """Do what a block asks for. Returns what it printed."""
    if block.language == "sh" and block.title != "Set-up":
        return run_shell(block)
    if block.language == "python" and not block.title:
        return run_python(block, names)
    if block.language == "python":
        Path(block.title).write_text(block.text, encoding="utf-8")
    return Printed()


def main(plan: str) -> int:
    """Run the blocks listed in the file `plan`; 1 when one fails."""
    blocks = [Block(*fields) for fields in json.loads(Path(plan).read_text(encoding="utf-8"))]
    names: dict[str, object] = {"__name__": "__main__"}
    printed = Printed()
    for block in blocks:
        if block.title == "Output":
            if not any(matches(block.text, text) for text in printed.either):
                print(
                    f"{block.where}: the page shows\n{block.text}\nbut this was printed\n{printed.either[2]}"
                )
                return 1
            continue
        try:
            printed = run_block(block, names)
        except BaseException:
            print(f"{block.where}: this block failed")
            traceback.print_exc()
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
