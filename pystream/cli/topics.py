"""`pystream topics`."""

import sys
from pathlib import Path
from typing import Any

import click

import pystream
from pystream import metadata
from pystream import options as opt
from pystream.cli import facts
from pystream.cli.changes import add_partitions, alter, copy, delete_records, rename, truncate_before
from pystream.cli.common import (
    EXIT_DIFFERS,
    EXIT_FAILED,
    EXIT_USAGE,
    SuggestingGroup,
    TopicType,
    bytes_text,
    error_text,
    fail,
    json_option,
    open_store,
    quiet_option,
    say,
    show_json,
    store_argument,
    topic_argument,
)
from pystream.cli.topicoptions import topic_options
from pystream.topicoptions import OPTIONS


@click.group(cls=SuggestingGroup)
def topics() -> None:
    """Create, list, describe, change, copy and delete topics."""


for command in (alter, rename, copy, add_partitions, delete_records, truncate_before):
    topics.add_command(command)


@topics.command()
@store_argument
@click.argument("topic")
@topic_options(OPTIONS)
@click.option("--if-not-exists", is_flag=True, help="No error when the topic exists with these options.")
@quiet_option
def create(store: Path, topic: str, if_not_exists: bool, quiet: bool, **options: Any) -> None:
    """Create a topic, and its store when it is not there.

    Options can be changed later by `pystream topics alter`, but for those that say what a value or key is.
    The store's parent directory must exist.

    \b
    Examples:
      pystream topics create events.ps clicks --partitions 4 --compression lz4
      pystream topics create events.ps ticks --dtype ts:i8,px:f8,qty:i4
      pystream topics create events.ps logs --retention 7d --retention-bytes 10GiB
      pystream topics create events.ps users --cleanup compact
    """
    # Everything that can be refused is, before a store is made for it.
    if options["dtype"] is not None and options["value_bytes"] is not None:
        raise click.UsageError("--dtype and --value-bytes both say how wide a value is: give one of them")
    opt.check_topic_name(topic)
    metadata.TopicOptions(**metadata.TopicOptions.parse(options))
    new_store = not (store / metadata.STORE_FILE).exists()
    with open_store(store, create=True) as opened:
        exists = topic in opened
        if exists and not if_not_exists:
            raise pystream.TopicExistsError(
                f"topic {topic!r} already exists in {opened.path}; with --if-not-exists that is no error",
                topic=topic,
            )
        made = opened.topic(topic, create=True, **options)
    if quiet:
        return
    if new_store:
        say(f"created store {store}")
    if exists:
        say(f"topic {topic!r} is there already")
    else:
        count = f"{made.partitions:,} partition{'s' * (made.partitions > 1)}"
        say(f"created topic {topic!r} with {count}")


@topics.command("list")
@store_argument
@click.option("-l", "--long", is_flag=True, help="A table: partitions, codec, records, bytes, times.")
@json_option
def list_(store: Path, long: bool, as_json: bool) -> None:
    """List the topics of a store, by name.

    Oldest and newest are the timestamps of the first and the last record.

    \b
    Examples:
      pystream topics list events.ps
      pystream topics list events.ps --long --json
    """
    if not long and not as_json:
        metadata.read_store(_existing(store))
        for name in metadata.list_topics(str(store)):
            click.echo(name)
        return
    with open_store(store, read_only=True) as opened:
        found = facts.read_topics(opened, partitions=long)
    if as_json:
        show_json([topic.as_dict(totals=long, partitions=False) for topic in found])
    else:
        facts.show_topics_table(found)
    facts.end_with_errors(found)


@topics.command()
@store_argument
@topic_argument
@json_option
def describe(store: Path, topic: str, as_json: bool) -> None:
    """Say what a topic's options are and what is in it.

    Oldest and newest are the timestamps of the first and the last record. Nothing is written.

    \b
    Example:
      pystream topics describe events.ps clicks
    """
    with open_store(store, read_only=True) as opened:
        facts.show_topic(facts.read_topic(opened, topic), as_json=as_json)


@topics.command()
@store_argument
@click.argument("topic", type=TopicType(), nargs=-1, required=True)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--if-exists", is_flag=True, help="No error when a topic is not there.")
@quiet_option
def delete(store: Path, topic: tuple[str, ...], yes: bool, if_exists: bool, quiet: bool) -> None:
    """Delete topics with all their records, for good.

    Asks first, once for each; where nobody can be asked, it takes --yes. Programs that have the topic open
    are told by an error the next time they use it.

    \b
    Examples:
      pystream topics delete events.ps clicks
      pystream topics delete events.ps clicks ticks --yes
    """
    if not yes and not sys.stdin.isatty():
        fail(EXIT_USAGE, "nobody can be asked, for standard input is no terminal: give --yes to delete")
    declined = False
    with open_store(store) as opened:
        names = list(dict.fromkeys(topic))
        missing = [name for name in names if name not in opened]
        if missing and not if_exists:
            opened.topic(missing[0])  # says that there is none, and what was perhaps meant
            fail(EXIT_FAILED, f"no topic {missing[0]!r} in {opened.path}")
        for name in names:
            if name in missing:
                continue
            size = facts.disk_bytes(metadata.topic_directory(opened.path, name))
            question = f"Delete topic {name!r} and all its records ({bytes_text(size)} on disk)?"
            if not yes and not click.confirm(question, err=True):
                declined = True
                continue
            try:
                opened.delete_topic(name)
            except pystream.TopicNotFoundError as error:  # somebody else was quicker
                if not if_exists:
                    fail(EXIT_FAILED, error_text(error))
            else:
                if not quiet:
                    say(f"deleted topic {name!r}")
    if declined:
        fail(EXIT_DIFFERS, "nothing was deleted" if len(names) == 1 else "not all were deleted")


def _existing(store: Path) -> str:
    """The path of a store, once it is sure that there is one; by the same words as opening it has."""
    if not (store / metadata.STORE_FILE).is_file():
        open_store(store, read_only=True).close()
    return str(store)
