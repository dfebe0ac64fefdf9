"""A copy of a store that others go on writing to, made beside the last one and put in its place in one step.

Nobody is stopped: no lock of the store is taken, and nothing of it changes. In this order:

1. What was committed is read, of consumer groups and of ingest jobs; then, for each partition, where its
   records end. So no position that is copied lies beyond the records that are.
2. Each partition is copied up to there, every batch checked on the way. A segment that the last backup has
   already, whole, is not copied but linked from it. Of the store itself nothing is linked.
3. The last segment of a copy is sealed and an empty one follows, with a leader epoch of its own: who goes on
   writing to the copy gives out offsets that are told apart from those of the store.
4. All is synced, then takes the place of the last backup. Whatever dies before leaves that as it was, and
   what was made so far is removed by the next backup to that place.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pystream import metadata
from pystream._native.backup import Site
from pystream.backups.others import read_groups, read_jobs, write_groups, write_jobs
from pystream.backups.partitions import Copies, plan
from pystream.backups.place import Place
from pystream.backups.trees import copy_bytes, make_like, read_bytes, sync_directory

if TYPE_CHECKING:
    from pystream.store import Store

__all__ = ["Backup", "back_up"]

Progress = Callable[[int, int], object]
"""Called now and then with the bytes that are done, and all bytes there are."""


@dataclass(frozen=True, slots=True)
class Backup:
    """What `Store.backup` has made."""

    path: str
    """The directory of the backup, a store of its own."""
    source: str
    """The store that it is of."""
    incremental: bool
    """There was a backup before, and what it had was used."""
    topics: int
    partitions: int
    records: int
    """In the backup."""
    bytes_copied: int
    """Of segments and their indexes."""
    bytes_linked: int
    """Of those that the last backup had already, which take no new space."""
    segments_copied: int
    segments_linked: int
    groups: int
    """Consumer groups."""
    jobs: int
    """Ingest jobs."""
    left_out: tuple[str, ...]
    """Topics that were deleted while they were copied."""
    seconds: float
    """How long it took."""

    def to_json(self) -> dict[str, Any]:
        """As a JSON object holds it."""
        return {**asdict(self), "left_out": list(self.left_out)}


def back_up(store: Store, path: str | os.PathLike[str], progress: Progress | None) -> Backup:
    """See `Store.backup`."""
    begun = time.monotonic()
    site = Site()
    with ExitStack() as stack:
        place = stack.enter_context(Place(site, store, path))
        site.point("backup.begun")
        groups, jobs = read_groups(store), read_jobs(store.path)
        site.point("backup.positions")
        topics = plan(store, place)
        site.point("backup.planned")
        tree = place.tree
        copies = Copies(site, store, place, topics, progress)
        copies.run()
        site.point("backup.partitions")
        with metadata.storage_errors(tree):
            write_groups(tree, store.path, groups, copies.ends)
            site.point("backup.groups")
            write_jobs(tree, store.path, jobs, copies.ends)
            document = {
                **metadata.new_document("pystream backup"),
                "source": store.path,
                "store": store.uuid.hex,
                "pystream": _version(),
                "topics": copies.document(),
            }
            store_file = os.path.join(store.path, metadata.STORE_FILE)
            copy_bytes(os.path.join(tree, metadata.BACKUP_FILE), metadata.encode(document), like=store_file)
            copy_bytes(os.path.join(tree, metadata.STORE_FILE), read_bytes(store_file), like=store_file)
            make_like(tree, store.path)
            sync_directory(tree)
        place.swap()
        kept = copies.kept
        return Backup(
            path=place.path,
            source=store.path,
            incremental=place.previous is not None,
            topics=len(kept),
            partitions=sum(topic.options.partitions for topic in kept),
            records=sum(part.records for topic in kept for part in topic.parts),
            bytes_copied=copies.bytes_copied,
            bytes_linked=copies.bytes_linked,
            segments_copied=copies.segments_copied,
            segments_linked=copies.segments_linked,
            groups=len(groups),
            jobs=len(jobs),
            left_out=tuple(topic.name for topic in topics if topic not in kept),
            seconds=time.monotonic() - begun,
        )


def _version() -> str:
    import pystream

    return pystream.__version__
