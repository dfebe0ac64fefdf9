"""The sticky assignor: the best balance that the subscriptions allow, then the fewest moves.

Partitions that the same members may read are alike but for their owners, so that what is to be decided
is a matrix: how many partitions of each such class go to each member. It is found in two steps.

1. The balance. Loads are best when nothing can be moved, along any chain of members, from one with n
   partitions to one with n - 2 or fewer. The members fall into parts then, the same in every best
   assignment: each part keeps a fixed set of classes to itself and has loads of n and n + 1 only. Shifting
   all that can be shifted from above a threshold to below it splits the members into those that stay at or
   above it and those that stay at or below; the halves are split again, until each is level.
2. The owners. Within a part it is a transport problem: give all, to each member n or n + 1, and keep as
   much as possible. "Everybody keeps everything" costs nothing, so it is the start, and what is too much or
   missing then goes along cheapest paths, which keeps each state on the way the cheapest of its kind.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt

from pystream.group.transport import Transport

Matrix = npt.NDArray[np.int64]
Partition = tuple[str, int]


def sticky(
    members: Mapping[str, Collection[str]],
    partitions: Mapping[str, int],
    owned: Mapping[Partition, str],
) -> dict[Partition, str]:
    """Share out all partitions that somebody subscribes to; see ``assignors.assign``."""
    ids = sorted(members)
    found = classes([members[member] for member in ids], partitions)
    if not found:
        return {}
    readers = [able for able, _ in found]
    contents = [[(topic, p) for topic in topics for p in range(partitions[topic])] for _, topics in found]
    place = {member: number for number, member in enumerate(ids)}
    holdings = [
        _holdings(content, able, owned, place) for content, able in zip(contents, readers, strict=True)
    ]
    shape = len(contents), len(ids)
    allowed, own = np.zeros(shape, bool), np.zeros(shape, np.int64)
    for row, (able, holding) in enumerate(zip(readers, holdings, strict=True)):
        allowed[row, able] = True
        for member, kept in holding.items():
            own[row, member] = len(kept)
    supply = np.array([len(content) for content in contents], np.int64)

    shares = np.zeros(shape, np.int64)
    for rows, columns, load in _parts(allowed, supply):
        cells = np.ix_(rows, columns)
        shares[cells] = _keep_most(allowed[cells], supply[rows], own[cells], load)
    assigned: dict[Partition, str] = {}
    for content, holding, share in zip(contents, holdings, shares.tolist(), strict=True):
        for partition, member in _deal(content, holding, share):
            assigned[partition] = ids[member]
    return assigned


def classes(
    subscriptions: list[Collection[str]], partitions: Mapping[str, int]
) -> list[tuple[list[int], list[str]]]:
    """Topics by who subscribes to them: subscribers (places in the list, ascending), and topics, sorted."""
    alike: dict[frozenset[str], list[int]] = {}  # most groups have one subscription only
    for member, topics in enumerate(subscriptions):
        alike.setdefault(frozenset(topics), []).append(member)
    seen: defaultdict[str, list[int]] = defaultdict(list)
    for number, topics in enumerate(alike):
        for topic in topics:
            seen[topic].append(number)
    found: defaultdict[tuple[int, ...], list[str]] = defaultdict(list)
    for topic in sorted(seen):
        if partitions.get(topic):
            found[tuple(seen[topic])].append(topic)
    groups = list(alike.values())
    return [(sorted(m for number in key for m in groups[number]), topics) for key, topics in found.items()]


def _holdings(
    content: list[Partition], readers: list[int], owned: Mapping[Partition, str], place: Mapping[str, int]
) -> dict[int, list[Partition]]:
    """What each reader has of a class already, in order."""
    able = set(readers)
    held: defaultdict[int, list[Partition]] = defaultdict(list)
    for partition in content:
        owner = owned.get(partition)
        member = place.get(owner) if owner is not None else None
        if member in able and member is not None:
            held[member].append(partition)
    return held


def _parts(
    allowed: npt.NDArray[np.bool_], supply: Matrix
) -> list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], int]]:
    """The parts of the best balance: classes, members, and the smaller of the part's two loads."""
    shares = _poured(allowed, supply)
    parts = []
    waiting = [(np.arange(allowed.shape[0]), np.arange(allowed.shape[1]))]
    while waiting:
        rows, columns = waiting.pop()
        cells = np.ix_(rows, columns)
        some = shares[cells]
        high_rows, high = _split(some, np.where(allowed[cells], supply[rows, None], 0))
        shares[cells] = some
        if high.any():
            waiting += [(rows[high_rows], columns[high]), (rows[~high_rows], columns[~high])]
        else:
            parts.append((rows, columns, int(some.sum()) // len(columns)))
    return parts


def _split(shares: Matrix, most: Matrix) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Shift what can be shifted, and tell the classes and members that stay above the others.

    None do once all loads are within one of each other.
    """
    if not len(shares):  # members that nothing is left for
        return np.zeros(0, bool), np.zeros(shares.shape[1], bool)
    zero = np.zeros_like(shares)
    flow = Transport(shares, zero, zero, most)
    mean = int(shares.sum()) // shares.shape[1]
    # When all stay above the mean, nobody is below it; then the next number splits off who is above that.
    for threshold in (mean, mean + 1):
        rows, columns = flow.settle(shares.sum(axis=1), np.full(shares.shape[1], threshold))
        if not columns.all():
            return rows, columns
    raise AssertionError("not all can be above the mean")


def _poured(allowed: npt.NDArray[np.bool_], supply: Matrix) -> Matrix:
    """A good start: class by class, the most restricted first, poured onto the lowest loads."""
    shares = np.zeros(allowed.shape, np.int64)
    loads = np.zeros(allowed.shape[1], np.int64)
    for row in np.argsort(allowed.sum(axis=1), kind="stable"):
        able = np.flatnonzero(allowed[row])
        able = able[np.argsort(loads[able], kind="stable")]
        before = loads[able]
        # The first k are raised to one level when what it takes to fill them up to the k-th's is there.
        filled = before * np.arange(1, len(able) + 1) - np.cumsum(before)
        k = int(np.searchsorted(filled, supply[row], side="right"))
        level, extra = divmod(int(before[:k].sum() + supply[row]), k)
        loads[able[:k]] = level + (np.arange(k) < extra)
        shares[row, able] = loads[able] - before
    return shares


def _keep_most(allowed: npt.NDArray[np.bool_], supply: Matrix, own: Matrix, load: int) -> Matrix:
    """Shares of a part: ``load`` or ``load + 1`` to each member, and as much as can be left where it is."""
    # One more row takes from each member what it may have, so that each column is to add up to nothing.
    taken = -np.clip(own.sum(axis=0), load, load + 1)
    least = np.zeros_like(own)
    most = np.where(allowed, supply[:, None], 0)
    shares = np.vstack([own, taken])
    flow = Transport(
        shares,
        np.vstack([own, np.full_like(taken, -load - 1)]),
        np.vstack([least, np.full_like(taken, -load - 1)]),
        np.vstack([most, np.full_like(taken, -load)]),
    )
    flow.settle(np.append(supply, -supply.sum()), np.zeros_like(taken))
    return shares[:-1]


def _deal(
    content: list[Partition], holding: Mapping[int, list[Partition]], share: list[int]
) -> list[tuple[Partition, int]]:
    """The partitions of a class by number of each member: its own first, evenly spaced where some must go, so
    that no topic is given away whole; the others in turn, so that each topic is spread."""
    dealt: list[tuple[Partition, int]] = []
    kept: set[Partition] = set()
    needs: list[list[int]] = []
    for member, count in enumerate(share):
        held = holding.get(member, [])
        keep = min(len(held), count)
        chosen = [held[i * len(held) // keep] for i in range(keep)]
        kept.update(chosen)
        dealt.extend((partition, member) for partition in chosen)
        if count > keep:
            needs.append([member, count - keep])
    turn = 0
    for partition in content:
        if partition in kept:
            continue
        turn %= len(needs)
        need = needs[turn]
        dealt.append((partition, need[0]))
        need[1] -= 1
        if need[1]:
            turn += 1
        else:
            del needs[turn]
    return dealt
