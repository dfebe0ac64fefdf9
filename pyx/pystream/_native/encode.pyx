# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, binding=False
"""What append and send_many were given, as the columns of a batch: each byte is copied at most once, and
no Python object is made for a record that came without one."""
from cpython.object cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

import numpy as np

from pystream._native.c_api cimport (
    PS_CODEC_NONE, PS_HEADER_KEY_BYTES_MAX, PS_HEADERS_PER_RECORD_MAX, ps_binary, ps_os_now_ns,
)
from pystream._native.serial cimport open_source
from pystream._native.source cimport (
    array_data,
    COLUMN_BYTES_MAX, PREFETCH, Buffer, Source, View, kind_of, prefetch_item, refuse_scalar, release_view,
    reserve, scalar_bytes, set_bit, size_of,
)
from pystream._native.write_api cimport ps_header

from pystream._native.errors import BatchTooLargeError, KeyRequiredError, RecordTooLargeError

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    Py_ssize_t PyBytes_GET_SIZE(PyObject *item)
    char *PyBytes_AS_STRING(PyObject *item)

cdef extern from "ps_builder.h" nogil:
    enum:
        PS_BUILDER_FIXED_BYTES

_probe = np.empty(1, np.uint8)
if <size_t>array_data(_probe) != _probe.__array_interface__["data"][0]:
    raise ImportError(f"NumPy {np.__version__} lays out its arrays in a way this build of pystream does not know")
del _probe

# Ints below it, as nanoseconds, lie within four months of 1970: they are seconds, ms or us.
cdef int64_t INT_TIME_MIN = 10**16


cdef int64_t timestamp_ns(object value, object parse_time) except? -1:
    cdef int64_t ns
    if type(value) is not int:
        if parse_time is not None:
            return parse_time(value)
        raise TypeError(f"timestamp must be int nanoseconds, not {kind_of(value)}")
    ns = value
    if ns < INT_TIME_MIN:
        if parse_time is not None:
            return parse_time(value)
        raise ValueError(f"timestamp {ns} is too small for nanoseconds since 1970: is it in seconds, ms or us?")
    return ns


# ---- headers ----------------------------------------------------------------------------------------

cdef object header_items(object headers, str place):
    """The pairs of one record's headers; each key and value checked."""
    cdef Py_ssize_t key_bytes
    if isinstance(headers, dict):
        headers = tuple(headers.items())
    elif not isinstance(headers, (list, tuple)):
        raise TypeError(f"{place} must be None, a dict, or a list of (str, bytes or None), not {kind_of(headers)}")
    if len(headers) > PS_HEADERS_PER_RECORD_MAX:
        raise RecordTooLargeError(f"{place} has {len(headers)} headers: at most {PS_HEADERS_PER_RECORD_MAX} are "
                                  "allowed")
    for i, pair in enumerate(headers):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise TypeError(f"{place}[{i}] must be a pair (str, bytes or None)")
        key, value = pair
        if not isinstance(key, str):
            raise TypeError(f"the key of {place}[{i}] must be a str, not {kind_of(key)}")
        PyUnicode_AsUTF8AndSize(key, &key_bytes)
        if key_bytes > PS_HEADER_KEY_BYTES_MAX:
            raise RecordTooLargeError(f"the key of {place}[{i}] has {key_bytes} bytes: at most "
                                      f"{PS_HEADER_KEY_BYTES_MAX} are allowed")
        if value is not None and not isinstance(value, (bytes, bytearray, memoryview)):
            raise refuse_scalar(value, f"the value of {place}[{i}]")
    return headers


