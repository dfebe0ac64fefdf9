# cython: language_level=3, binding=False
"""Segments checked from end to end without the GIL, and who has a store open. For `pystream.verification`."""
import os

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

from pystream._native.c_api cimport (
    PS_EPOCH_ENTRY_BYTES, PS_INDEX_ENTRY_BYTES, PS_INDEX_HEADER_BYTES,
    PS_OK, PS_SOUND, PS_WALK_DAMAGE, PS_WALK_END, PS_WALK_FRAME,
    PS_WALK_HEADER, PS_WALK_NEED, PS_WALK_SEAL, ps_env, ps_error, ps_frame_next_offset, ps_status,
    ps_walk, ps_walk_event, ps_walk_next,
)
from pystream._native.errors cimport raise_error
from pystream._native.walks cimport FileWalk


cdef extern from "ps_log.h" nogil:
    ctypedef enum ps_presence:
        PS_PRESENCE_NOBODY
        PS_PRESENCE_WRITERS
        PS_PRESENCE_CHANGING
    ps_status ps_live_look(const ps_env *env, int fd, uint64_t *incarnation, ps_presence *presence, ps_error *err)


cdef ps_env plain
memset(&plain, 0, sizeof(plain))

cdef tuple VERDICTS = ("unchecked", "sound", "damaged", "newer")
cdef tuple REASONS = ("no frame", "cut off", "gap", "overlap")
cdef tuple RESTS = ("nothing", "zeros", "bytes", "unseen")


cdef object known(int64_t number):
    return None if number < 0 else number


cdef class SegmentCheck(FileWalk):
    """A pass over one segment file in which sound batches are only counted.

    base_offset: what the name says. end_offset: None, or where published records end. salt: None, or what to go by
    when the header is damaged.
    """
    cdef uint64_t frames, records
    cdef int64_t durable

    def __cinit__(self, *args, **kwargs):
        self.durable = -1

    @property
    def position(self):
        """Up to which byte it has come."""
        return self.walk.to

    @property
    def next_offset(self):
        """The offset expected there."""
        return self.walk.next_offset

    def next(self, uint64_t bytes_max):
        """What comes next that is no sound batch, as (kind, values...); ("more",) after about bytes_max bytes of
        sound ones; None after "end".

        "header": state, file bytes, base offset, topic uuid, partition, epoch. "frame": header, body, columns,
        first offset, next offset, durable offset. "damage": reason, first offset missing, first that is not. "seal": state. "end":
        what stands behind it, file bytes. Where it is: `span`."""
        cdef ps_error err
        cdef ps_walk_event event = PS_WALK_END
        cdef ps_status status = PS_OK
        cdef uint64_t begun = self.walk.to
        cdef bint passed
        if self.ended:
            return None
        while True:
            passed = False
            with nogil:
                while True:
                    status = ps_walk_next(&self.walk, &event, &err)
                    if status != PS_OK or event != PS_WALK_FRAME or self.walk.frame != PS_SOUND:
                        break
                    if self.walk.body != PS_SOUND or self.walk.columns != PS_SOUND:
                        break
                    self.frames += 1
                    self.records += self.walk.meta.record_count
                    if self.walk.meta.durable_offset > self.durable:
                        self.durable = self.walk.meta.durable_offset
                    if self.walk.to - begun >= bytes_max:
                        passed = True
                        break
            if status != PS_OK:
                raise OSError(err.os_errno, os.strerror(err.os_errno))
            if passed:
                return ("more",)
            if event != PS_WALK_NEED:
                return self.event(event)
            self.grow(self.walk.need_buffer, self.walk.need_scratch)

    cdef tuple event(self, ps_walk_event event):
        cdef ps_walk *w = &self.walk
        if event == PS_WALK_HEADER:
            if w.header != PS_SOUND:
                return ("header", VERDICTS[<int>w.header], w.size, None, None, None, None)
            return ("header", "sound", w.size, w.info.base_offset, w.info.topic_uuid[:16], w.info.partition,
                    w.info.leader_epoch)
        if event == PS_WALK_FRAME:
            return ("frame", VERDICTS[<int>w.frame], VERDICTS[<int>w.body], VERDICTS[<int>w.columns],
                    w.meta.base_offset, ps_frame_next_offset(&w.meta), w.meta.durable_offset)
        if event == PS_WALK_DAMAGE:
            return ("damage", REASONS[w.reason], known(w.missing), known(w.found))
        if event == PS_WALK_SEAL:
            return ("seal", VERDICTS[<int>w.sealed])
        self.ended = True
        return ("end", RESTS[w.rest], w.size)

    @property
    def span(self):
        """Where the last event is: first byte, and the one behind it."""
        return self.walk.position, self.walk.to

    def counted(self):
        """(batches, records, highest durable offset that they knew, -1: none) of the sound batches passed since
        it was last asked."""
        found = self.frames, self.records, self.durable
        self.frames = self.records = 0
        self.durable = -1
        return found


def look(int live_fd):
    """Who has the store open whose `live` file this descriptor is of: (incarnation, 0: none is to be read there;
    "nobody", "writers", or "changing" while one comes)."""
    cdef ps_error err
    cdef uint64_t incarnation
    cdef ps_presence presence
    if ps_live_look(&plain, live_fd, &incarnation, &presence, &err) != PS_OK:
        raise_error(&err)
    words = {<int>PS_PRESENCE_NOBODY: "nobody", <int>PS_PRESENCE_WRITERS: "writers"}
    return incarnation, words.get(<int>presence, "changing")


EPOCH_ENTRY_BYTES = PS_EPOCH_ENTRY_BYTES
INDEX_HEADER_BYTES = PS_INDEX_HEADER_BYTES
INDEX_ENTRY_BYTES = PS_INDEX_ENTRY_BYTES
