"""A consumer's membership of a group: joining, claiming, giving up, committing, leaving.

All decisions are made by members, in the thread that asks for records, by changing the group's state
(`shared`); nobody coordinates. Whoever finds a member dead or silent takes it out; whoever changes who is
there shares the partitions out anew, as targets. Then each member, when next asked for records, gives up
what is not its target any more, and claims what is and has no owner. So a partition has one owner at most,
always.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from pystream import metadata
from pystream._native.group import Member as MemberPage
from pystream._native.reader import PartitionReader
from pystream.errors import FencedMemberError, OffsetOutOfRangeError
from pystream.group.documents import Claim, Committed, Key, Member, State
from pystream.group.offsets import (
    SAVE_PATIENCE_S,
    Saver,
    commit_slowly,
    first_offset,
    leader_epochs,
    put_out,
    save_with_logs,
)
from pystream.group.patterns import TopicsDirectory, matching
from pystream.group.settings import Callback, GroupOptions
from pystream.group.shared import Gone, SharedGroup
from pystream.group.sharing import (
    Lookout,
    catalog,
    check_company,
    other_processes,
    share_out,
    target_by_hand,
    this_process,
    topic_deleted,
)
from pystream.group.watcher import get_watcher
from pystream.places import TopicPartition

if TYPE_CHECKING:
    from pystream.consumer import Consumer

_log = logging.getLogger("pystream.group")

SLICE_NS_MAX: Final = 10**9
"""The longest that a member sleeps at a stretch while it waits for records."""

SLICES_PER_SESSION: Final = 4
"""How often in `session_timeout` a waiting member shows that it lives, at least."""


class Membership:
    """One consumer's part in a group. Made by `Consumer`, whose inside it knows."""

    def __init__(self, consumer: Consumer, options: GroupOptions) -> None:
        self._consumer = consumer
        self._store = consumer._store
        self.options = options
        self._shared = self._open()
        self._page: MemberPage | None = None
        self.member_id = ""
        self._names: tuple[str, ...] = ()
        self._pattern: re.Pattern[str] | None = None
        self._static: dict[Key, str] | None = None  # names by partition, of those assigned by hand
        self._slots: dict[Key, int] = {}
        self._keys: dict[tuple[str, int], Key] = {}  # of the readers, by topic name and partition
        self._lookout = Lookout()
        self._others: frozenset[int] = frozenset()  # processes of members
        self._directory = TopicsDirectory(self._store.path)
        self._look_ns = min(SLICE_NS_MAX, options.session_timeout_ns // SLICES_PER_SESSION)
        self._saver = Saver()
        self._truncated: OffsetOutOfRangeError | None = None  # to be raised when records are asked for
        self._lock = threading.RLock()
        self._inside = False
        self._leaving = False
        self._rejoins = False  # put out, and not in again yet

    def _open(self) -> SharedGroup:
        return SharedGroup(self._store._handle, self._store.path, self.options.name, create=True)

    @property
    def joined(self) -> bool:
        """Whether it is a member, as far as it knows, or is to be one again."""
        return self._page is not None or self._rejoins

    @property
    def generation(self) -> int | None:
        """How often the group has shared out its partitions; None: it was deleted."""
        with suppress(Gone):
            return self._shared.load().generation
        return None

    # ---- what is read -----------------------------------------------------------------------------

    def subscribe(self, names: tuple[str, ...], pattern: re.Pattern[str] | None) -> None:
        """Be a member who reads these topics, or those that match. Neither: be none."""
        with self._lock:
            if not names and pattern is None:
                self.leave(clean=True)
                return
            self._check_company(is_static=False)
            if self._static is not None:
                self.leave(clean=True)
            self._names, self._pattern, self._static = names, pattern, None
            if pattern is not None:
                self._directory.make()
                self._directory.watch()  # before topics are looked for: none comes in between
            self._update()

    def assign(self, partitions: Mapping[tuple[str, int], int | None]) -> None:
        """Be a member who reads these partitions by hand: nobody else in the group may have them.

        Raises:
            PartitionOwnedError: another member has one of them; nothing changes.
        """
        with self._lock:
            self._check_company(is_static=True)
            if self._page is not None and self._static is None:
                self.leave(clean=True)
            before = self._static
            self._names, self._pattern = (), None
            self._static = {(self._topic_uuid(name), index): name for name, index in partitions}
            try:
                self._update()
            except BaseException:
                self._static = before
                raise
            for place, offset in partitions.items():
                if offset is not None:  # from a callback refused: it is not read yet
                    self._consumer.seek(place, offset)

    def _update(self) -> None:
        """The subscription has changed: tell the others, and take what is free."""
        self._directory.forget()
        if self._page is None:
            self._join()
        else:
            self._take_part()
        self.settle(waited=False)
        if self._truncated is not None and self._page is not None:
            self._page.want_later()

    def _topic_uuid(self, name: str) -> str:
        return self._consumer._topic(name).uuid.hex

    def _topics(self) -> tuple[str, ...]:
        """The topics subscribed to that exist."""
        if self._pattern is not None:
            return tuple(matching(self._store.topics(), self._pattern))
        return self._names

    # ---- joining ----------------------------------------------------------------------------------

    def _join(self) -> None:
        self._page = page = self._new_page()
        self.member_id = member = f"{page.id:016x}"
        try:
            self._take_part()
        except BaseException:
            self._drop_page()
            raise
        self._rejoins = False
        self._consumer._fetcher.attend(page)
        get_watcher().add(self)
        _log.debug("group %r: joined as %s", self.options.name, member)

    def _take_part(self) -> None:
        """Be in the state with what we subscribe to now, in the company of the living."""
        gone: set[str] = set()

        def edit(state: State) -> bool:
            gone.update(self._dead(state))
            self._shared.remove_members(state, gone)
            check_company(state, self.member_id, self.options, is_static=self._static is not None)
            state.assignor = self.options.assignor
            return self._share_out(state)

        self._change(edit)
        self._shared.bury(gone)

    def _check_company(self, *, is_static: bool) -> None:
        """Raise before anything changes, where the others do it in another way."""
        with suppress(Gone):
            state = self._shared.load().copy()
            for member in self._dead(state):
                state.members.pop(member, None)
            check_company(state, self.member_id, self.options, is_static=is_static)

    def _new_page(self) -> MemberPage:
        while True:
            try:
                return self._shared.new_page(self.notice, self._look_ns)
            except Gone:
                self._shared = self._open()

    def _drop_page(self) -> None:
        page, self._page = self._page, None
        if page is not None:
            page.let_go()
            with suppress(OSError):
                os.unlink(page.path)

    # ---- changes of the state ---------------------------------------------------------------------

    def _change(self, edit: Callable[[State], bool]) -> State:
        """Change the state as a member: the group was not deleted, or is made anew."""
        while True:
            try:
                return self._shared.change(edit)
            except Gone:
                self._shared = self._open()

    def _dead(self, state: State) -> set[str]:
        return self._lookout.find_dead(self._shared, state, self.member_id)

    def _share_out(self, state: State) -> bool:
        """Say in a state what we subscribe to, and share out the partitions anew."""
        if self._page is not None:
            state.members[self.member_id] = Member(
                *this_process(),
                self.options.client,
                self._topics(),
                self.options.session_timeout_ns,
                self._static is not None,
            )
        share_out(state, self._store.path)
        if self._static is not None:
            target_by_hand(state, self.member_id, self._static, self.options.name)
        return True

    # ---- between two records ----------------------------------------------------------------------

    def notice(self, waited: bool) -> None:
        """The group has changed, or a slice of a wait is over. In the thread that asks for records."""
        self.settle(waited)
        truncated, self._truncated = self._truncated, None
        if truncated is not None:
            raise truncated

    def settle(self, waited: bool) -> None:
        """Act upon the group's state until there is nothing to do."""
        with self._lock:
            if self._inside or not self.joined:
                return
            self._inside = True
            try:
                if self._page is None:  # it failed when it was put out
                    self._join()
                while self._step():
                    pass
                if not waited:
                    get_watcher().activate(self)
                elif self._page is not None:
                    self._page.want_later()
            finally:
                self._inside = False

    def _step(self) -> bool:
        """Do one thing that is to be done. False: there is nothing."""
        page = self._page
        if page is None:  # a callback has closed the consumer
            return False
        signal = self._shared.control.signal
        try:
            with metadata.storage_errors(self._shared.path):
                state = self._shared.load()
                is_lost = self.member_id not in state.members or page.is_fenced
                gone = set() if is_lost else self._dead(state)
                is_stale = not is_lost and (bool(gone) or self._is_out_of_date(state))
        except Gone:
            is_lost = True
        if is_lost:
            self._lose()
            return True
        if is_stale:
            self._reform(gone)
            return True
        mine, wanted = state.claimed_by(self.member_id), state.targets_of(self.member_id)
        held = {key: name for (name, _), key in self._keys.items()}
        renamed = {key for key in mine.keys() & held.keys() if state.names[key[0]] != held[key]}
        if given_up := (mine.keys() - wanted) | renamed:  # these are claimed again, by the new name
            self._revoke({key: held.get(key, state.names[key[0]]) for key in given_up})
            return True
        if missing := mine.keys() - set(self._keys.values()):
            self._read({key: state.names[key[0]] for key in missing}, state)
            return True
        if free := {key: state.names[key[0]] for key in wanted if key not in state.claims}:
            self._take(free)
            return True
        self._follow(state)
        page.dealt_with(signal)
        return False

    def _follow(self, state: State) -> None:
        """Have the watcher, and our slices, follow who is there."""
        others = other_processes(state)
        self._shared.forget_peers(set(state.members))
        if others != self._others:
            self._others = others
            get_watcher().refresh()
        if self._page is not None:
            shortest = min(entry.session_timeout_ns for entry in state.members.values())
            self._look_ns = min(SLICE_NS_MAX, shortest // SLICES_PER_SESSION)
            self._page.set_slice(self._look_ns)

    def _is_out_of_date(self, state: State) -> bool:
        """Whether topics came or went since partitions were shared out."""
        if not self._directory.has_changed():
            return False
        if self._static is None and self._topics() != state.members[self.member_id].topics:
            return True
        for name in self._names:
            if not metadata.has_topic(self._store.path, name):
                self._directory.forget()
                raise topic_deleted(name, self._consumer._topics.get(name))
        return catalog(state, self._store.path) != state.topics

    def _reform(self, gone: set[str]) -> None:
        def edit(state: State) -> bool:
            removed = self._shared.remove_members(state, gone)
            mine = state.members.get(self.member_id)
            if mine is None:
                return removed
            changed = self._static is None and mine.topics != self._topics()
            if removed or changed or catalog(state, self._store.path) != state.topics:
                return self._share_out(state)
            return False  # somebody else was faster

        try:
            self._change(edit)
        except BaseException:
            self._directory.forget()
            raise
        self._shared.bury(gone)

    def _call(self, callback: Callback | None, partitions: Iterable[tuple[str, int]]) -> None:
        if callback is not None:
            callback(self._consumer, [TopicPartition(*where) for where in sorted(partitions)])

    def _revoke(self, keys: Mapping[Key, str]) -> None:
        where = {(name, key[1]): key for key, name in keys.items() if (name, key[1]) in self._keys}
        if where:
            self._call(self.options.on_revoked, where)
        self._drop_readers(where)

        def edit(state: State) -> bool:
            if self.member_id not in state.members:
                return False
            self._shared.harvest(state, self.member_id, set(keys))
            return True

        self._change(edit)
        self._shared.control.point("group.revoked")
        for key in keys:
            if (slot := self._slots.pop(key, None)) is not None and self._page is not None:
                self._page.give_back(slot)

    def _drop_readers(self, where: Iterable[tuple[str, int]]) -> None:
        for place in list(where):
            reader = self._consumer._readers.pop(place, None)
            self._keys.pop(place, None)
            if reader is not None:
                self._consumer._fetcher.remove(reader)

    def _take(self, keys: Mapping[Key, str]) -> None:
        """Claim partitions that are ours to read and that nobody owns."""
        page = self._page
        assert page is not None
        epochs = leader_epochs(self._consumer, keys)
        with metadata.storage_errors(page.path):
            slots = {key: page.take_slot() for key in epochs}
        taken: set[Key] = set()

        def edit(state: State) -> bool:
            taken.clear()
            if self.member_id not in state.members:
                return False
            for key, epoch in epochs.items():
                if key not in state.claims and state.targets.get(key) == self.member_id:
                    state.claims[key] = Claim(self.member_id, slots[key], state.generation, epoch)
                    taken.add(key)
            return bool(taken)

        try:
            self._change(edit)
        except OSError:  # nothing has changed
            taken.clear()
            raise
        finally:
            for key in slots.keys() - taken:
                page.give_back(slots[key])
        self._shared.control.point("group.claimed")
        if gone := keys.keys() - epochs.keys():
            self._directory.forget()  # a topic was deleted, and perhaps one of its name was made
            if self._static is not None:
                raise topic_deleted(keys[min(gone)])

    def _read(self, keys: Mapping[Key, str], state: State) -> None:
        """Begin to read partitions that we have claimed, each at its committed offset."""
        added: list[tuple[str, int]] = []
        try:
            for key, name in sorted(keys.items(), key=lambda item: (item[1], item[0])):
                place = (name, key[1])
                offset, error = first_offset(self._consumer, place, state.committed.get(key), self.options)
                self._truncated = self._truncated or error
                self._slots[key] = state.claims[key].slot
                reader = self._consumer._make_reader(place, offset)
                self._follow_reader(reader, key, offset if key not in state.committed else None)
                self._keys[place] = key
                added.append(place)
        finally:
            if added:  # where one fails, too: the others are read from now on
                self._call(self.options.on_assigned, added)

    def _follow_reader(self, reader: PartitionReader, key: Key, start: int | None) -> None:
        """Have the reader's progress count as committed, if that is wanted: from its very start on."""
        if not self.options.auto_commit or self._page is None:
            return
        if start is not None:
            self._page.set_mark(self._slots[key], start)
        self._page.follow(reader, self._slots[key])

    def _lose(self) -> None:
        """We were put out, and the others have what was ours: join anew."""
        with suppress(Gone):  # whoever fenced us may have died before it harvested: our marks are to count
            self._shared.change(lambda state: self._shared.remove_members(state, {self.member_id}))
        where = list(self._keys)
        self._drop_readers(where)
        self._slots.clear()
        self._drop_page()
        _log.warning("group %r: this consumer was put out, and joins anew", self.options.name)
        try:
            if where:
                self._call(self.options.on_lost or self.options.on_revoked, where)
        finally:
            self._directory.forget()
            self._rejoins = not self._consumer.closed
            if self._rejoins:
                self._join()

    # ---- committing -------------------------------------------------------------------------------

    def commit(self, offsets: Mapping[tuple[str, int], Committed | int] | None, *, durable: bool) -> None:
        """See `Consumer.commit`; places are of partitions that we read."""
        page = self._page
        if page is None:
            raise put_out(self.options.name)
        slow: dict[Key, Committed] = {}
        if offsets is None:
            readers = self._consumer._readers  # without those of topics that were deleted
            offsets = {place: readers[place].reached for place in self._keys if place in readers}
        for place, entry in offsets.items():
            key = self._keys[place]
            if isinstance(entry, Committed):
                slow[key] = entry
            else:
                page.set_mark(self._slots[key], entry)
        page.heartbeat()
        page.confirm()
        if slow:
            commit_slowly(self._shared, self.member_id, slow, page)
            for key in slow:
                page.set_mark(self._slots[key], -1)
            page.confirm()  # else the marks before these may have been taken for the newer word
        get_watcher().activate(self)
        if durable:
            self.save()

    def committed(self, place: tuple[str, int]) -> Committed | None:
        """The committed offset of any partition."""
        key = (self._topic_uuid(place[0]), place[1])
        try:
            return self._shared.committed().get(key)
        except Gone:
            return None

    def save(self, patience_s: float = SAVE_PATIENCE_S) -> None:
        """Make durable what is committed, and the records below it."""
        readers = self._consumer._readers
        logs = {key: readers[place].handle for place, key in list(self._keys.items()) if place in readers}
        save_with_logs(self._shared, logs, patience_s)

    def heartbeat(self) -> None:
        """Say that we live."""
        if self._page is not None:
            self._page.heartbeat()

    # ---- leaving ----------------------------------------------------------------------------------

    def leave(self, *, clean: bool, callbacks: bool = True, closing: bool = False) -> None:
        """Give up what we read, and be no member any more.

        Args:
            clean: what was handed out is done; else the records in hand are not.
            closing: the consumer lets go of its readers itself; a thread may be waiting inside.
        """
        with self._lock:
            self._rejoins = False
            if self._page is None or self._leaving:  # again, from a callback
                return
            self._leaving = True
            for place in self._keys:
                reader = self._consumer._readers.get(place)
                if reader is not None and self.options.auto_commit and clean:
                    reader.settle_mark()
            try:
                if callbacks and self._keys:
                    self._call(self.options.on_revoked, self._keys)
            finally:
                self._leaving = False
                self._part(closing)

    def _part(self, closing: bool) -> None:
        member = self.member_id
        synced = has_left = False
        try:
            if closing:  # another thread may be inside: it gets nothing any more that is about to be others'
                self._consumer._fetcher.close()
            try:
                self.save(self._store.sync_interval)
                synced = True
            except (OSError, FencedMemberError) as error:
                _log.error("group %r: saving offsets failed: %s", self.options.name, error)

            def edit(state: State) -> bool:
                if member not in state.members:
                    return False
                self._shared.harvest(state, member)
                del state.members[member]
                share_out(state, self._store.path)
                return True

            with suppress(Gone):
                self._shared.change(edit)
            has_left = True
        finally:
            get_watcher().remove(self)
            if not closing:
                self._consumer._fetcher.attend(None)
                self._drop_readers(list(self._keys))
            self._keys.clear()
            self._slots.clear()
            if has_left:
                self._drop_page()
            else:  # dead to the others, who take what is marked there
                self.abandon()
            self._directory.close()
        if not synced:  # once more, by the way of the state; now it is an error
            with suppress(Gone):
                self._shared.save()

    def abandon(self) -> None:
        """The consumer is gone without having been closed: the others take over."""
        page, self._page = self._page, None
        if page is not None:
            page.let_go()
            self._shared.control.notify()

    # ---- what the watcher asks --------------------------------------------------------------------

    def interval_ns(self) -> int:
        """While records are consumed: how often to save offsets, and to look for who is silent."""
        return min(round(self._store.sync_interval * 1e9), self._look_ns)

    def wanted_processes(self) -> frozenset[int]:
        """Processes of the other members."""
        return self._others

    def wanted_directory(self) -> int | None:
        """Tells of new topics, where we want to know."""
        return self._directory.descriptor if self._pattern is not None else None

    def look_again(self) -> None:
        """Somebody has died, or a topic has come."""
        if self._page is not None:
            self._shared.control.notify()

    def tick(self) -> bool:
        """Save offsets if it is time to; False when nothing has moved since the last time."""
        page = self._page
        if page is None or self._store._handle.closed:
            return False
        page.want_later()  # at the next ask it looks at the others, and has us ticked again
        return self._saver.tick(self._shared, page, list(self._slots.values()), self._store.sync_interval)

    def at_exit(self) -> None:
        """The interpreter ends with the consumer open."""
        if not self._store._handle.forked and not self._store._handle.closed:
            self.leave(clean=False, callbacks=False, closing=True)