cdef class Headers:

    def __dealloc__(self):
        free(self.items)

    cdef int open(self, object headers) except -1:
        cdef Py_ssize_t size, i = 0
        pairs = header_items(headers, "headers")
        self.owners = []
        self.count = len(pairs)
        self.items = <ps_header *>calloc(self.count + 1, sizeof(ps_header))
        if self.items == NULL:
            raise MemoryError()
        for key, value in pairs:
            self.items[i].key = PyUnicode_AsUTF8AndSize(key, &size)
            self.items[i].key_bytes = <uint32_t>size
            self.items[i].value_bytes = -1
            self.owners.append(key)
            if value is not None:
                value = bytes(value)
                if len(value) > 0x7fffffff:
                    raise RecordTooLargeError(f"the value of headers[{i}] has {len(value)} bytes")
                self.owners.append(value)
                self.items[i].value = PyBytes_AS_STRING(<PyObject *>value)
                self.items[i].value_bytes = <int32_t>PyBytes_GET_SIZE(<PyObject *>value)
            i += 1
        return 0


cdef int append_bytes(Buffer *buffer, size_t *used, const void *data, size_t bytes) except -1:
    if used[0] + bytes > <size_t>COLUMN_BYTES_MAX:
        raise RecordTooLargeError(f"headers have more than {COLUMN_BYTES_MAX} bytes for one batch")
    reserve(buffer, used[0] + bytes + 1)
    memcpy(buffer.data + used[0], data, bytes)
    used[0] += bytes
    return 0


cdef int append_offset(Buffer *buffer, Py_ssize_t row, size_t offset) except -1:
    reserve(buffer, (row + 1) * sizeof(int32_t))
    (<int32_t *>buffer.data)[row] = <int32_t>offset
    return 0


cdef object key_required(str topic, str record, object index):
    error = KeyRequiredError(
        f"{record} has no key: topic {topic!r} is compacted, so of each key the last record stays, and one without would "
        'stay for ever; give key=, or alter the topic to cleanup="delete"', topic=topic)
    error.index = index
    return error


# ---- a whole call -----------------------------------------------------------------------------------

