"""The reference of the command line as Markdown, made from the Click commands."""

import re
from collections.abc import Iterable, Iterator
from html import escape
from textwrap import dedent

import click


def walk(command: click.Command, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """A command and, in order of their names, those below it."""
    yield command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                yield from walk(child, click.Context(child, info_name=name, parent=context))


def reference(cli: click.Group) -> str:
    """Every command: usage, what it does, its options."""
    context = click.Context(cli, info_name="pystream", max_content_width=100, terminal_width=100)
    return "\n\n".join(section(command, inner) for command, inner in walk(cli, context))


def section(command: click.Command, context: click.Context) -> str:
    """One command."""
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    depth = context.command_path.count(" ")
    parts = [f"{'##' + '#' * max(depth - 1, 0)} `{context.command_path}`", f"```text\n{usage}\n```"]
    parts += prose(command.help or "")
    parts += options(command, context)
    if isinstance(command, click.Group):
        parts.append("| command | what it does |\n|---|---|\n" + "\n".join(children(command, context)))
    parts += prose(command.epilog or "")
    return "\n\n".join(parts)


def children(group: click.Group, context: click.Context) -> Iterator[str]:
    """Rows of the table of a group's commands."""
    for command, inner in walk(group, context):
        if inner.parent is context:
            path = inner.command_path
            yield f"| [`{path}`](#{path.replace(' ', '-')}) | {cell(command.get_short_help_str(200))} |"


def prose(text: str) -> list[str]:
    """Paragraphs of a help text; those that Click must not wrap become blocks."""
    found = []
    for paragraph in re.split(r"\n\s*\n", re.sub(r"\f.*", "", text, flags=re.DOTALL).strip()):
        lines = paragraph.splitlines()
        if lines and lines[0].strip() == "\b":
            if lines[1].endswith(":"):
                found.append(lines.pop(1).strip())
            found.append("```text\n" + dedent("\n".join(lines[1:])) + "\n```")
        elif lines:
            found.append(" ".join(line.strip() for line in lines).replace("<", "&lt;"))
    return found


def options(command: click.Command, context: click.Context) -> list[str]:
    """The table of a command's options, without --help."""
    rows = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None or not isinstance(parameter, click.Option) or "--help" in parameter.opts:
            continue
        rows.append(f"| {' <br> '.join(code(part) for part in names(record[0]))} | {cell(record[1])} |")
    return ["| option | meaning |\n|---|---|\n" + "\n".join(rows)] if rows else []


def names(declaration: str) -> list[str]:
    """The ways to write an option: short ones and long ones."""
    return [part.strip() for part in re.split(r"\s*/\s*(?=-)", declaration)]


def code(text: str) -> str:
    """In a cell of a table, where neither backticks nor backslashes hide a bar."""
    return f"<code>{escape(text).replace('|', '&#124;')}</code>"


def cell(text: str) -> str:
    """Words in a cell of a table."""
    return escape(text, quote=False).replace("|", "&#124;").replace("\n", " ")


def exit_codes(codes: Iterable[tuple[int, str]]) -> str:
    """The table of exit codes."""
    return "| exit code | means |\n|---:|---|\n" + "\n".join(
        f"| {code} | {cell(text)} |" for code, text in codes
    )
