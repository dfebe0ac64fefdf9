"""`pystream repair`: mend a store that `verify` has found damaged."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import click

import pystream
from pystream.cli.common import EXIT_DIFFERS, StoreType, TopicType, json_option, quiet_option, show_json
from pystream.cli.verify import bar, show_report
from pystream.repairs import Outcome


@click.command()
@click.argument("store", type=StoreType())
@click.argument("topic", type=TopicType(), required=False)
@click.option("-p", "--partition", type=click.IntRange(min=0), help="Only this partition.")
@click.option("--execute", is_flag=True, help="Do it, rather than say what would be done.")
@json_option
@quiet_option
def repair(
    store: Path, topic: str | None, partition: int | None, execute: bool, as_json: bool, quiet: bool
) -> None:
    """Mend what is damaged in a STORE, or in a TOPIC, and lose nothing that is sound.

    Without --execute, says what would be done. Damaged batches become gaps, which readers pass over; every
    other record keeps its offset. The files as they were are kept beside the new ones, with names that end in
    .damaged, and what was done is written down in STORE/repairs. Nobody may have the store open meanwhile. A
    repair that is interrupted is ended by the next.

    Ends with 0 when there is nothing to do, or all was mended, and 1 when there is something to do, or
    something could not be mended.

    \b
    Examples:
      pystream repair events.ps
      pystream repair events.ps clicks -p 3 --execute
    """
    if partition is not None and topic is None:
        raise click.UsageError("--partition needs a topic: which one?")
    with ExitStack() as stack:
        progress = None if quiet or as_json else bar(stack, "checking")
        outcome = pystream.repair(store, topic, partition, execute=execute, progress=progress)
    if as_json:
        show_json(_document(outcome))
    elif not quiet:
        _show(outcome)
    after = outcome.after if outcome.executed else outcome.before
    assert after is not None
    if (outcome.needed and not outcome.executed) or outcome.refused or not after.sound:
        sys.exit(EXIT_DIFFERS)


def _document(outcome: Outcome) -> dict[str, object]:
    return {
        "store": outcome.path,
        "executed": outcome.executed,
        "actions": [asdict(one) for one in outcome.actions],
        "kept": list(outcome.kept),
        "record": outcome.record,
        "before": outcome.before.to_json(),
        "after": None if outcome.after is None else outcome.after.to_json(),
    }


def _show(outcome: Outcome) -> None:
    for one in outcome.actions:
        place = os.path.relpath(one.path, outcome.path)
        if one.kind == "none":
            click.secho(f"cannot mend {place}: {one.what}", fg="red")
        else:
            click.echo(f"{place}: {one.what}")
    for name in outcome.kept:
        click.echo(f"kept {os.path.relpath(name, outcome.path)}")
    if not outcome.needed:
        click.echo("nothing to mend")
    elif not outcome.executed:
        click.echo("nothing was done: --execute does it")
    if outcome.executed and outcome.needed:
        assert outcome.after is not None
        if outcome.record is not None:
            click.echo(f"written down in {os.path.relpath(outcome.record, outcome.path)}")
        show_report(outcome.after, False)
