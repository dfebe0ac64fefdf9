# The kernels of lines, and the ends they come from and go to. Declarations only.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stddef cimport size_t

from pystream._native.c_api cimport ps_binary


cdef extern from "ps_lines.h" nogil:
    enum:
        PS_LINES_SLACK
    ctypedef struct ps_lines_limits:
        uint64_t bytes_max
        uint32_t record_bytes
        uint32_t count_max
    ctypedef struct ps_lines_found:
        size_t taken
        uint32_t count
        bint full
    ctypedef struct ps_lines_form:
        const uint8_t *separator
        size_t separator_bytes
        const uint8_t *null_text
        size_t null_bytes
        uint8_t delimiter
        bint strip_cr
    ctypedef struct ps_lines_column:
        uint8_t *data
        int32_t *offsets
        uint8_t *validity
        uint32_t nulls
    ctypedef struct ps_lines_text:
        const uint8_t *separator
        size_t separator_bytes
        const uint8_t *null_text
        size_t null_bytes
        int delimiter
    void ps_lines_split(const uint8_t *data, size_t bytes, uint8_t delimiter, const ps_lines_limits *limits,
                        uint8_t *out, int32_t *offsets, ps_lines_found *found)
    void ps_lines_split_keyed(const uint8_t *data, size_t bytes, const ps_lines_form *form,
                              const ps_lines_limits *limits, ps_lines_column *keys, ps_lines_column *values,
                              ps_lines_found *found)
    size_t ps_lines_join(const ps_lines_text *text, const ps_binary *keys, const ps_binary *values,
                         uint32_t start, uint32_t count, uint8_t *out, size_t room, uint32_t *rows)
    const uint8_t *ps_lines_row(const ps_binary *column, uint32_t i, size_t *bytes)


cdef extern from "ps_pipe.h" nogil:
    int ps_pipe_wait_readable(int fd, int64_t timeout_ns)
    int ps_pipe_wait_writable(int fd, int64_t timeout_ns)
    int64_t ps_pipe_read(int fd, void *out, size_t bytes)
    int64_t ps_pipe_write(int fd, const void *data, size_t bytes)
    void ps_pipe_widen(int fd, int bytes)

cdef enum:
    # Read before lines are appended while there is more to read, and gathered before they are written. Larger
    # pieces cost less a line, until they no longer stay in the processor's cache.
    CHUNK_BYTES = 512 << 10
    # What pipes are made to hold: the most that is allowed to everybody.
    PIPE_BYTES = 1 << 20

# Bytes for the kernel; NULL for None. The owner keeps them.
cdef inline const uint8_t *text_of(bytes text) noexcept:
    if text is None:
        return NULL
    return <const uint8_t *><char *>text

cdef inline int raise_errno(int64_t error, str what) except -1:
    import os
    raise OSError(<int>-error, f"{os.strerror(<int>-error)}: {what}")
