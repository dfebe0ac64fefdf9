"""`pystream describe`."""

from pathlib import Path

import click

from pystream.cli import facts
from pystream.cli.common import TopicType, json_option, open_store, store_argument


@click.command()
@store_argument
@click.argument("topic", type=TopicType(), required=False)
@click.argument("partition", type=int, required=False)
@json_option
def describe(store: Path, topic: str | None, partition: int | None, as_json: bool) -> None:
    """Say what is in a store, a topic or a partition.

    Oldest and newest are the timestamps of the first and the last record. Nothing is written: what a crash
    has torn is left out here, and mended by the next program that opens the store to write.

    \b
    Examples:
      pystream describe events.ps
      pystream describe events.ps clicks
      pystream describe events.ps clicks 0 --json
    """
    with open_store(store, read_only=True) as opened:
        if topic is None:
            facts.show_store(opened, as_json=as_json)
        elif partition is None:
            facts.show_topic(facts.read_topic(opened, topic), as_json=as_json)
        else:
            found = facts.read_partition(opened.topic(topic), partition)
            facts.show_partition(topic, found, as_json=as_json)
