# cython: language_level=3, binding=False
"""What all who walk over segment files have in common."""
import os

from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from pystream._native.c_api cimport PS_WALK_BUFFER_BYTES_MIN, ps_env, ps_walk_begin

cdef ps_env plain
memset(&plain, 0, sizeof(plain))


cdef class FileWalk:
    """Opens the segment file at `path`.

    base_offset: what the name says. end_offset: None, or where published records end. salt: None, or what to go by
    when the header is damaged. bodies: check bodies and columns.
    """

    def __cinit__(self, str path not None, int64_t base_offset, end_offset=None, salt=None, bint bodies=True):
        memset(&self.walk, 0, sizeof(self.walk))
        self.walk.env = &plain
        self.walk.fd = -1
        self.walk.base_offset = base_offset
        self.walk.end_offset = INT64_MAX if end_offset is None else end_offset
        self.walk.salt = 0 if salt is None else salt
        self.walk.bodies = bodies
        self.grow(PS_WALK_BUFFER_BYTES_MIN, 0)
        self.walk.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        ps_walk_begin(&self.walk)

    def __dealloc__(self):
        self.close()
        free(self.walk.buffer)
        free(self.walk.scratch)

    def close(self):
        """Close the file. Twice is once."""
        if self.walk.fd >= 0:
            os.close(self.walk.fd)
        self.walk.fd = -1
        self.ended = True

    cdef int grow(self, uint64_t buffer_bytes, uint64_t scratch_bytes) except -1:
        cdef uint8_t *p
        if buffer_bytes > self.walk.buffer_bytes:
            p = <uint8_t *>realloc(self.walk.buffer, buffer_bytes)
            if p == NULL:
                raise MemoryError()
            self.walk.buffer = p
            self.walk.buffer_bytes = buffer_bytes
        if scratch_bytes > self.walk.scratch_bytes:
            p = <uint8_t *>realloc(self.walk.scratch, scratch_bytes)
            if p == NULL:
                raise MemoryError()
            self.walk.scratch = p
            self.walk.scratch_bytes = scratch_bytes
        return 0
