"""How a consumer takes part in its group: what is typed, checked."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from pystream import options as opt
from pystream.errors import OptionError
from pystream.group.assignors import ASSIGNORS

if TYPE_CHECKING:
    from pystream.consumer import Consumer
    from pystream.places import TopicPartition

Callback: TypeAlias = "Callable[[Consumer, list[TopicPartition]], object]"
"""What is called when partitions come or go: with the consumer, and the partitions."""

SESSION_TIMEOUT_DEFAULT_S: Final = 45.0
SESSION_TIMEOUT_NS_MIN: Final = 10**8
SESSION_TIMEOUT_NS_MAX: Final = 86400 * 10**9


class GroupOptions(NamedTuple):
    """How a consumer takes part in its group."""

    name: str
    assignor: str
    session_timeout_ns: int
    auto_commit: bool
    truncated: str
    client: str
    on_assigned: Callback | None
    on_revoked: Callback | None
    on_lost: Callback | None


def parse_options(
    name: str | None,
    *,
    assignor: str | None,
    session_timeout: opt.Duration | None,
    auto_commit: bool | None,
    truncated: str | None,
    client: str | None,
    on_assigned: Callback | None,
    on_revoked: Callback | None,
    on_lost: Callback | None,
) -> GroupOptions:
    """The options of `Store.consumer`, checked; None: left out.

    Raises:
        OptionError, TypeError: what is wrong with which.
    """
    given = {word: value for word, value in locals().items() if word != "name" and value is not None}
    if name is None:
        raise OptionError(f"{next(iter(given))}= is for consumers in a group; give group=NAME, too")
    for word, callback in (("on_assigned", on_assigned), ("on_revoked", on_revoked), ("on_lost", on_lost)):
        opt.check_callable(word, callback)
    opt.check_text("client", client)
    return GroupOptions(
        opt.check_name("group", name),
        opt.parse_choice("assignor", given.get("assignor", ASSIGNORS[0]), ASSIGNORS),
        opt.parse_duration(
            "session_timeout",
            given.get("session_timeout", SESSION_TIMEOUT_DEFAULT_S),
            minimum=SESSION_TIMEOUT_NS_MIN,
            maximum=SESSION_TIMEOUT_NS_MAX,
        ),
        opt.parse_flag("auto_commit", given.get("auto_commit", True)),
        opt.parse_choice("truncated", given.get("truncated", "raise"), ("raise", "resume")),
        os.path.basename(sys.argv[0]) or "python" if client is None else client,
        on_assigned,
        on_revoked,
        on_lost,
    )