cdef class Input:

    def __dealloc__(self):
        free(self.header_bytes)
        free(self.order_times.data)
        free(self.header_lists.data)
        free(self.header_key_offsets.data)
        free(self.header_keys.data)
        free(self.header_value_offsets.data)
        free(self.header_values.data)
        free(self.header_validity.data)

    cdef int open(self, Schema schema, object values, object keys, object headers, object timestamps,
                  object parse_time) except -1:
        self.schema = schema
        self.values = open_source("values", values, schema, False)
        self.count = self.values.count
        if self.count > 0xffffffff:
            raise ValueError(f"{self.count} values are more than one call takes: give at most 2**32 - 1")
        if keys is not None:
            self.keys = open_source("keys", keys, schema, True)
            if self.keys.count != self.count:
                raise ValueError(f"{self.keys.count} keys for {self.count} values")
        if headers is not None:
            self.open_headers(headers)
        self.open_timestamps(timestamps, parse_time)
        return 0

    cdef int open_headers(self, object headers) except -1:
        cdef Py_ssize_t i, key_bytes
        cdef uint64_t total
        if not isinstance(headers, (list, tuple)):
            raise TypeError(f"headers must be None or a list with one item a record, not {kind_of(headers)}")
        if len(headers) != self.count:
            raise ValueError(f"{len(headers)} headers for {self.count} values")
        self.header_bytes = <uint32_t *>calloc(self.count + 1, sizeof(uint32_t))
        if self.header_bytes == NULL:
            raise MemoryError()
        checked = []
        for i in range(self.count):
            if headers[i] is None:
                checked.append(())
                continue
            items = header_items(headers[i], f"headers[{i}]")
            total = 0
            for key, value in items:
                PyUnicode_AsUTF8AndSize(key, &key_bytes)
                total += 9 + key_bytes
                if value is not None:
                    total += memoryview(value).nbytes
            self.header_bytes[i] = <uint32_t>min(total, <uint64_t>0xffffffff)
            checked.append(items)
        self.headers = checked
        return 0

    cdef int open_timestamps(self, object timestamps, object parse_time) except -1:
        cdef int64_t[::1] view
        cdef Py_ssize_t i
        cdef int64_t now
        if timestamps is None:
            return 0
        if self.schema.log_append_time:
            raise ValueError('timestamps= cannot be given: the topic stamps records itself (timestamp_type="append")')
        if isinstance(timestamps, (list, tuple)):
            array = np.empty(len(timestamps), np.int64)
            view = array
            now = ps_os_now_ns()
            for i, item in enumerate(timestamps):
                view[i] = now if item is None else timestamp_ns(item, parse_time)
        elif isinstance(timestamps, np.ndarray) and timestamps.ndim == 1:
            if timestamps.dtype.kind == "M":
                timestamps = timestamps.astype("M8[ns]", copy=False).view(np.int64)
            if timestamps.dtype != np.int64:
                raise TypeError(f"timestamps is an array of {timestamps.dtype}: give int64 nanoseconds or datetime64")
            array = np.ascontiguousarray(timestamps)
        else:
            self.stamp = timestamps if type(timestamps) is int else timestamp_ns(timestamps, parse_time)
            self.has_stamp = True
            return 0
        if array.shape[0] != self.count:
            raise ValueError(f"{array.shape[0]} timestamps for {self.count} values")
        self.timestamps_owner = array
        self.timestamps = <const int64_t *>array_data(array)
        return 0

    cdef int64_t cost(self, Py_ssize_t i) except -1:
        cdef int64_t size = size_of(self.values, i)
        cdef int64_t total = 8 + (size if size > 0 else 0)
        if self.schema.value_width > 0 and size < 0:
            total += self.schema.value_width
        elif self.schema.value_width < 0:
            total += 5
        if self.keys is not None:
            size = size_of(self.keys, i)
            total += 5 + (size if size > 0 else 0)
            if size < 0 and self.schema.key_width > 0:
                total += self.schema.key_width
        if self.header_bytes != NULL:
            total += 4 + self.header_bytes[i]
        return total

    cdef int check_keys(self) except -1:
        cdef Py_ssize_t i
        for i in range(self.count):
            if self.keys is None or size_of(self.keys, i) < 0:
                raise key_required(self.schema.topic, f"record {i}" if self.count > 1 else "the record", i)
        return 0

    cdef int check_records(self, uint32_t frame_bytes_max) except -1:
        cdef Py_ssize_t i
        cdef int64_t most = self.values.bytes_max + PS_BUILDER_FIXED_BYTES + 32
        if self.keys is not None:
            most += self.keys.bytes_max
        if most <= frame_bytes_max and self.header_bytes == NULL:
            return 0
        for i in range(self.count):
            most = self.cost(i) + PS_BUILDER_FIXED_BYTES
            if most > frame_bytes_max:
                raise RecordTooLargeError(
                    f"record {i} takes {most} bytes with its bookkeeping: a batch of this topic holds at most "
                    f"{frame_bytes_max}; alter the topic: a larger segment_bytes= or max_message_bytes=",
                    topic=self.schema.topic)
        return 0

    cdef int check_batch(self, uint32_t codec, uint32_t frame_bytes_max) except -1:
        cdef int64_t total = self.values.bytes_total
        cdef int64_t limit = frame_bytes_max if codec == PS_CODEC_NONE else COLUMN_BYTES_MAX
        if self.keys is not None:
            total += self.keys.bytes_total
        if total > limit:
            raise BatchTooLargeError(
                f"one batch of {self.count} records takes more than {total} bytes: this topic takes {frame_bytes_max}; "
                "append less at a time, use a producer's send_many, or alter the topic: a larger segment_bytes= or "
                "max_message_bytes=", topic=self.schema.topic)
        return 0

    cdef Py_ssize_t cut(self, Py_ssize_t start, Py_ssize_t stop, const uint32_t *order, int64_t bytes_max,
                        Py_ssize_t records_max) except -1:
        cdef Py_ssize_t i
        cdef int64_t total = PS_BUILDER_FIXED_BYTES
        cdef int64_t each
        if stop - start > records_max:
            stop = start + records_max
        if self.keys is None and self.header_bytes == NULL and self.schema.value_width >= 0:
            each = self.schema.value_width + 9
            return min(stop, start + max(<int64_t>1, (bytes_max - total) // each))
        if order == NULL and self.keys is None and self.header_bytes == NULL:  # the common case, in a short loop
            if self.values.bytes_total == self.values.bytes_max * <int64_t>self.count:  # all of one length
                each = self.values.bytes_max + 13
                return min(stop, start + max(<int64_t>1, (bytes_max - total) // each))
            for i in range(start, stop):
                prefetch_item(self.values, i + PREFETCH)
                total += size_of(self.values, i) + 13
                if total > bytes_max and i > start:
                    return i
            return stop
        for i in range(start, stop):
            total += self.cost(order[i] if order != NULL else i)
            if total > bytes_max and i > start:
                return i
        return stop

    cdef int take(self, Py_ssize_t start, Py_ssize_t count, const uint32_t *order, ps_columns *out) except -1:
        cdef Py_ssize_t i, nulls
        cdef int64_t *times
        memset(out, 0, sizeof(ps_columns))
        out.count = <uint32_t>count
        self.values.take(start, count, order, &out.values, &nulls)
        out.keys.width = self.schema.key_width
        if self.keys is not None:
            self.keys.take(start, count, order, &out.keys, &nulls)
            out.has_keys = nulls < count
            if not out.has_keys:
                memset(&out.keys, 0, sizeof(ps_binary))
                out.keys.width = self.schema.key_width
        if self.timestamps == NULL:
            out.first_timestamp = self.stamp if self.has_stamp else ps_os_now_ns()
        elif order == NULL:
            out.timestamps = self.timestamps + start
        else:
            reserve(&self.order_times, count * sizeof(int64_t))
            times = <int64_t *>self.order_times.data
            for i in range(count):
                times[i] = self.timestamps[order[start + i]]
            out.timestamps = times
        if out.timestamps != NULL and count > 0:
            out.first_timestamp = out.timestamps[0]
        out.header_keys.width = out.header_values.width = -1
        if self.headers is not None:
            self.take_headers(start, count, order, out)
        return 0

    cdef int take_headers(self, Py_ssize_t start, Py_ssize_t count, const uint32_t *order,
                          ps_columns *out) except -1:
        cdef Py_ssize_t i, size, row = 0, nulls = 0
        cdef size_t key_used = 0, value_used = 0
        cdef View view
        cdef const char *text
        cdef const uint8_t *data
        cdef int64_t value_bytes
        append_offset(&self.header_lists, 0, 0)
        append_offset(&self.header_key_offsets, 0, 0)
        append_offset(&self.header_value_offsets, 0, 0)
        reserve(&self.header_keys, 1)
        reserve(&self.header_values, 1)
        for i in range(count):
            for key, value in self.headers[order[start + i] if order != NULL else start + i]:
                text = PyUnicode_AsUTF8AndSize(key, &size)
                append_bytes(&self.header_keys, &key_used, text, size)
                value_bytes = scalar_bytes(value, "a header's value", &view, &data)
                try:
                    reserve(&self.header_validity, row // 8 + 1)
                    if row % 8 == 0:
                        self.header_validity.data[row // 8] = 0
                    if value_bytes < 0:
                        nulls += 1
                    else:
                        append_bytes(&self.header_values, &value_used, data, <size_t>value_bytes)
                        set_bit(self.header_validity.data, row)
                finally:
                    if view.obj != NULL:
                        release_view(&view)
                row += 1
                append_offset(&self.header_key_offsets, row, key_used)
                append_offset(&self.header_value_offsets, row, value_used)
            append_offset(&self.header_lists, i + 1, row)
        if row == 0:
            return 0
        out.has_headers = True
        out.header_count = <uint32_t>row
        out.header_lists = <const int32_t *>self.header_lists.data
        out.header_keys.offsets = <const int32_t *>self.header_key_offsets.data
        out.header_keys.data = self.header_keys.data
        out.header_keys.bytes = <uint32_t>key_used
        out.header_values.offsets = <const int32_t *>self.header_value_offsets.data
        out.header_values.data = self.header_values.data
        out.header_values.bytes = <uint32_t>value_used
        out.header_values.validity = self.header_validity.data if nulls else NULL
        return 0
