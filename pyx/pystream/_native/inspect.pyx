# cython: language_level=3, binding=False
"""The bytes of a store's files as plain values, read without opening the store. `pystream.inspection` names them."""
import os

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from pystream._native.c_api cimport (
    PS_EPOCH_ENTRY_BYTES, PS_HEAD_BYTES, PS_HEAD_HELD_FLAG, PS_HEAD_SIGNAL_WAITED, PS_INDEX_ENTRY_BYTES,
    PS_INDEX_HEADER_BYTES, PS_OK, PS_SOUND, PS_TIMESTAMP_NONE, PS_UNCHECKED, PS_WALK_DAMAGE, PS_WALK_END,
    PS_WALK_FRAME, PS_WALK_HEADER, PS_WALK_NEED, PS_WALK_SEAL, c_bool, ps_bit, ps_binary, ps_columns, ps_env,
    ps_epoch_entry, ps_error, ps_frame_meta, ps_frame_next_offset, ps_head_facts, ps_index_entry, ps_index_info,
    ps_inspect_epoch, ps_inspect_head, ps_inspect_in_use, ps_inspect_index, ps_inspect_index_entry,
    ps_inspect_index_hit, ps_slot, ps_status, ps_verdict, ps_walk_event, ps_walk_next,
)
from pystream._native.walks cimport FileWalk

cdef ps_env plain
memset(&plain, 0, sizeof(plain))

cdef tuple VERDICTS = ("unchecked", "sound", "damaged", "newer")
cdef tuple REASONS = ("no frame", "cut off", "gap", "overlap")
cdef tuple RESTS = ("nothing", "zeros", "bytes", "unseen")


cdef object moment(int64_t timestamp):
    return None if timestamp == PS_TIMESTAMP_NONE else timestamp


cdef object known(int64_t number):
    return None if number < 0 else number


cdef class SegmentWalk(FileWalk):
    """The events of one segment file, in order: `next()` gives (kind, values...), "end" once and last.

    base_offset: what the name says. end_offset: None, or where published records end. salt: None, or what to go by
    when the header is damaged. bodies: check bodies and columns.
    """
    def next(self):
        """The next event, or None after the last."""
        cdef ps_error err
        cdef ps_walk_event event = PS_WALK_END
        cdef ps_status status
        if self.ended:
            return None
        while True:
            with nogil:
                status = ps_walk_next(&self.walk, &event, &err)
            if status != PS_OK:
                raise OSError(err.os_errno, os.strerror(err.os_errno))
            if event != PS_WALK_NEED:
                break
            self.grow(self.walk.need_buffer, self.walk.need_scratch)
        if event == PS_WALK_HEADER:
            return self.header()
        if event == PS_WALK_FRAME:
            return self.frame()
        if event == PS_WALK_DAMAGE:
            return ("damage", self.walk.position, self.walk.to, REASONS[self.walk.reason], known(self.walk.missing),
                    known(self.walk.found))
        if event == PS_WALK_SEAL:
            sound = self.walk.sealed == PS_SOUND
            return ("seal", self.walk.position, VERDICTS[<int>self.walk.sealed],
                    self.walk.seal.end_offset if sound else None, self.walk.seal.frames if sound else None,
                    moment(self.walk.seal.max_timestamp) if sound else None)
        self.ended = True
        return ("end", self.walk.position, self.walk.to, self.walk.size, self.walk.next_offset,
                RESTS[self.walk.rest])

    cdef tuple header(self):
        if self.walk.header != PS_SOUND:
            return ("header", VERDICTS[<int>self.walk.header], self.walk.size, *[None] * 7)
        return ("header", "sound", self.walk.size, self.walk.info.base_offset, self.walk.info.topic_uuid[:16],
                self.walk.info.partition, self.walk.info.salt, self.walk.info.leader_epoch,
                self.walk.info.capacity, self.walk.info.created_ns)

    cdef tuple frame(self):
        cdef ps_frame_meta *m = &self.walk.meta
        uuid = m.batch_uuid[:16]
        return ("frame", self.walk.position, m.frame_bytes, m.base_offset, ps_frame_next_offset(m), m.record_count,
                m.attributes, m.stored_bytes, m.raw_bytes, moment(m.first_timestamp), moment(m.max_timestamp),
                m.leader_epoch, m.durable_offset, known(m.producer_id), known(m.producer_epoch),
                known(m.base_sequence), known(m.schema_id), uuid if any(uuid) else None, known(m.value_width),
                known(m.key_width), m.key_bytes, m.value_bytes, m.header_count,
                VERDICTS[<int>self.walk.frame], VERDICTS[<int>self.walk.body], VERDICTS[<int>self.walk.columns])

    def records(self):
        """Of the frame just given: (offset, timestamp, key bytes, value bytes, headers) of each record; None where
        it is null. Empty unless its columns are sound."""
        cdef const ps_columns *c = &self.walk.view
        cdef uint32_t i
        cdef list found = []
        if self.ended or self.walk.columns != PS_SOUND:
            return found
        for i in range(c.count):
            found.append((
                self.walk.meta.base_offset + (c.offset_deltas[i] if c.offset_deltas != NULL else i),
                moment(c.timestamps[i] if c.timestamps != NULL else c.first_timestamp),
                size_at(&c.keys, i) if c.has_keys else None,
                size_at(&c.values, i),
                c.header_lists[i + 1] - c.header_lists[i] if c.has_headers else 0,
            ))
        return found


