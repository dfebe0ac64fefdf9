"""What a store holds beside partitions: its documents, its topics, committed offsets of groups."""

from __future__ import annotations

import errno
import os
from typing import Final
from uuid import UUID

from pystream import metadata
from pystream.errors import (
    CorruptLogError,
    FormatVersionError,
    OptionError,
    PystreamError,
    StorageError,
    TopicNotFoundError,
)
from pystream.group.documents import decode
from pystream.verified import DAMAGE, NOTE, UNCHECKED, Finding

_STORE_NAMES: Final = {
    metadata.STORE_FILE,
    metadata.TOPICS_DIRECTORY,
    metadata.BACKUP_FILE,
    metadata.LIVE_FILE,
    metadata.MAINTENANCE_FILE,
    "groups",
    metadata.JOBS_DIRECTORY,
    "repairs",
    "lost+found",
}
_TOPIC_NAMES: Final = {metadata.TOPIC_FILE, metadata.LOCKS_FILE}
GROUPS_DIRECTORY: Final = "groups"
COMMITTED_FILE: Final = "committed"


class Outside:
    """Looks at everything but partitions, and lists those.

    Args:
        store: the store's directory.
        whole: look at the whole store, and not at one topic.
    """

    def __init__(self, store: str, *, whole: bool) -> None:
        self._store = store
        self.findings: list[Finding] = []
        self._document(os.path.join(store, metadata.STORE_FILE), "store")
        if whole:
            self._groups()
            self._backup()
            self._strangers(store, _STORE_NAMES)

    def live(self, incarnation: int) -> None:
        """Say so where the liveness file is damaged."""
        path = os.path.join(self._store, metadata.LIVE_FILE)
        with metadata.storage_errors(path):
            try:
                with open(path, "rb") as file:
                    blank = not file.read().strip(b"\0")
            except FileNotFoundError:
                return
        if incarnation == 0 and not blank:
            what = "the liveness file is damaged; who opens the store when nobody has it open writes it anew"
            self.findings.append(Finding(DAMAGE, "live", what, path, remedy="opening"))

    def topics(self) -> list[str]:
        """The names of all directories that are, or were, topics."""
        path = os.path.join(self._store, metadata.TOPICS_DIRECTORY)
        with metadata.storage_errors(path):
            try:
                entries = sorted(os.listdir(path))
            except FileNotFoundError:
                return []
        names = []
        for entry in entries:
            if "+" in entry:  # being made, or deleted
                continue
            if os.path.isdir(os.path.join(path, entry)):
                names.append(entry)
            else:
                self._note(os.path.join(path, entry))
        return names

    def partitions(self, name: str, wanted: int | None) -> list[tuple[str, int, UUID | None]]:
        """(topic, partition, the topic's uuid) of a topic's partitions, or of the one wanted.

        Raises:
            TopicNotFoundError: there is no such topic.
            OptionError: there is no such partition.
        """
        directory = metadata.topic_directory(self._store, name)
        try:
            with metadata.storage_errors(directory):
                entries = sorted(os.listdir(directory))
        except StorageError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise
            raise self._no_topic(name) from None
        there = {int(entry) for entry in entries if entry.isdecimal() and str(int(entry)) == entry}
        file = os.path.join(directory, metadata.TOPIC_FILE)
        uuid, count = None, 1 + max(there, default=-1)
        before = len(self.findings)
        self._document(file, "topic", name)
        if len(self.findings) > before and not os.path.isdir(directory):  # deleted meanwhile
            del self.findings[before:]
            raise self._no_topic(name)
        try:
            found = metadata.read_topic(self._store, name)
            if found is not None:
                uuid, count = found[0].uuid, found[1].partitions
        except PystreamError:  # it was said
            pass
        for entry in entries:
            number = int(entry) if entry.isdecimal() else None
            ours = entry in _TOPIC_NAMES or "+" in entry or entry.endswith(".damaged")
            if not ours and (number is None or number >= count):
                self._note(os.path.join(directory, entry), name)
        if wanted is not None and not 0 <= wanted < count:
            has = f"partitions 0 to {count - 1}" if count > 1 else "only partition 0"
            raise OptionError(f"partition={wanted}: topic {name!r} has {has}", topic=name)
        return [(name, number, uuid) for number in range(count) if wanted in (None, number)]

    def _no_topic(self, name: str) -> TopicNotFoundError:
        names = ", ".join(metadata.list_topics(self._store)[:8]) or "none"
        path = metadata.topic_directory(self._store, name)
        return TopicNotFoundError(
            f"no topic {name!r} in {self._store}; it has: {names}", topic=name, path=path
        )

    def _document(self, path: str, part: str, topic: str | None = None) -> None:
        """store.json or topic.json."""
        try:
            if part == "store":
                metadata.read_store(self._store)
            elif topic is not None and metadata.read_topic(self._store, topic) is None:
                self._add(DAMAGE, part, "it is missing", path, topic, "backup")
        except FormatVersionError as error:
            self._add(UNCHECKED, part, _without(path, error), path, topic)
        except CorruptLogError:
            what = "it is not what was written: its checksum differs"
            self._add(DAMAGE, part, what, path, topic, "repair" if self._can_mend(path, part) else "backup")
        except PystreamError as error:
            missing = not os.path.lexists(path)
            kind = DAMAGE if missing else UNCHECKED
            what = "it is missing" if missing else f"cannot be read: {_reason(error)}"
            self._add(kind, part, what, path, topic, "backup" if missing else "")

    @staticmethod
    def _can_mend(path: str, part: str) -> bool:
        from pystream.checking.mending import mended

        with open(path, "rb") as file:
            return mended(file.read(), f"pystream {part}") is not None

    def _groups(self) -> None:
        path = os.path.join(self._store, GROUPS_DIRECTORY)
        try:
            names = sorted(name for name in os.listdir(path) if "+" not in name)
        except OSError:
            return
        for name in names:
            file = os.path.join(path, name, COMMITTED_FILE)
            try:
                with open(file, "rb") as opened:
                    decode(opened.read(), file)
            except CorruptLogError:
                what = f"the saved offsets of group {name!r} are damaged; those in use are not touched by it"
                self._add(DAMAGE, "group", what, file, None, "backup")
            except FormatVersionError as error:
                self._add(UNCHECKED, "group", _without(file, error), file)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                    self._add(UNCHECKED, "group", f"cannot be read: {_reason(error)}", file)

    def _backup(self) -> None:
        """What says that this store is a backup, and what of."""
        file = os.path.join(self._store, metadata.BACKUP_FILE)
        try:
            with open(file, "rb") as opened:
                metadata.decode(opened.read(), format="pystream backup", path=file)
        except CorruptLogError:
            what = "it is not what was written; the records do not depend on it, the next backup to here does"
            self._add(DAMAGE, "backup", what, file)
        except FormatVersionError as error:
            self._add(UNCHECKED, "backup", _without(file, error), file)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                self._add(UNCHECKED, "backup", f"cannot be read: {_reason(error)}", file)

    def _strangers(self, directory: str, ours: set[str]) -> None:
        with metadata.storage_errors(directory):
            names = sorted(os.listdir(directory))
        for name in names:
            if name not in ours and not name.startswith(".tmp+") and not name.endswith(".damaged"):
                self._note(os.path.join(directory, name))

    def _note(self, path: str, topic: str | None = None) -> None:
        self._add(NOTE, "file", "a file or directory that is none of pystream's", path, topic)

    def _add(
        self, kind: str, part: str, what: str, path: str, topic: str | None = None, remedy: str = ""
    ) -> None:
        self.findings.append(Finding(kind, part, what, path, topic, remedy=remedy))


def _without(path: str, error: BaseException) -> str:
    return str(error).removeprefix(f"{path}: ")


def _reason(error: BaseException) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
