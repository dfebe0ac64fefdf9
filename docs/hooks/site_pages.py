"""What the pages take from elsewhere, so that it is written once.

A line `<!-- include NAME -->` in a page is replaced: by a file of the repository (the format's specification,
the changelog), by the results of all benchmarks, or by the reference of the command line and its exit codes,
made from the commands themselves.
"""

import re
import sys
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parent))

from command_pages import exit_codes, reference

ROOT = Path(__file__).parent.parent.parent
RESULTS = {
    "compare": "Beside rivals, setting by setting",
    "library": "The library",
    "growth": "As it grows",
    "busy": "Beside a busy thread",
    "groups": "Consumer groups",
    "pipes": "Lines through pipes",
    "transfer": "Files in and out",
}
"""What the files in bench/results/ are about, in the order of the page. Others come after, by name."""
UNKEPT = {"last"}
INCLUDE = re.compile(r"^<!-- include (\S+) -->$", re.MULTILINE)


def include(name: str) -> str:
    """The Markdown that stands for `name`; headings begin at the second level.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if name in ("commands", "exit-codes"):
        from pystream.cli import EXIT_CODES, cli

        assert isinstance(cli, click.Group)
        return reference(cli) if name == "commands" else exit_codes(EXIT_CODES)
    if name == "results":
        stems = {path.stem for path in (ROOT / "bench/results").glob("*.md")} - UNKEPT
        order = [stem for stem in RESULTS if stem in stems] + sorted(stems - RESULTS.keys())
        return "\n\n".join(
            f"## {RESULTS.get(stem, stem)}\n\n{picture(stem)}{body(f'bench/results/{stem}.md')}"
            for stem in order
        )
    return body(name)


def picture(stem: str) -> str:
    """The plot beside the results of that name, if there is one; on_files() has it among the pages' files."""
    there = (ROOT / f"bench/results/{stem}.png").exists()
    return f"![{RESULTS.get(stem, stem)}](images/{stem}.png)\n\n" if there else ""


def on_files(files: Any, config: Any) -> Any:
    """Called by MkDocs when it has found the files of the site."""
    from mkdocs.structure.files import File

    for path in sorted((ROOT / "bench/results").glob("*.png")):
        files.append(File.generated(config, f"images/{path.name}", abs_src_path=str(path)))
    return files


def body(name: str) -> str:
    """A file without its title, since the page has its own."""
    return re.sub(r"\A# .*\n", "", (ROOT / name).read_text(encoding="utf-8"))


def expand(markdown: str) -> str:
    """A page with everything it includes."""
    return INCLUDE.sub(lambda found: include(found[1]), markdown)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs for each page."""
    return expand(markdown)
