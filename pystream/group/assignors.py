"""Who reads which partition: pure functions from subscriptions and present owners to new owners.

All three are deterministic: whoever computes an assignment from the same state computes the same one,
whatever the order of its mappings.
"""

from bisect import bisect_left
from collections.abc import Collection, Mapping

from pystream.group.sticky import classes, sticky

# By name; the first is the default.
ASSIGNORS = ("sticky", "range", "roundrobin")


def assign(
    name: str,
    members: Mapping[str, Collection[str]],
    partitions: Mapping[str, int],
    owned: Mapping[tuple[str, int], str],
) -> dict[tuple[str, int], str]:
    """Share out the partitions of all topics that somebody subscribes to.

    - ``"sticky"``: as balanced as the subscriptions allow, and of all assignments that are, one that takes
      the fewest partitions from their present owners. Where all subscribe alike, the counts differ by at
      most one.
    - ``"range"``: topic by topic, neighbouring partitions together; the first members take one more where
      it does not come out even. Equal partition numbers of topics of equal size meet in one member, as joins
      need it. As Kafka's RangeAssignor.
    - ``"roundrobin"``: all partitions in order, dealt out in turn. As Kafka's RoundRobinAssignor.

    Args:
        name: One of ``ASSIGNORS``.
        members: Topics that each member subscribes to, by member id; those that do not exist are passed over.
        partitions: Number of partitions of each topic.
        owned: Present owner of each partition. Entries that are out of date (a member or topic that is gone,
            or one no longer subscribed to) do no harm. Only ``"sticky"`` looks at it.

    Returns:
        The owner of every partition of every subscribed topic.

    Raises:
        ValueError: ``name`` is no assignor, or a topic has a negative number of partitions.
    """
    if name not in ASSIGNORS:
        raise ValueError(f"unknown assignor {name!r}: use one of {', '.join(ASSIGNORS)}")
    for topic, count in partitions.items():
        if count < 0:
            raise ValueError(f"topic {topic!r} cannot have {count} partitions")
    if name == "range":
        return _range(members, partitions)
    if name == "roundrobin":
        return _roundrobin(members, partitions)
    return sticky(members, partitions, owned)


def _subscribers(
    members: Mapping[str, Collection[str]], partitions: Mapping[str, int]
) -> tuple[list[str], dict[str, list[int]]]:
    """The members, sorted, and who of them (places, ascending) subscribes to each topic, sorted."""
    ids = sorted(members)
    found = classes([members[member] for member in ids], partitions)
    return ids, dict(sorted((topic, readers) for readers, topics in found for topic in topics))


def _range(
    members: Mapping[str, Collection[str]], partitions: Mapping[str, int]
) -> dict[tuple[str, int], str]:
    ids, topics = _subscribers(members, partitions)
    assigned = {}
    for topic, readers in topics.items():
        each, extra = divmod(partitions[topic], len(readers))
        start = 0
        for rank, reader in enumerate(readers[: partitions[topic]]):
            stop = start + each + (rank < extra)
            assigned.update({(topic, p): ids[reader] for p in range(start, stop)})
            start = stop
    return assigned


def _roundrobin(
    members: Mapping[str, Collection[str]], partitions: Mapping[str, int]
) -> dict[tuple[str, int], str]:
    ids, topics = _subscribers(members, partitions)
    assigned = {}
    turn = 0  # the place whose turn it is: where it does not subscribe, the next one that does
    for topic, readers in topics.items():
        for partition in range(partitions[topic]):
            reader = readers[bisect_left(readers, turn) % len(readers)]
            assigned[topic, partition] = ids[reader]
            turn = (reader + 1) % len(ids)
    return assigned
