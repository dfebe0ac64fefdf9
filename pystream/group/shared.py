"""One consumer group's files as a process sees them: reading its state, changing it, saving its offsets.

`csrc/ps_group.h` says what is shared and what stays true. Of the files in STORE/groups/GROUP/, `control` and
`member+ID` are mapped; `state+ID` and `committed` are documents. The current state survives the death of any
process. A power failure may take it; then the group begins again from `committed`, which is synced, and
holds no offset beyond what was durable of its log: so no record is passed over that the log lost and got
anew.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final
from uuid import UUID

from pystream import metadata
from pystream._native.group import Control, Member, Peer, head_durable, random_id
from pystream._native.log import StoreHandle
from pystream.errors import CorruptLogError, FormatVersionError, GroupNotFoundError, StorageError
from pystream.group.documents import Claim, Committed, Key, State, decode, encode

GROUPS_DIRECTORY: Final = "groups"
CONTROL_FILE: Final = "control"
COMMITTED_FILE: Final = "committed"
_STATE: Final = "state+"
_MEMBER: Final = "member+"
_TEMPORARY: Final = ".tmp+"
_TOMBSTONE: Final = ".deleted+"

DOUBT_S: Final = 0.25
"""How long committed offsets of a member that is being put out are waited for, where they cannot be settled:
writing a document takes less than a millisecond, unless who does it is stopped."""


def groups_directory(store_path: str) -> str:
    return os.path.join(store_path, GROUPS_DIRECTORY)


def list_groups(store_path: str) -> list[str]:
    """The names of a store's groups, sorted."""
    with metadata.storage_errors(store_path):
        try:
            entries = os.listdir(groups_directory(store_path))
        except FileNotFoundError:
            return []
    directory = groups_directory(store_path)
    return sorted(
        name
        for name in entries
        if "+" not in name and os.path.isfile(os.path.join(directory, name, CONTROL_FILE))
    )


class Gone(Exception):
    """The group was deleted while it was open."""


