"""`pystream version`."""

import click

from pystream import versions
from pystream.cli.common import json_option, show_json


@click.command()
@json_option
def version(as_json: bool) -> None:
    """Print the versions of pystream and what it stands on, and the platform.

    The file system named is that of the current directory. Put all of it into a report of a fault.

    \b
    Example:
      pystream version --json
    """
    facts = versions.collect()
    if as_json:
        show_json(facts)
    else:
        click.echo(versions.as_text(facts))