cdef object size_at(const ps_binary *column, uint32_t i):
    if not ps_bit(column.validity, i):
        return None
    return column.width if column.width >= 0 else column.offsets[i + 1] - column.offsets[i]


cdef object slot_of(const ps_slot *slot, bint sound):
    if not sound:
        return None
    return (slot.sequence, slot.log_end, slot.segment, slot.position, slot.frames, moment(slot.max_timestamp),
            slot.leader_epoch)


def read_head(bytes page not None):
    """What a copy of a head page says, as a dict; a page that is too short says what its beginning does."""
    cdef ps_head_facts f
    cdef uint64_t words[512]
    cdef uint8_t *p = <uint8_t *>words
    cdef const uint8_t *given = page
    memset(p, 0, PS_HEAD_BYTES)
    memcpy(p, given, min(len(page), <Py_ssize_t>PS_HEAD_BYTES))
    ps_inspect_head(p, &f)
    sound = f.identity == PS_SOUND
    return dict(
        state="blank" if f.identity == PS_UNCHECKED else VERDICTS[<int>f.identity],
        topic_uuid=f.who.topic_uuid[:16] if sound else None,
        partition=f.who.partition if sound else None,
        device=f.who.device if sound else None,
        inode=f.who.inode if sound else None,
        incarnation=f.incarnation,
        writing=bool(f.state & 1),
        holder=f.holder & ~PS_HEAD_HELD_FLAG,
        held=bool(f.holder & PS_HEAD_HELD_FLAG),
        poison=f.poison or None,
        deleted=bool(f.deleted),
        log_start=known(f.log_start),
        slots=(slot_of(&f.slot[0], f.slot_sound[0]), slot_of(&f.slot[1], f.slot_sound[1])),
        high_watermark=f.watermark,
        log_end=f.log_end,
        durable_offset=f.durable,
        waited_for=bool(f.signal & PS_HEAD_SIGNAL_WAITED),
    )


def read_index(bytes data not None, segment=None):
    """(state, salt, base offset, interval, capacity, entries) of an index; each entry is (number, state, offset,
    position, max timestamp, whether such a frame stands there). segment: None, or a descriptor to look with."""
    cdef ps_index_info info
    cdef ps_index_entry entry
    cdef ps_verdict verdict
    cdef c_bool hit
    cdef const uint8_t *p = data
    cdef uint64_t size = len(data)
    cdef uint64_t i
    cdef int rc
    ps_inspect_index(p, size, &info)
    if info.verdict != PS_SOUND:
        return VERDICTS[<int>info.verdict], None, None, None, None, []
    entries = []
    for i in range(min(<uint64_t>info.capacity, (size - PS_INDEX_HEADER_BYTES) // PS_INDEX_ENTRY_BYTES)):
        verdict = ps_inspect_index_entry(p, size, info.salt, i, &entry)
        if verdict == PS_UNCHECKED:
            continue
        agrees = None
        if verdict == PS_SOUND and segment is not None:
            rc = ps_inspect_index_hit(&plain, segment, info.salt, &entry, &hit)
            if rc < 0:
                raise OSError(-rc, os.strerror(-rc))
            agrees = bool(hit)
        entries.append((i, VERDICTS[<int>verdict], entry.offset, entry.position, moment(entry.max_timestamp), agrees))
    return "sound", info.salt, info.base_offset, info.interval, info.capacity, entries


def read_epochs(bytes data not None):
    """[(sound, epoch, first offset, created ns)] of an epochs file; the last one is damaged if it is not whole."""
    cdef ps_epoch_entry entry
    cdef const uint8_t *p = data
    cdef Py_ssize_t at
    cdef Py_ssize_t size = len(data)
    found = []
    for at in range(0, size, PS_EPOCH_ENTRY_BYTES):
        if at + <Py_ssize_t>PS_EPOCH_ENTRY_BYTES <= size and ps_inspect_epoch(p + at, &entry):
            found.append((True, entry.epoch, entry.first_offset, entry.created_ns))
        else:
            found.append((False, None, None, None))
    return found


def in_use(int live_fd):
    """Whether anybody has the store open whose `live` file this descriptor is of."""
    cdef int rc = ps_inspect_in_use(&plain, live_fd)
    if rc < 0:
        raise OSError(-rc, os.strerror(-rc))
    return rc == 1


HEAD_BYTES = PS_HEAD_BYTES