class SharedGroup:
    """A group that is open in this process.

    Args:
        create: make it if it is not there.

    Raises:
        GroupNotFoundError: it is not there, and not `create`.
        CorruptLogError, FormatVersionError: its files are damaged, or too new.
        StorageError: a system call failed.
    """

    def __init__(self, store: StoreHandle, store_path: str, name: str, *, create: bool) -> None:
        self.store = store
        self.store_path = store_path
        self.name = name
        self.path = os.path.join(groups_directory(store_path), name)
        self._known: tuple[str, State] | None = None
        self._peers: dict[str, Peer] = {}
        self._saved: tuple[object, ...] | None = None
        self._rooted = False  # its directory has its name for good
        self._saving = threading.Lock()  # the kernel's lock does not tell threads apart
        with metadata.storage_errors(self.path):
            while True:
                try:
                    self.control = self._open(create)
                    deleted = self.load().deleted
                except Gone:
                    deleted = True
                except FileNotFoundError:  # its directory went meanwhile
                    if not create:
                        raise self._not_found() from None
                    if os.path.isdir(self.path):
                        raise
                    continue
                if not deleted:
                    return
                if store.read_only:
                    raise self._not_found()
                finish_deletion(self)

    def _not_found(self) -> GroupNotFoundError:
        from difflib import get_close_matches  # only on the way to an error

        near = get_close_matches(self.name, list_groups(self.store_path), n=1)
        hint = f"; did you mean {near[0]!r}?" if near and near[0] != self.name else ""
        return GroupNotFoundError(
            f"no consumer group {self.name!r} in {self.store_path}{hint}", path=self.path
        )

    def _open(self, create: bool) -> Control:
        file = os.path.join(self.path, CONTROL_FILE)
        if create:
            os.makedirs(self.path, exist_ok=True)
        elif not os.path.isfile(file) or (self.store.read_only and os.path.getsize(file) == 0):
            raise self._not_found()  # or not made yet
        control = Control(self.store, file)
        if not self.store.read_only and control.verdict != "sound":
            control.lock_gate()  # not for long: whoever has it only writes two files
            try:
                if (verdict := control.verdict) != "sound":
                    self._make_anew(control, trusted=verdict == "passed")
            finally:
                control.unlock_gate()
        return control

    def _make_anew(self, control: Control, *, trusted: bool) -> None:
        """Gate held: give the group the state it was left in."""
        state = self._left_behind(control, trusted=trusted)
        name = random_id()
        with self._new_file(control, name) as written:
            written(encode(state))
            control.begin(name)

    def _left_behind(self, control: Control, *, trusted: bool) -> State:
        if trusted:
            with suppress(FileNotFoundError, CorruptLogError):
                return self._read(_STATE + control.state)
        try:
            saved = self._read(COMMITTED_FILE)
        except FileNotFoundError:
            return State()
        # Its members are dead, and their marks are not to be believed.
        return State(generation=saved.generation, committed=saved.committed, names=saved.names)

    def _file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def _read(self, name: str) -> State:
        file = self._file(name)
        return decode(metadata.read_bytes(file), file)

    def member_file(self, member: str) -> str:
        return self._file(_MEMBER + member)

    # ---- the state --------------------------------------------------------------------------------

    def load(self) -> State:
        """The current state. It is not to be changed."""
        return self._load()[1]

    def _load(self) -> tuple[str, State]:
        while True:
            current = self.control.state
            if self._known is not None and self._known[0] == current:
                return self._known
            try:
                state = self._read(_STATE + current)
            except (FileNotFoundError, NotADirectoryError):
                if self.control.state != current:
                    continue  # it was replaced meanwhile
                if not self.control.in_place:
                    raise Gone from None
                if self.store.read_only and self.control.verdict != "sound":
                    return current, self._left_behind(self.control, trusted=False)
                file = self._file(_STATE + current)
                raise CorruptLogError(
                    f"{file}: missing; close the store in every process, and the group goes on from the "
                    "offsets that were saved",
                    path=file,
                ) from None
            self._known = current, state
            return self._known

    def change(self, edit: Callable[[State], bool]) -> State:
        """Make the state what `edit` makes of a copy of it; False: it is to stay as it is.

        `edit` is called anew whenever another process was faster. What it does beside must bear that.

        Raises:
            Gone: the group was deleted.
            StorageError: a system call failed. Nothing has changed.
        """
        with metadata.storage_errors(self.path):
            while True:
                before, state = self._load()
                if state.deleted:
                    raise Gone
                state = state.copy()
                if not edit(state):
                    return self._known[1] if self._known else state
                after = random_id()
                with self._new_file(self.control, after) as written:
                    written(encode(state))
                    self.control.point("group.written")
                    swapped = self.control.swap(before, after)
                    if not swapped:
                        self._remove(_STATE + after)
                if swapped:
                    self.control.point("group.swapped")
                    self.control.notify()
                    self._known = after, state
                    self._remove(_STATE + before)
                    return state

    @contextmanager
    def _new_file(self, control: Control, name: str) -> Iterator[Callable[[bytes], None]]:
        """A new document's file, locked until it has become the state: `sweep` leaves those alone."""
        path = self._file(_STATE + name)
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                break
            os.close(descriptor)  # swept before it was locked

        def written(data: bytes) -> None:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(data)

        try:
            yield written
        except BaseException:
            if control.state != name:
                self._remove(_STATE + name)
            raise
        finally:
            os.close(descriptor)

    def _remove(self, name: str) -> None:
        with suppress(OSError):  # what is left is swept some time
            os.unlink(self._file(name))

    def sweep(self) -> None:
        """Remove what the dead have left: states that never came to be, members that are none, documents that
        were not saved, deleted groups.

        Raises:
            Gone: the group was deleted.
        """
        groups = groups_directory(self.store_path)
        for name in os.listdir(groups):
            if name.startswith(_TOMBSTONE):
                metadata.remove_tree(os.path.join(groups, name))
        with self._directory() as directory:
            for name in os.listdir(directory):
                with suppress(OSError):
                    if name.startswith(_STATE) and name != _STATE + self.control.state:
                        self._sweep_state(name, directory)
                    elif name.startswith(_MEMBER) and name[len(_MEMBER) :] not in self.load().members:
                        self._sweep_member(name, directory)
                    elif name.startswith(_TEMPORARY):
                        self._sweep_temporary(name, directory)

    def _sweep_state(self, name: str, directory: int) -> None:
        descriptor = os.open(name, os.O_RDWR | os.O_CLOEXEC, dir_fd=directory)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if name != _STATE + self.control.state:
                os.unlink(name, dir_fd=directory)
        finally:
            os.close(descriptor)

    def _sweep_member(self, name: str, directory: int) -> None:
        peer = Peer(self.control, self._file(name))
        if not peer.is_fenced and peer.alive:
            return
        # It may have joined, and died, since the state was looked at: then its marks are still to be taken.
        # Who is dead by now joins no more.
        if name[len(_MEMBER) :] not in self.load().members:
            os.unlink(name, dir_fd=directory)

    def _sweep_temporary(self, name: str, directory: int) -> None:
        with self._saving:
            if self.control.try_lock_save():  # so nobody saves now
                try:
                    os.unlink(name, dir_fd=directory)
                finally:
                    self.control.unlock_save()

    @contextmanager
    def _directory(self) -> Iterator[int]:
        """A descriptor of the group's directory: its name alone may by now lead to another group's.

        Raises:
            Gone: the group was deleted.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise Gone from None
        try:
            if not self.control.in_place:  # it never comes back: so it was not there before, either
                raise Gone
            yield descriptor
        except OSError as error:
            if isinstance(error.filename, str):  # by its name in the directory
                error.filename = self._file(error.filename)
            raise
        finally:
            os.close(descriptor)

    # ---- members ----------------------------------------------------------------------------------

    def new_page(self, notice: Callable[[bool], object], slice_ns: int) -> Member:
        """A page for a member to be, whose file is locked by us.

        Raises:
            Gone: the group was deleted.
            StorageError: a system call failed.
        """
        with metadata.storage_errors(self.path):
            while True:
                self.sweep()
                try:
                    return Member(self.control, self.member_file(random_id()), notice, slice_ns)
                except OSError as error:
                    if error.errno not in (errno.ESTALE, errno.EAGAIN):  # swept before it was locked
                        raise

    def bury(self, members: set[str]) -> None:
        """Remove the files of members that are in no state any more."""
        for member in members:
            self._remove(_MEMBER + member)

    def peer(self, member: str) -> Peer | None:
        """A member's page; None: it is gone, and its marks with it."""
        found = self._peers.get(member)
        if found is None:
            try:
                found = Peer(self.control, self.member_file(member))
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EINVAL):
                    return None
                with metadata.storage_errors(self.member_file(member)):
                    raise
            self._peers[member] = found
        return found

    def mark_of(self, claim: Claim) -> int:
        """Up to where the owner has consumed, by its own word; -1: it has not said."""
        peer = self.peer(claim.member)
        mark = None if peer is None else peer.mark(claim.slot)
        if mark is None and peer is not None:  # its file has grown since
            self._peers.pop(claim.member, None)
            peer = self.peer(claim.member)
            mark = None if peer is None else peer.mark(claim.slot)
        return -1 if mark is None else mark

    def forget_peers(self, members: set[str]) -> None:
        """Let go of the pages of all others than `members`."""
        for member in self._peers.keys() - members:
            self._peers.pop(member, None)

    def harvest(self, state: State, member: str, keys: set[Key] | None = None) -> None:
        """Take a member's claims (or those of `keys`) out of a state, its marks being committed.

        The member must be fenced, or ourselves.
        """
        now = time.time_ns()
        for key, claim in state.claimed_by(member).items():
            if keys is None or key in keys:
                mark = self.mark_of(claim)
                if mark >= 0:
                    state.committed[key] = Committed(mark, claim.epoch, "", now)
                del state.claims[key]

    def remove_members(self, state: State, gone: Collection[str]) -> bool:
        """Take members out of a state, what they have consumed being committed. Whether one was in it."""
        removed = False
        for member in gone:
            if member not in state.members:
                continue
            peer = self.peer(member)
            if peer is not None:
                peer.fence()  # before its marks are read (G3 in ps_group.h)
                self.control.point("group.fenced")
            self.harvest(state, member)
            del state.members[member]
            removed = True
        return removed

    # ---- committed offsets ------------------------------------------------------------------------

    def committed(self) -> dict[Key, Committed]:
        """Every committed offset, marks of members included; none of them is taken back.

        What a member marks once it is fenced may count or not (G6): that is known when it is out of the
        state, and whoever asks takes it out. Who cannot write waits for it, `DOUBT_S` seconds at most.

        Raises:
            Gone: the group was deleted.
        """
        until = time.monotonic() + DOUBT_S
        while True:
            current, state = self._load()
            offsets = dict(state.committed)
            now = time.time_ns()
            for key, claim in state.claims.items():
                if (mark := self.mark_of(claim)) >= 0:
                    offsets[key] = Committed(mark, claim.epoch, "", now)
            doubtful = self._doubtful(state)
            if self.control.state != current:
                continue
            if not doubtful or time.monotonic() >= until:
                return offsets
            self._resolve(doubtful)

    def _doubtful(self, state: State) -> set[str]:
        """The members whose marks, read before, may be none that count."""
        owners = {claim.member: self._peers.get(claim.member) for claim in state.claims.values()}
        return {member for member, peer in owners.items() if peer is not None and not peer.confirms()}

    def _resolve(self, fenced: set[str]) -> None:
        if not self.store.read_only:
            with suppress(StorageError):  # a full disk, say, which is none to those who only look
                self.change(lambda state: self.remove_members(state, fenced))
                return
        time.sleep(0.001)

    def save(self) -> bool:
        """Make the committed offsets durable, as far as their logs are. False: another process is at it.

        Raises:
            StorageError: a system call failed.
        """
        with self._saving, metadata.storage_errors(self.path):
            if not self.control.try_lock_save():
                return False
            try:
                self._save()
            finally:
                self.control.unlock_save()
        return True

    def _save(self) -> None:
        state = self.load()
        offsets = self.committed()
        view: tuple[object, ...] = (self.control.state, tuple((key, c.offset) for key, c in offsets.items()))
        if view == self._saved:
            return
        bounded, whole = {}, True
        for key, entry in offsets.items():
            durable = self._durable(key, state.names.get(key[0]))
            whole = whole and (durable is None or entry.offset <= durable)
            bounded[key] = entry if durable is None else entry._replace(offset=min(entry.offset, durable))
        topics = {uuid for uuid, _ in bounded}
        names = {uuid: name for uuid, name in state.names.items() if uuid in topics}
        document = encode(State(generation=state.generation, committed=bounded, names=names))
        temporary = _TEMPORARY + random_id()
        if not self._rooted:  # whoever made the group may have died, and synced nothing
            metadata.sync_directory(groups_directory(self.store_path))
            metadata.sync_directory(self.store_path)
            self._rooted = True
        with self._directory() as directory:
            try:
                with open(temporary, "wb", opener=partial(_open_in, directory)) as file:
                    file.write(document)
                    file.flush()
                    os.fsync(file.fileno())
                self.control.point("group.saving")
                os.rename(temporary, COMMITTED_FILE, src_dir_fd=directory, dst_dir_fd=directory)
                os.fsync(directory)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=directory)
                raise
        self._saved = view if whole else None

    def _durable(self, key: Key, name: str | None) -> int | None:
        """The durable offset of a partition; None: there is no such partition any more."""
        if name is None:
            return None
        head = os.path.join(metadata.topic_directory(self.store_path, name), str(key[1]), "head")
        try:
            found = head_durable(self.store, head)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return 0  # a damaged head: of nothing is it known
        return found[1] if found is not None and found[0] == UUID(hex=key[0]).bytes else None

    def saved(self) -> dict[Key, Committed]:
        """The offsets that are durable."""
        try:
            return self._read(COMMITTED_FILE).committed
        except (FileNotFoundError, CorruptLogError, FormatVersionError):
            return {}


def finish_deletion(group: SharedGroup) -> None:
    """Remove the files of a group whose state says that it is deleted. Another group of that name stays."""
    group.control.lock_gate()
    try:
        if not group.control.in_place:
            return
        grave = os.path.join(groups_directory(group.store_path), _TOMBSTONE + random_id())
        os.rename(group.path, grave)
        metadata.sync_directory(groups_directory(group.store_path))
    finally:
        group.control.unlock_gate()
    metadata.remove_tree(grave)


def _open_in(directory: int, path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o666, dir_fd=directory)
