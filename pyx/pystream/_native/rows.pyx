# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, binding=False
"""Rows of text files: where they end, their partition, rows of columns as JSON; and logs made ready to be counted."""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset

import numpy as np

from pystream._native.c_api cimport (
    PS_END, PS_INTERRUPTED, PS_OK, ps_cursor, ps_cursor_clear, ps_cursor_init, ps_cursor_next, ps_cursor_seek, ps_error,
    ps_frame_next_offset, ps_frame_view, ps_log, ps_log_high_watermark, ps_log_start_offset, ps_status,
)
from pystream._native.log cimport LogHandle

cdef extern from "ps_log.h" nogil:
    ps_status ps_log_settle(ps_log *log, ps_error *err)

cdef extern from "ps_rows.h" nogil:
    struct ps_row_rules:
        uint8_t delimiter
        int16_t quote
        bint cr_ends
    size_t ps_rows_split(const uint8_t *data, size_t bytes, const ps_row_rules *rules, bint last, int32_t *starts,
                         int32_t *ends, size_t capacity, size_t *consumed)
    void ps_rows_gather(const uint8_t *data, const int32_t *starts, const int32_t *ends, size_t count, uint8_t *out,
                        int32_t *offsets)
    struct ps_text:
        const uint8_t *validity
        int64_t bit
        const int32_t *offsets
        const uint8_t *data
    void ps_rows_partition(const ps_text *keys, size_t count, uint32_t partitions, int32_t *out)
    ctypedef enum ps_cell:
        PS_CELL_TEXT
        PS_CELL_TEXT_OR_NULL
        PS_CELL_NUMBER
        PS_CELL_FLOAT
        PS_CELL_BOOL
        PS_CELL_JSON
    struct ps_json_column:
        ps_text text
        const uint8_t *lead
        size_t lead_bytes
        ps_cell cell
    size_t ps_rows_to_json(const ps_json_column *columns, size_t column_count, size_t first, size_t count, uint8_t *out,
                           size_t capacity, size_t *used, int32_t *offsets, int32_t *bad)
    size_t ps_rows_json_bound(const ps_json_column *columns, size_t column_count, size_t row)

CELLS = {"text": PS_CELL_TEXT, "text_or_null": PS_CELL_TEXT_OR_NULL, "number": PS_CELL_NUMBER,
         "float": PS_CELL_FLOAT, "bool": PS_CELL_BOOL, "json": PS_CELL_JSON}

cdef size_t INT32_MAX = 0x7fffffff


cdef class Held:
    """Buffers held while C reads them."""
    cdef Py_buffer *views
    cdef Py_ssize_t count

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.count):
            PyBuffer_Release(&self.views[i])
        free(self.views)

    cdef const void *hold(self, object owner, Py_ssize_t bytes_min) except? NULL:
        cdef Py_buffer *grown = <Py_buffer *>realloc(self.views, (self.count + 1) * sizeof(Py_buffer))
        cdef Py_buffer *view
        if grown == NULL:
            raise MemoryError()
        self.views = grown
        view = &grown[self.count]
        PyObject_GetBuffer(owner, view, PyBUF_SIMPLE)
        self.count += 1
        if view.len < bytes_min:
            raise ValueError(f"a buffer of {view.len} bytes, where {bytes_min} are needed")
        return view.buf

    cdef int hold_text(self, object column, Py_ssize_t count, ps_text *out) except -1:
        """A column as (validity or None, offsets, data or None, first slot)."""
        cdef Py_ssize_t first, i
        cdef int64_t data_bytes
        validity, offsets, data, slot = column
        first = slot
        if first < 0:
            raise ValueError("the first slot is negative")
        memset(out, 0, sizeof(ps_text))
        out.bit = first
        if validity is not None:
            out.validity = <const uint8_t *>self.hold(validity, (first + count + 7) // 8)
        out.offsets = <const int32_t *>self.hold(offsets, (first + count + 1) * 4) + first
        for i in range(count):
            if out.offsets[i + 1] < out.offsets[i] or out.offsets[i] < 0:
                raise ValueError("the offsets of a column fall")
        data_bytes = out.offsets[count]
        out.data = <const uint8_t *>self.hold(b"" if data is None else data, data_bytes)
        return 0


def split_rows(data, Py_ssize_t start, int delimiter, int quote, bint cr_ends, bint last):
    """(starts, ends, consumed) of the rows of data[start:], as int32 arrays of positions in `data`.

    quote: a byte, or -1. cr_ends: carriage returns end rows. last: what is left over is a row.
    """
    cdef Held held = Held.__new__(Held)
    cdef const uint8_t *p = <const uint8_t *>held.hold(data, start)
    cdef size_t total = held.views[0].len, at = start, used = 0, found, count = 0, capacity
    cdef ps_row_rules rules
    cdef int32_t[::1] starts, ends
    if start < 0 or total > INT32_MAX:
        raise ValueError("rows are split in at most 2 GiB at a time")
    rules.delimiter = delimiter
    rules.quote = quote
    rules.cr_ends = cr_ends
    capacity = (total - at) // 24 + 64
    parts = []
    while True:
        starts_array, ends_array = np.empty(capacity, "i4"), np.empty(capacity, "i4")
        starts, ends = starts_array, ends_array
        with nogil:
            found = ps_rows_split(p + at, total - at, &rules, last, &starts[0], &ends[0], capacity, &used)
        starts_array, ends_array = starts_array[:found], ends_array[:found]
        starts_array += np.int32(at)
        ends_array += np.int32(at)
        parts.append((starts_array, ends_array))
        at += used
        if found < capacity:
            break
    if len(parts) == 1:
        return starts_array, ends_array, at
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts]), at


