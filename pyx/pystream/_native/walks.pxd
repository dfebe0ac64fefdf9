from libc.stdint cimport uint64_t

from pystream._native.c_api cimport ps_walk


cdef class FileWalk:
    """A walk over one segment file, and the file."""
    cdef ps_walk walk
    cdef bint ended
    # Room for the next step, which said how much it needs.
    cdef int grow(self, uint64_t buffer_bytes, uint64_t scratch_bytes) except -1
