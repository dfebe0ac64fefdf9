"""The command line, on Click and Rich (the extra [cli]).

Exit codes: 0 done; 1 what was asked was checked and is not so; 2 wrong usage, or something that is
needed is not installed; 3 the store or the system failed; 70 a fault of pystream itself; 130 interrupted.
A reader that goes away (`| head`) ends a command quietly with 0.
"""

import errno
import fcntl
import io
import os
import sys
from contextlib import suppress
from importlib import import_module
from typing import Any, ClassVar, Final

import click
from click.shell_completion import CompletionItem, shell_complete

import pystream
from pystream.cli.common import (
    EXIT_DIFFERS,
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_FAULT,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    SuggestingGroup,
    error_text,
    say,
    warn,
)

PROGRAM: Final = "pystream"
COMPLETE_VARIABLE: Final = "_PYSTREAM_COMPLETE"
"""The environment variable by which a shell asks for completions; part of the scripts already installed."""

# Each command's module is imported when it is asked for: `pystream topics list` need not wait for what
# `pystream ingest` stands on. The help of each is given here too, for the list of commands.
COMMANDS: Final = {
    "backup": ("pystream.cli.backup:backup", "Copy a store that others go on writing to."),
    "bench": ("pystream.cli.bench:bench", "Measure pystream on this machine and this disk."),
    "completion": ("pystream.cli.completion:completion", "Print the script that makes a shell complete."),
    "consume": ("pystream.cli.consume:consume", "Print the records of a topic."),
    "demo": ("pystream.cli.demo:demo", "Take a year of flights through a log and account for each."),
    "describe": ("pystream.cli.describe:describe", "Say what is in a store, a topic or a partition."),
    "dump": ("pystream.cli.dump:dump", "Walk the frames of a partition's files, damaged ones too."),
    "export": ("pystream.cli.export:export", "Write records to Parquet, CSV, JSON lines or Arrow files."),
    "groups": ("pystream.cli.groups:groups", "List, describe, reset and delete consumer groups."),
    "ingest": ("pystream.cli.ingest:ingest", "Read CSV, JSON lines, Parquet or Arrow files into a topic."),
    "maintain": ("pystream.cli.maintain:maintain", "Let go of what is expired, and compact, now."),
    "metrics": ("pystream.cli.metrics:metrics", "Print a store's numbers for Prometheus, or serve them."),
    "produce": ("pystream.cli.produce:produce", "Append lines of a file or of standard input."),
    "repair": ("pystream.cli.repair:repair", "Mend what verify has found damaged; a dry run first."),
    "top": ("pystream.cli.top:top", "Watch rates, lag and disk, live."),
    "topics": ("pystream.cli.topics:topics", "Create, list, describe, change, copy and delete topics."),
    "verify": ("pystream.cli.verify:verify", "Check every file of a store, a topic or a partition."),
    "version": ("pystream.cli.version:version", "Print the versions of pystream and what it stands on."),
}

EXIT_CODES: Final = (
    (EXIT_DONE, "Done; also when the reader of the output goes away, as head does."),
    (EXIT_DIFFERS, "What was asked was checked and is not so, or was declined."),
    (EXIT_USAGE, "Wrong usage, or something that is needed is not installed."),
    (EXIT_FAILED, "The store or the system failed."),
    (EXIT_FAULT, "A fault of pystream itself, shown with a traceback."),
    (EXIT_INTERRUPTED, "Interrupted."),
)


TOPIC_COMMANDS: Final = (
    "add-partitions",
    "alter",
    "copy",
    "create",
    "delete",
    "delete-records",
    "list",
    "rename",
    "truncate-before",
)
"""Words that are commands of `topics`, and of no other group."""


class Commands(SuggestingGroup):
    """The group of all commands, which are imported by name."""

    elsewhere: ClassVar = {name: f"topics {name}" for name in TOPIC_COMMANDS} | {"reset": "groups reset"}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command = getattr(import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in sorted(COMMANDS.items())])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), text) for code, text in EXIT_CODES])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        # Click would import every command to learn its help.
        names = [
            CompletionItem(name, help=text)
            for name, (_, text) in sorted(COMMANDS.items())
            if name.startswith(incomplete)
        ]
        return names + click.Command.shell_complete(self, ctx, incomplete)


def _show_version(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(f"{PROGRAM}, version {pystream.__version__}")
        ctx.exit()


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """An embedded, crash-safe, append-only log: topics and partitions without a broker.

    \b
    A store is a directory. Commands take it first, then the topic:
      pystream topics create events.ps clicks --partitions 4
      tail -f access.log | pystream produce events.ps clicks
      pystream consume events.ps clicks --from 15m --follow
    """


def run() -> None:
    """The entry point: `cli`, with failures of the store and of the system turned into exit codes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be text, nor terminals UTF-8
    try:
        code = _run()
    except SystemExit as wanted:
        code = wanted.code
    sys.exit(_flush_output(code))


def _run() -> Any:
    """Run the command. The exit code, when it is known here."""
    try:
        if instruction := os.environ.get(COMPLETE_VARIABLE):
            return shell_complete(cli, {}, PROGRAM, COMPLETE_VARIABLE, instruction)
        # Not cli.main(), which ends with 1 when the reader goes away.
        with cli.make_context(PROGRAM, sys.argv[1:]) as context:
            cli.invoke(context)
        return EXIT_DONE
    except click.exceptions.Exit as wanted:
        return wanted.exit_code
    except click.ClickException as error:
        with suppress(OSError):
            error.show()
        return EXIT_USAGE
    except (click.Abort, KeyboardInterrupt):
        if sys.stderr.isatty():
            say("")  # closes the line in which the terminal shows ^C
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return EXIT_DONE
    except (pystream.OptionError, pystream.UnsupportedError) as error:
        warn(error_text(error))
        return EXIT_USAGE
    except OSError as error:
        of_output = error.errno if _is_of_output(error) else None
        warn(error_text(error) if of_output is None else f"standard output: {os.strerror(of_output)}")
        return EXIT_FAILED
    except pystream.PystreamError as error:
        warn(error_text(error))
        return EXIT_FAILED
    except Exception:
        import traceback

        with suppress(OSError):
            traceback.print_exc()
        warn("this is a fault of pystream; please report it with the lines above and `pystream version`")
        return EXIT_FAULT


def _is_of_output(error: OSError) -> bool:
    """True when an error that names no file can only have come from writing standard output."""
    if isinstance(error, pystream.PystreamError) or error.filename is not None:
        return False
    if error.errno == errno.EBADF:  # closed by the caller; see pystream.__main__
        return fcntl.fcntl(1, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _flush_output(code: Any) -> Any:
    """Hand out what is still in standard output's buffer; the exit code after that."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        pass
    except OSError as error:
        if not code:
            warn(f"standard output: {error.strerror}")
            code = EXIT_FAILED
    else:
        return code
    # What Python would flush at exit has nowhere to go either.
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return code
