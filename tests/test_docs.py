"""The documentation: every code block runs, every public name and every command appears, the site builds."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

import pages
import pystream
from pystream.cli import cli

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
LANGUAGES = {"python", "sh", "text", "toml"}
SET_UP = re.compile(
    r"(python3? -m )?pip install |python3? -m venv |\. \.venv/bin/activate|make [a-z-]+|git clone |cd [\w-]+$"
    r"|apt-get install "
)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path) -> list[pages.Block]:
    return pages.blocks_of(path, name_of(path))


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_each_block_says_what_it_is(path):
    before = None
    for block in blocks(path):
        assert block.language in LANGUAGES, f"{block.where}: {block.language!r}"
        if block.language == "python" and block.title:
            assert re.fullmatch(r"\w+\.py", block.title), block.where
            later = [other.text for other in blocks(path) if other.line > block.line]
            assert any(block.title in text for text in later), f"{block.where}: nothing runs {block.title}"
        elif block.language == "sh":
            assert re.fullmatch(r"|Set-up|Exit code [1-9]\d*", block.title), block.where
        elif block.language == "text" and block.title:
            assert block.title == "Output", block.where
            assert before is not None and before.language in ("python", "sh"), block.where
            assert before.title != "Set-up", f"{block.where}: nobody compares this"
        before = block


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_what_is_not_run_only_installs_or_builds(path):
    for block in blocks(path):
        if block.title == "Set-up":
            for line in block.text.splitlines():
                command = line.partition(" #")[0].strip()
                assert not command or command.startswith("#") or SET_UP.match(command), (
                    f"{block.where}: {line}"
                )


@pytest.mark.parametrize("path", [path for path in PAGES if blocks(path)], ids=name_of)
def test_every_block_runs(path, tmp_path):
    place = tmp_path / "here"
    place.mkdir()
    pages.run_page(blocks(path), place, tmp_path / "home")


def test_a_block_that_fails_or_prints_something_else_is_noticed(tmp_path):
    def page(text):
        path = tmp_path / "page.md"
        path.write_text(text, encoding="utf-8")
        place = tmp_path / f"here{len(list(tmp_path.iterdir()))}"
        place.mkdir()
        pages.run_page(pages.blocks_of(path, "page.md"), place, place / "home")

    page('```python\nprint("seven or 7")\n```\n\n```text title="Output"\nseven...7\n```\n')
    for wrong, word in {
        "```python\nassert 1 + 1 == 3\n```\n": "page.md:1: this block failed",
        "```sh\ntrue\nfalse | true\n```\n": "ended with 1, not 0",
        '```sh title="Exit code 2"\nexit 3\n```\n': "ended with 3, not 2",
        '```sh\necho 7\n```\n```text title="Output"\n8\n```\n': "page.md:4: the page shows",
    }.items():
        with pytest.raises(AssertionError, match=re.escape(word)):
            page(wrong)
    with pytest.raises(AssertionError, match=r"page\.md:4: the page shows"):
        page('```sh\necho 12 KiB of 3 records\n```\n```text title="Output"\n99 MiB of 4 records\n```\n')
    page('```sh\necho 12 KiB of 3 records >&2\n```\n```text title="Output"\n99 MiB of 3 records\n```\n')
    with pytest.raises(ValueError, match=r"page\.md:1: this fence is never closed"):
        page("```sh\necho\n")


def test_every_public_name_has_its_place_in_the_reference():
    shown = set()
    for path in (DOCS / "reference").glob("*.md"):
        shown |= set(re.findall(r"^::: pystream\.(\w+)$", path.read_text(encoding="utf-8"), re.MULTILINE))
    assert shown == set(pystream.__all__) - {"__version__"}


def test_every_public_name_is_documented():
    for name in set(pystream.__all__) - {"__version__"}:
        assert getattr(pystream, name).__doc__, name


@pytest.fixture
def hooks(monkeypatch):
    monkeypatch.syspath_prepend(DOCS / "hooks")
    return importlib.import_module("command_pages"), importlib.import_module("site_pages")


def test_every_command_and_option_is_in_the_reference(hooks):
    commands, site = hooks
    page = site.expand((DOCS / "reference/cli.md").read_text(encoding="utf-8"))
    context = click.Context(cli, info_name="pystream")
    seen = []
    for command, inner in commands.walk(cli, context):
        seen.append(inner.command_path)
        heading = re.search(rf"^#+ `{re.escape(inner.command_path)}`$", page, re.MULTILINE)
        assert heading, inner.command_path
        section = re.split(r"^#+ `", page[heading.end() :], maxsplit=1, flags=re.MULTILINE)[0]
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                for flag in [*parameter.opts, *parameter.secondary_opts]:
                    assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", section), (
                        inner.command_path,
                        flag,
                    )
    assert "pystream version" in seen and "pystream topics create" in seen


def test_pages_include_only_what_is_there(hooks):
    _, site = hooks
    found = []
    for path in DOCS.rglob("*.md"):
        text = path.read_text(encoding="utf-8")
        found += site.INCLUDE.findall(text)
        assert "<!-- include" not in site.expand(text), name_of(path)
    assert set(found) == {"csrc/FORMAT.md", "CHANGELOG.md", "commands", "exit-codes", "results"}
    shown = site.include("results")
    for path in (ROOT / "bench/results").glob("*.md"):
        if path.stem != "last":
            assert path.read_text(encoding="utf-8").splitlines()[-1] in shown, name_of(path)


def test_the_site_has_every_page_and_builds_without_a_warning(tmp_path):
    listed = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert listed == {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr
    api = (tmp_path / "site/reference/reading/index.html").read_text(encoding="utf-8")
    for documented in (pystream.Consumer, pystream.Batch):  # of the Python and of the compiled layer
        assert documented.__doc__.splitlines()[0].split(".")[0] in api, documented
    # Nothing is fetched from another site.
    for page in (tmp_path / "site").rglob("*.html"):
        for source in re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)"', page.read_text()):
            raise AssertionError(f"{page}: {source}")
