"""`pystream backup`: a consistent copy of a store that others go on writing to."""

from __future__ import annotations

import os
import shlex
from contextlib import ExitStack
from pathlib import Path

import click

from pystream.backups import Backup
from pystream.cli.common import (
    DirectoryType,
    StoreType,
    bytes_text,
    json_option,
    open_store,
    quiet_option,
    show_json,
)
from pystream.cli.verify import bar


@click.command()
@click.argument("store", type=StoreType())
@click.argument("dest", type=DirectoryType())
@json_option
@quiet_option
def backup(store: Path, dest: Path, as_json: bool, quiet: bool) -> None:
    """Copy a STORE to the directory DEST, while others go on writing to it.

    Everything that was acknowledged before is in the copy: each partition up to some batch, each batch
    checked, committed offsets and ingest jobs no further than the records. Nothing is locked, and nothing is
    written to the STORE.

    DEST is new, or empty, or an older backup of the same store. That is replaced in one step, when the new
    one is whole and on the disk; what it has already is linked and not copied. Whatever fails or is killed
    before leaves it as it was.

    To restore, open DEST, or better a copy of it (cp -r): a backup that was written to is a store of its own,
    and is not replaced any more.

    \b
    Examples:
      pystream backup events.ps /mnt/disk/events.backup
      cp -r /mnt/disk/events.backup events.ps
    """
    with ExitStack() as stack:
        opened = stack.enter_context(open_store(store, read_only=True))
        progress = None if quiet or as_json else bar(stack, "copying")
        made = opened.backup(dest, progress=progress)
    if as_json:
        show_json(made.to_json())
    elif not quiet:
        _show(made, dest)


def _show(made: Backup, dest: Path) -> None:
    partitions = f"{made.partitions:,} partition{'s' * (made.partitions != 1)}"
    topics = f"{made.topics:,} topic{'s' * (made.topics != 1)}"
    click.echo(f"{made.records:,} record{'s' * (made.records != 1)} in {partitions} of {topics}")
    linked = f", {bytes_text(made.bytes_linked)} linked from the last backup" if made.incremental else ""
    click.echo(f"{bytes_text(made.bytes_copied)} copied{linked}, {made.seconds:,.1f} s")
    for name in made.left_out:
        click.echo(f"left out: topic {name!r}, which was deleted meanwhile")
    # cp -r of a link would make another link, to what is to stay a backup.
    there = os.fspath(dest) if not dest.is_symlink() else made.path
    dashes = "-- " if there.startswith("-") else ""
    click.echo(f"to restore, open a copy of it: cp -r {dashes}{shlex.quote(there)} NEW-STORE")