def gather(data, int32_t[::1] starts not None, int32_t[::1] ends not None):
    """(data, offsets) of the rows put end to end, as arrays of uint8 and int32."""
    cdef Held held = Held.__new__(Held)
    cdef const uint8_t *p = <const uint8_t *>held.hold(data, 0)
    cdef Py_ssize_t i, count = starts.shape[0]
    cdef int64_t size = 0
    cdef uint8_t[::1] out
    cdef int32_t[::1] offsets
    if ends.shape[0] != count:
        raise ValueError("as many ends as starts are needed")
    for i in range(count):
        if starts[i] < 0 or ends[i] < starts[i] or ends[i] > held.views[0].len:
            raise ValueError(f"row {i} does not lie in the data")
        size += ends[i] - starts[i]
    if size > <int64_t>INT32_MAX:
        raise ValueError("rows of more than 2 GiB")
    data_array, offsets_array = np.empty(max(size, 1), "u1"), np.empty(count + 1, "i4")
    out, offsets = data_array, offsets_array
    if count:
        with nogil:
            ps_rows_gather(p, &starts[0], &ends[0], count, &out[0], &offsets[0])
    else:
        offsets[0] = 0
    return data_array[:size], offsets_array


def partition_of(column, Py_ssize_t count, uint32_t partitions):
    """Kafka's partition of each key of a column (validity or None, offsets, data, first slot); -1 for null."""
    cdef Held held = Held.__new__(Held)
    cdef ps_text text
    cdef int32_t[::1] out
    if partitions < 1:
        raise ValueError("no partitions")
    held.hold_text(column, count, &text)
    array = np.empty(count, "i4")
    if count:
        out = array
        with nogil:
            ps_rows_partition(&text, count, partitions, &out[0])
    return array


def json_rows(list columns not None, Py_ssize_t count):
    """(data, offsets, bad): `count` rows of columns as JSON objects.

    columns: of (lead, cell, column): the bytes before each value, one of CELLS, and (validity or None, offsets,
    data, first slot). bad: int32, for each row the column that could not be written, or -1.
    """
    cdef Held held = Held.__new__(Held)
    cdef Py_ssize_t i, column_count = len(columns), done = 0
    cdef ps_json_column *given = <ps_json_column *>calloc(max(column_count, 1), sizeof(ps_json_column))
    cdef size_t used = 0, capacity = 0, guess = 64
    cdef uint8_t *p = NULL
    cdef uint8_t[::1] out
    cdef int32_t[::1] offsets, bad
    if given == NULL:
        raise MemoryError()
    try:
        for i in range(column_count):
            lead, cell, column = columns[i]
            given[i].lead = <const uint8_t *>held.hold(lead, 0)
            given[i].lead_bytes = len(lead)
            given[i].cell = <ps_cell><int>cell
            held.hold_text(column, count, &given[i].text)
            guess += len(lead) * count
            if count:
                guess += given[i].text.offsets[count] - given[i].text.offsets[0] + 4 * count
        array = np.empty(0, "u1")
        offsets_array, bad_array = np.empty(count + 1, "i4"), np.empty(max(count, 1), "i4")
        offsets, bad = offsets_array, bad_array
        offsets[0] = 0
        while done < count:
            capacity = max(guess, capacity + capacity // 2)
            capacity = max(capacity, used + ps_rows_json_bound(given, column_count, done))
            if capacity > INT32_MAX:
                raise ValueError("rows that make more than 2 GiB of JSON")
            grown = np.empty(capacity, "u1")
            grown[:used] = array[:used]
            array = grown
            out = array
            p = &out[0]
            with nogil:
                done += ps_rows_to_json(given, column_count, done, count - done, p, capacity, &used, &offsets[0],
                                        &bad[0])
        return array[:used], offsets_array, bad_array[:count]
    finally:
        free(given)


def settle(LogHandle log not None):
    """Finish or undo what a writer that died left half done, so that what is in the log is all that ever will be."""
    cdef ps_error err
    cdef ps_status status
    while True:
        with nogil:
            status = ps_log_settle(log.log, &err)
        if status != PS_INTERRUPTED:
            break
        PyErr_CheckSignals()
    if status != PS_OK:
        log.raise_error(&err)


def appended(LogHandle log not None, int64_t start, int64_t producer_id):
    """The batches of a producer from an offset, or the log start, up to the present end, each as (base offset, records
    it had when it was appended, first sequence number), whatever compaction has left of it. Batches of which it has
    left nothing, not even whose they were, have -1 for a sequence number.

    Raises OffsetOutOfRangeError when the log comes to start behind the place that was reached."""
    cdef ps_error err
    cdef ps_status status
    cdef ps_cursor cursor
    cdef ps_frame_view view
    cdef int64_t end, next_offset
    log.check()
    end = ps_log_high_watermark(log.log)
    ps_cursor_init(&cursor)
    try:
        status = ps_cursor_seek(log.log, &cursor, max(start, ps_log_start_offset(log.log)), &err)
        while status == PS_OK and cursor.next_offset < end:
            with nogil:
                status = ps_cursor_next(log.log, &cursor, &view, &err)
            if status != PS_OK:
                break
            next_offset = ps_frame_next_offset(&view.meta)
            if view.meta.base_sequence >= 0 and view.meta.producer_id == producer_id:
                yield view.meta.base_offset, next_offset - view.meta.base_offset, view.meta.base_sequence
            elif view.meta.record_count == 0 and view.meta.producer_id < 0:
                yield view.meta.base_offset, next_offset - view.meta.base_offset, -1
            log.check()
        if status != PS_OK and status != PS_END:
            log.raise_error(&err)
    finally:
        ps_cursor_clear(&cursor)
