# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, binding=False
"""Records of a topic as lines, gathered into large writes."""
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from pystream._native.batch cimport Batch
from pystream._native.c_api cimport ps_binary
from pystream._native.lines cimport (
    CHUNK_BYTES, PIPE_BYTES, PS_LINES_SLACK, ps_lines_join, ps_lines_row, ps_lines_text, ps_pipe_wait_writable,
    ps_pipe_widen, ps_pipe_write, raise_errno, text_of,
)
from pystream._native.source cimport Buffer, reserve

# Waits are cut here, so that a signal that came in between is seen.
cdef int64_t SLICE_NS = 200_000_000


cdef class LineReader:
    """Writes records as lines: their values, or keys and values, as they are.

    Output is gathered and written in large pieces; `flush` writes what is left. `sink` is a file descriptor,
    or an object with write(bytes).
    """
    cdef int fd
    cdef object sink
    cdef ps_lines_text form
    cdef object owners
    cdef bint with_keys
    cdef Buffer out
    cdef size_t used
    cdef size_t room
    cdef readonly int64_t records
    cdef readonly int64_t output_bytes  # so far

    def __init__(self, sink, *, bytes delimiter=b"\n", bint keys=False, bytes separator=b"\t", bytes null_text=None,
                 size_t buffer_bytes=CHUNK_BYTES):
        """delimiter: one byte, or none. separator: after a key."""
        if len(delimiter) > 1:
            raise ValueError(f"delimiter={delimiter!r}: must be one byte, or none")
        if buffer_bytes < 1:
            raise ValueError("buffer_bytes must be positive")
        self.fd = -1
        if isinstance(sink, int):
            self.fd = sink
            ps_pipe_widen(self.fd, PIPE_BYTES)
        else:
            self.sink = sink.write
        self.owners = (separator, null_text)
        self.form.separator = text_of(separator)
        self.form.separator_bytes = len(separator)
        self.form.null_text = text_of(null_text)
        self.form.null_bytes = 0 if null_text is None else len(null_text)
        self.form.delimiter = delimiter[0] if delimiter else -1
        self.with_keys = keys
        self.room = buffer_bytes
        reserve(&self.out, buffer_bytes + PS_LINES_SLACK)

    def __dealloc__(self):
        free(self.out.data)

    def put(self, const unsigned char[::1] data not None):
        """Write bytes, among the lines."""
        if data.shape[0]:
            self.put_bytes(&data[0], data.shape[0])

    def put_batch(self, Batch batch not None):
        """Write every record of a batch as a line."""
        cdef const ps_binary *keys = NULL
        cdef ps_binary no_keys
        cdef uint32_t at = batch.start, end = batch.start + batch.count, rows
        cdef size_t bytes
        if self.with_keys:
            memset(&no_keys, 0, sizeof(no_keys))
            no_keys.width = -1
            keys = &batch.columns.keys if batch.columns.has_keys else &no_keys
        while at < end:
            with nogil:
                bytes = ps_lines_join(&self.form, keys, &batch.columns.values, at, end - at, self.out.data + self.used,
                                      self.room - self.used, &rows)
            self.used += bytes
            self.output_bytes += bytes
            at += rows
            if at < end:
                if rows == 0 and self.used == 0:
                    self.put_row(keys, &batch.columns.values, at)
                    at += 1
                else:
                    self.flush()
        self.records += batch.count

    def flush(self):
        """Write what was gathered. Raises BrokenPipeError when nobody reads any more."""
        cdef size_t bytes = self.used
        if bytes == 0:
            return
        self.used = 0  # a failure or a signal loses it: what part of it was written would be unknown to others
        self.write_out(self.out.data, bytes)

    cdef int put_row(self, const ps_binary *keys, const ps_binary *values, uint32_t row) except -1:
        """One record that is larger than the buffer."""
        cdef size_t bytes
        cdef const uint8_t *data
        cdef uint8_t delimiter = <uint8_t>self.form.delimiter
        if keys != NULL:
            data = ps_lines_row(keys, row, &bytes)
            if data != NULL or self.form.null_text != NULL:
                self.put_slot(data, bytes)
                self.put_bytes(self.form.separator, self.form.separator_bytes)
        data = ps_lines_row(values, row, &bytes)
        self.put_slot(data, bytes)
        if self.form.delimiter >= 0:
            self.put_bytes(&delimiter, 1)
        return 0

    cdef int put_slot(self, const uint8_t *data, size_t bytes) except -1:
        if data == NULL:
            return self.put_bytes(self.form.null_text, self.form.null_bytes)
        return self.put_bytes(data, bytes)

    cdef int put_bytes(self, const uint8_t *data, size_t bytes) except -1:
        if bytes == 0:
            return 0
        self.output_bytes += bytes
        if bytes > self.room - self.used:
            self.flush()
            if bytes >= self.room:
                return self.write_out(data, bytes)
        memcpy(self.out.data + self.used, data, bytes)
        self.used += bytes
        return 0

    cdef int write_out(self, const uint8_t *data, size_t bytes) except -1:
        cdef int64_t wrote
        if self.fd < 0:
            self.sink((<const char *>data)[:bytes])
            return 0
        while bytes:
            with nogil:
                wrote = ps_pipe_write(self.fd, data, bytes)
                if wrote == -EAGAIN:
                    ps_pipe_wait_writable(self.fd, SLICE_NS)
            if wrote >= 0:
                data += wrote
                bytes -= wrote
            elif wrote != -EAGAIN and wrote != -EINTR:
                raise_errno(wrote, "output")
            PyErr_CheckSignals()
        return 0
