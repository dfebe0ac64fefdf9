"""What a backup holds beside records: how far consumer groups and ingest jobs have come."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pystream import metadata
from pystream.backups.partitions import Ends
from pystream.backups.trees import copy_bytes, make_directory, read_bytes, sync_directory
from pystream.errors import GroupNotFoundError
from pystream.group.documents import Committed, Key, State, encode
from pystream.group.shared import (
    COMMITTED_FILE,
    CONTROL_FILE,
    GROUPS_DIRECTORY,
    Gone,
    SharedGroup,
    list_groups,
)
from pystream.metadata import JOB_FORMAT, JOBS_DIRECTORY

if TYPE_CHECKING:
    from pystream.store import Store

CONTROL_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class GroupOffsets:
    """A consumer group, without its members."""

    generation: int
    names: Mapping[str, str]
    committed: Mapping[Key, Committed]


def read_groups(store: Store) -> dict[str, GroupOffsets]:
    """What every consumer group has committed, what its members have consumed included."""
    found = {}
    for name in list_groups(store.path):
        try:
            group = SharedGroup(store._handle, store.path, name, create=False)
            offsets = group.committed()
            state = group.load()
        except (GroupNotFoundError, Gone):  # deleted a moment ago
            continue
        found[name] = GroupOffsets(state.generation, dict(state.names), offsets)
    return found


def write_groups(tree: str, store: str, groups: Mapping[str, GroupOffsets], ends: Ends) -> None:
    """Write them to a backup, as the first who opens each group there expects what was saved."""
    if not groups:
        return
    source = os.path.join(store, GROUPS_DIRECTORY)
    directory = os.path.join(tree, GROUPS_DIRECTORY)
    make_directory(directory, source if os.path.isdir(source) else store)
    for name, group in groups.items():
        committed = {
            key: entry._replace(offset=min(entry.offset, ends[key][0]))
            for key, entry in group.committed.items()
            if key in ends
        }
        topics = {uuid for uuid, _ in committed}
        names = {uuid: text for uuid, text in group.names.items() if uuid in topics}
        state = State(generation=group.generation, committed=committed, names=names)
        made, like = os.path.join(directory, name), os.path.join(store, metadata.STORE_FILE)
        make_directory(made, directory)
        copy_bytes(os.path.join(made, COMMITTED_FILE), encode(state), like=like)
        # A blank page: whoever opens the group begins it anew, with what was saved.
        copy_bytes(os.path.join(made, CONTROL_FILE), bytes(CONTROL_BYTES), like=like)
        sync_directory(made)
    sync_directory(directory)


def read_jobs(store: str) -> dict[str, dict[str, Any]]:
    """The ingest jobs of a store, by file."""
    directory = os.path.join(store, JOBS_DIRECTORY)
    found = {}
    with metadata.storage_errors(directory):
        try:
            names = sorted(os.listdir(directory))
        except FileNotFoundError:
            return {}
        for name in names:
            if name.endswith(".json"):
                path = os.path.join(directory, name)
                try:
                    data = read_bytes(path)
                except FileNotFoundError:  # it has written nothing, and is forgotten
                    continue
                found[name] = metadata.decode(data, format=JOB_FORMAT, path=path)
    return found


def write_jobs(tree: str, store: str, jobs: Mapping[str, dict[str, Any]], ends: Ends) -> None:
    """Write to a backup what is known of the jobs into its topics."""
    topics = {uuid for uuid, _ in ends}
    wanted = {name: job for name, job in jobs.items() if job["shape"]["topic"] in topics}
    if not wanted:
        return
    source, directory = os.path.join(store, JOBS_DIRECTORY), os.path.join(tree, JOBS_DIRECTORY)
    make_directory(directory, source if os.path.isdir(source) else store)
    for name, job in wanted.items():
        uuid, state = job["shape"]["topic"], job["state"]
        epochs = [
            _epoch(epoch, end, ends[uuid, partition])
            for partition, (epoch, end) in enumerate(zip(state["epochs"], state["ends"], strict=True))
        ]
        document = {**job, "state": {**state, "epochs": epochs}}
        path = os.path.join(directory, name)
        copy_bytes(path, metadata.encode(document), like=os.path.join(store, metadata.STORE_FILE))
    sync_directory(directory)


def _epoch(epoch: int, end: int, copied: tuple[int, int, int]) -> int:
    """The copy begins a leader epoch: what the job counts was not cut by that."""
    upto, log, copy = copied
    return copy if epoch == log and end <= upto else epoch
