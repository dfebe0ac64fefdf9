# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Batch and Record: what readers get."""
cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int32_t, int64_t, uint32_t

from pystream._native.arrow cimport batch_capsule, schema_capsule
from pystream._native.c_api cimport (
    PS_ATTR_CONTROL,
    PS_ATTR_TRANSACTIONAL,
    PS_CODEC_LZ4,
    PS_CODEC_NONE,
    PS_OK,
    PS_TIMESTAMP_NONE,
    ps_binary,
    ps_bit,
    ps_columns,
    ps_columns_check,
    ps_columns_find_offset,
    ps_error,
    ps_frame_codec,
    ps_frame_columns,
    ps_frame_decompress,
    ps_frame_meta,
    ps_frame_next_offset,
    ps_frame_view,
    ps_status,
)
from pystream._native.column cimport Column, lend_array, new_column
from pystream._native.errors cimport raise_error
from pystream._native.memory cimport (
    ps_lease,
    ps_lease_of_body,
    ps_lease_of_segment,
    ps_lease_ref,
    ps_lease_unref,
)
from pystream._native.schema cimport Schema
from pystream._native.serial cimport CodedSchema, Coder, decode

import numpy as np

cdef extern from "ps_status.h" nogil:
    ps_status ps_fail_corrupt(ps_error *err, const char *path, int64_t segment, int64_t position,
                              int64_t offset, const char *what)

cdef extern from "structmember.h":
    ctypedef struct PyMemberDef:
        const char *name
        int type
        Py_ssize_t offset
        int flags
        const char *doc
    int T_OBJECT_EX
    int READONLY

cdef extern from "Python.h":
    object PyDescr_NewMember(PyTypeObject *type, PyMemberDef *member)
    void PyType_Modified(PyTypeObject *type)

cdef extern from *:
    """
    #define PS_TYPE_DICT(type) (((PyTypeObject *)(type))->tp_dict)
    """
    PyObject *PS_TYPE_DICT(object type)

cdef object ndarray = np.ndarray
cdef object arange = np.arange
cdef object INT64 = np.dtype(np.int64)
cdef object TIME_NS = np.dtype("datetime64[ns]")

# A body that decompresses to less takes a few microseconds: less than giving the GIL away may cost.
cdef enum:
    GIL_KEPT_BYTES = 32768

# ---- records ----------------------------------------------------------------------------------

@cython.final
@cython.freelist(256)
@cython.no_gc
cdef class Record:
    """One record of a topic. It owns what it holds, compares by value, hashes by its place, and pickles.

    Read through serializers, key and value are what these made of the bytes. A record takes no part in
    the collection of cycles: one that is put into its own value is never freed.

    topic:     name of the topic.
    partition: number of the partition.
    offset:    place in the partition.
    timestamp: int nanoseconds since the epoch, or None.
    key:       bytes, or None; or what a serializer made of them.
    value:     bytes, or None (a tombstone); or what a serializer made of them.
    headers:   tuple of (str, bytes or None).
    """

    def __init__(self):
        raise TypeError("records are made by reading a topic")

    @property
    def timestamp(self):
        """Nanoseconds since the epoch, or None."""
        return None if self.timestamp_ns == PS_TIMESTAMP_NONE else self.timestamp_ns

    def __eq__(self, other):
        cdef Record a = self, b
        if type(other) is not Record:
            return NotImplemented
        b = other
        return (a.offset == b.offset and a.partition == b.partition and a.timestamp_ns == b.timestamp_ns
                and a.topic == b.topic and a.key == b.key and a.value == b.value and a.headers == b.headers)

    def __hash__(self):
        return hash((self.topic, self.partition, self.offset))

    def __reduce__(self):
        return _record, (self.topic, self.partition, self.offset, self.timestamp, self.key, self.value,
                         self.headers)

    def __repr__(self):
        parts = [f"topic={self.topic!r}, partition={self.partition}, offset={self.offset}, "
                 f"timestamp={self.timestamp}, key={short(self.key)}, value={short(self.value)}"]
        if self.headers:
            parts.append(f"headers={self.headers!r}")
        return f"Record({', '.join(parts)})"


cdef str short(object data):
    """repr() of a key or a value, cut where it would flood a terminal."""
    if type(data) is bytes and len(data) > 64:
        return f"{data[:48]!r}... ({len(data)} bytes)"
    text = repr(data)
    return text if len(text) <= 200 else f"{text[:160]}... ({len(text)} characters)"


def _record(str topic, int partition, int64_t offset, timestamp, key, value, tuple headers):
    """A Record from its parts: what pickle calls."""
    cdef Record record = Record.__new__(Record)
    record.topic = topic
    record.partition = partition
    record.offset = offset
    record.timestamp_ns = PS_TIMESTAMP_NONE if timestamp is None else timestamp
    record.key = key
    record.value = value
    record.headers = headers
    return record


# The interpreter reads a slot that a member descriptor names without calling anything (LOAD_ATTR_SLOT);
# Cython would make getters, which cost as much as the whole record. They stand in the type for ever, so
# the definitions must too.
cdef PyMemberDef record_members[5]


cdef int add_members() except -1:
    cdef Record probe = _record("topic", 0, 1 << 40, None, b"key", b"value", ("headers",))
    cdef PyObject **slots = <PyObject **>(<char *><PyObject *>probe + sizeof(PyObject))
    cdef PyObject *held[5]
    held[:] = [<PyObject *>probe.topic, <PyObject *>probe.offset, <PyObject *>probe.key,
               <PyObject *>probe.value, <PyObject *>probe.headers]
    cdef const char *names[5]
    names[:] = [b"topic", b"offset", b"key", b"value", b"headers"]
    cdef const char *docs[5]
    docs[:] = [b"Name of the topic.", b"Place in the partition.", b"bytes or None, unless deserialized.",
               b"bytes or None (a tombstone), unless deserialized.", b"Tuple of (str, bytes or None)."]
    cdef dict members = <dict>PS_TYPE_DICT(Record)
    cdef int i
    for i in range(5):
        # The objects are declared first, in this order, so they stand behind the object's head.
        if slots[i] != held[i]:
            raise SystemError("the fields of Record are not where they were declared")
        record_members[i].name = names[i]
        record_members[i].type = T_OBJECT_EX
        record_members[i].offset = <char *>&slots[i] - <char *><PyObject *>probe
        record_members[i].flags = READONLY
        record_members[i].doc = docs[i]
        members[names[i].decode()] = PyDescr_NewMember(<PyTypeObject *>Record, &record_members[i])
    PyType_Modified(<PyTypeObject *>Record)
    return 0


add_members()

# ---- making batches ---------------------------------------------------------------------------

cdef int fail_corrupt(ps_frame_view *view, Schema schema, int partition, const char *what) except -1:
    cdef ps_error err
    ps_fail_corrupt(&err, view.segment.path, view.segment.base_offset, <int64_t>view.position,
                    view.meta.base_offset, what)
    return raise_error(&err, schema.topic, partition)


cdef ps_status unpack(ps_frame_view *view, ps_lease *lease, ps_columns *columns) noexcept nogil:
    cdef ps_status status = ps_frame_decompress(view.frame, &view.meta, lease.body)
    if status == PS_OK:
        status = ps_frame_columns(&view.meta, lease.body, view.meta.raw_bytes, columns)
    if status == PS_OK:
        status = ps_columns_check(&view.meta, columns)
    return status


cdef Batch batch_from_view(ps_frame_view *view, Schema schema, int partition):
    cdef Batch batch = Batch.__new__(Batch)
    cdef ps_status status
    batch.schema = schema
    batch.partition = partition
    batch.meta = view.meta
    if ps_frame_codec(&view.meta) == PS_CODEC_NONE:
        batch.lease = ps_lease_of_segment(view.segment)
        if batch.lease == NULL:
            raise MemoryError()
        status = ps_frame_columns(&view.meta, view.body, view.meta.raw_bytes, &batch.columns)
    else:
        batch.lease = ps_lease_of_body(view.meta.raw_bytes)
        if batch.lease == NULL:
            raise MemoryError()
        if view.meta.raw_bytes < GIL_KEPT_BYTES:
            status = unpack(view, batch.lease, &batch.columns)
        else:
            with nogil:
                status = unpack(view, batch.lease, &batch.columns)
    if status != PS_OK:
        fail_corrupt(view, schema, partition, b"the columns of a batch do not fit its body")
    if batch.columns.count and (batch.columns.values.width != schema.value_width or
                                (batch.columns.has_keys and batch.columns.keys.width != schema.key_width)):
        fail_corrupt(view, schema, partition, b"the widths of a batch are not those of its topic")
    batch.count = view.meta.record_count
    return batch


cdef Batch batch_slice(Batch batch, uint32_t start, uint32_t stop):
    cdef Batch part = Batch.__new__(Batch)
    ps_lease_ref(batch.lease)
    part.lease = batch.lease
    part.meta = batch.meta
    part.columns = batch.columns
    part.schema = batch.schema
    part.partition = batch.partition
    part.start = batch.start + start
    part.count = stop - start
    return part


cdef void batch_trim(Batch batch, uint32_t start, uint32_t stop) noexcept:
    batch.start += start
    batch.count = stop - start


cdef uint32_t batch_find(Batch batch, int64_t offset) noexcept:
    cdef uint32_t i = ps_columns_find_offset(&batch.columns, batch.meta.base_offset, offset)
    if i <= batch.start:
        return 0
    return min(i - batch.start, batch.count)

# ---- records of a batch -----------------------------------------------------------------------

cdef inline bytes take(const ps_binary *column, uint32_t i):
    """Slot i of a binary column as bytes, or None."""
    cdef int32_t begin
    if column.validity != NULL and not ps_bit(column.validity, i):
        return None
    if column.offsets != NULL:
        begin = column.offsets[i]
        return PyBytes_FromStringAndSize(<const char *>column.data + begin, column.offsets[i + 1] - begin)
    return PyBytes_FromStringAndSize(<const char *>column.data + <Py_ssize_t>i * column.width, column.width)


cdef tuple take_headers(const ps_columns *columns, uint32_t i):
    cdef int32_t h, begin = columns.header_lists[i], end = columns.header_lists[i + 1]
    cdef const int32_t *names = columns.header_keys.offsets
    cdef tuple out = PyTuple_New(end - begin)
    cdef object pair
    for h in range(begin, end):
        name = PyUnicode_DecodeUTF8(<const char *>columns.header_keys.data + names[h],
                                    names[h + 1] - names[h], "surrogateescape")
        pair = (name, take(&columns.header_values, <uint32_t>h))
        Py_INCREF(pair)
        PyTuple_SET_ITEM(out, h - begin, pair)
    return out


cdef object take_coded(Coder coder, const ps_binary *column, uint32_t i, bint is_key, Record record):
    cdef int32_t begin
    if coder is None or coder.deserialize is None:
        return take(column, i)
    if column.validity != NULL and not ps_bit(column.validity, i):
        return None
    if column.offsets == NULL:
        return decode(coder, <const char *>column.data + <Py_ssize_t>i * column.width, column.width, is_key,
                      record.topic, record.partition, record.offset)
    begin = column.offsets[i]
    return decode(coder, <const char *>column.data + begin, column.offsets[i + 1] - begin, is_key, record.topic,
                  record.partition, record.offset)


cdef int take_decoded(Record record, Batch batch, uint32_t at) except -1:
    """Key and value of a record through the serializers of whoever reads."""
    cdef Batch held = batch  # what they call may make the caller let go of it
    cdef CodedSchema schema = <CodedSchema>held.schema
    if held.columns.has_keys:
        record.key = take_coded(schema.keys, &held.columns.keys, at, True, record)
    record.value = take_coded(schema.values, &held.columns.values, at, False, record)
    return 0


cdef Record batch_record(Batch batch, uint32_t i):
    cdef Record record = Record.__new__(Record)
    cdef const ps_columns *columns = &batch.columns
    cdef uint32_t at = batch.start + i
    record.topic = batch.schema.topic
    record.partition = batch.partition
    record.offset = batch.offset_at(i)
    record.timestamp_ns = batch.timestamp_at(i)
    if type(batch.schema) is CodedSchema:
        take_decoded(record, batch, at)
    else:
        if columns.has_keys:
            record.key = take(&columns.keys, at)
        record.value = take(&columns.values, at)
    record.headers = take_headers(columns, at) if columns.has_headers else ()
    return record


@cython.final
@cython.no_gc
cdef class RecordIterator:
    """The records of one batch."""
    cdef Batch batch
    cdef uint32_t at

    def __init__(self):
        raise TypeError("iterate over a batch: iter(batch)")

    def __iter__(self):
        return self

    def __next__(self):
        cdef Record record
        if self.at >= self.batch.count:
            raise StopIteration
        record = batch_record(self.batch, self.at)
        self.at += 1
        return record

    def __length_hint__(self):
        return self.batch.count - self.at

# ---- Batch ------------------------------------------------------------------------------------

@cython.final
@cython.freelist(64)
@cython.no_gc
cdef class Batch:
    """A batch of records as it is stored, or a slice of one: a sequence of Records.

    `values`, `keys`, Arrow exports and, where stored, `timestamps` are the batch's own memory, read-only,
    and keep it alive after the consumer and the store are closed. A compressed batch was decompressed
    once, into memory that all of them share. `batch[i]` and iteration make Records, which are copies, with
    keys and values as the serializers of whoever reads make them; columns are bytes always. `batch[a:b]` is a Batch over the same memory.
    """

    def __init__(self):
        raise TypeError("batches are made by reading a topic")

    def __dealloc__(self):
        ps_lease_unref(self.lease)

    cdef inline int64_t offset_at(self, uint32_t i) noexcept:
        i += self.start
        if self.columns.offset_deltas != NULL:
            return self.meta.base_offset + <int64_t>self.columns.offset_deltas[i]
        return self.meta.base_offset + <int64_t>i

    cdef inline int64_t timestamp_at(self, uint32_t i) noexcept:
        if self.columns.timestamps != NULL:
            return self.columns.timestamps[self.start + i]
        return self.columns.first_timestamp

    # A slice covers up to its last record, a whole batch also the offsets that no record has any more.
    cdef int64_t first_offset(self) noexcept:
        if self.start == 0:
            return self.meta.base_offset
        if self.start < self.columns.count:
            return self.offset_at(0)
        return ps_frame_next_offset(&self.meta)

    cdef int64_t end_offset(self) noexcept:
        if self.start + self.count == self.columns.count:
            return ps_frame_next_offset(&self.meta)
        return self.offset_at(self.count - 1) + 1 if self.count else self.first_offset()

    # ---- as a sequence

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        cdef Py_ssize_t i, start, stop, step
        if isinstance(index, slice):
            start, stop, step = index.indices(self.count)
            if step != 1:
                raise ValueError("a batch is sliced with step 1: its memory is lent, not copied")
            return batch_slice(self, <uint32_t>start, <uint32_t>max(start, stop))
        i = index
        if i < 0:
            i += self.count
        if not 0 <= i < self.count:
            raise IndexError(f"index {index} is out of range for a batch of {self.count} records")
        return batch_record(self, <uint32_t>i)

    def __iter__(self):
        cdef RecordIterator records = RecordIterator.__new__(RecordIterator)
        records.batch = self
        return records

    # ---- columns

    @property
    def values(self):
        """Column of the values."""
        if self.values_made is None:
            self.values_made = new_column(self.lease, &self.columns.values, False, self.schema.value_width,
                                          self.schema.dtype, self.start, self.count)
        return self.values_made

    @property
    def keys(self):
        """Column of the keys; all null where the batch stores none."""
        if self.keys_made is None:
            self.keys_made = new_column(self.lease, &self.columns.keys, not self.columns.has_keys,
                                        self.schema.key_width, None, self.start, self.count)
        return self.keys_made

    @property
    def array(self):
        """The values as a read-only array of shape (len(self),): structured in a `dtype=` topic, "V<width>"
        where `value_bytes=` was declared. TypeError where the width is variable, ValueError for nulls."""
        return self.values.to_numpy()

    @property
    def offsets(self):
        """Offsets of the records: int64, shape (len(self),), read-only; made when first asked for."""
        cdef int64_t first
        if self.offsets_made is None:
            if self.columns.offset_deltas != NULL:
                deltas = lend_array(self.lease, self.columns.offset_deltas + self.start, self.count,
                                    np.dtype(np.uint32))
                out = np.add(deltas, self.meta.base_offset, dtype=INT64)
            else:
                first = self.meta.base_offset + self.start
                out = arange(first, first + self.count, dtype=INT64)
            out.flags.writeable = False
            self.offsets_made = out[:]  # an array that owns its memory could be made writable again
        return self.offsets_made

    @property
    def timestamps(self):
        """Timestamps: datetime64[ns], shape (len(self),), read-only, NaT for none. Lent where stored; one
        value seen len(self) times where all are equal."""
        cdef int64_t equal = self.columns.first_timestamp
        if self.timestamps_made is None:
            if self.columns.timestamps != NULL:
                self.timestamps_made = lend_array(self.lease, self.columns.timestamps + self.start, self.count,
                                                  TIME_NS)
            else:
                one = PyBytes_FromStringAndSize(<const char *>&equal, sizeof(equal))
                self.timestamps_made = ndarray((self.count,), TIME_NS, one, 0, (0,))
        return self.timestamps_made

    @property
    def headers(self):
        """A list with, for each record, a tuple of (str, bytes or None)."""
        cdef list out = PyList_New(self.count)
        cdef uint32_t i
        cdef tuple item
        for i in range(self.count):
            item = take_headers(&self.columns, self.start + i) if self.columns.has_headers else ()
            Py_INCREF(item)
            PyList_SET_ITEM(out, i, item)
        return out

    # ---- place

    @property
    def topic(self):
        """Name of the topic."""
        return self.schema.topic

    @property
    def base_offset(self):
        """First offset covered: that of the first record, unless compaction removed it."""
        return self.first_offset()

    @property
    def next_offset(self):
        """First offset after the batch: where reading goes on."""
        return self.end_offset()

    # ---- what the stored batch says of itself; the same for its slices

    @property
    def leader_epoch(self):
        """Counts how often the partition's tail was cut before this batch was written."""
        return self.meta.leader_epoch

    @property
    def codec(self):
        """How the body is stored: "none" or "lz4"."""
        return "lz4" if ps_frame_codec(&self.meta) == PS_CODEC_LZ4 else "none"

    @property
    def stored_bytes(self):
        """Bytes of the whole stored body."""
        return self.meta.stored_bytes

    @property
    def raw_bytes(self):
        """Bytes of the whole body uncompressed."""
        return self.meta.raw_bytes

    @property
    def durable_offset(self):
        """The partition's durable offset as it was known when the batch was written."""
        return self.meta.durable_offset

    @property
    def transactional(self):
        """Whether the batch belongs to a transaction."""
        return (self.meta.attributes & PS_ATTR_TRANSACTIONAL) != 0

    @property
    def control(self):
        """Whether the batch holds control records."""
        return (self.meta.attributes & PS_ATTR_CONTROL) != 0

    @property
    def delete_horizon(self):
        """When its tombstones may go, in nanoseconds since the epoch; None where not set."""
        return None if self.meta.delete_horizon < 0 else self.meta.delete_horizon

    @property
    def producer_id(self):
        """Id of the idempotent producer; None where not set."""
        return None if self.meta.producer_id < 0 else self.meta.producer_id

    @property
    def producer_epoch(self):
        """Epoch of the idempotent producer; None where not set."""
        return None if self.meta.producer_epoch < 0 else self.meta.producer_epoch

    @property
    def base_sequence(self):
        """Sequence number of the first record; None where not set."""
        return None if self.meta.base_sequence < 0 else self.meta.base_sequence

    @property
    def schema_id(self):
        """Id of the values' schema; None where not set."""
        return None if self.meta.schema_id < 0 else self.meta.schema_id

    @property
    def batch_uuid(self):
        """16 bytes that name the batch; None where not set."""
        cdef bytes uuid = PyBytes_FromStringAndSize(<const char *>self.meta.batch_uuid, 16)
        return uuid if any(uuid) else None

    # ---- Arrow

    def __arrow_c_schema__(self):
        return schema_capsule(self.schema)

    def __arrow_c_array__(self, requested_schema=None):
        return (schema_capsule(self.schema),
                batch_capsule(self.schema, self.lease, &self.columns, self.meta.base_offset, self.start,
                              self.count))

    def __reduce__(self):
        raise TypeError("a Batch lends memory and cannot be pickled; pickle list(batch), or an Arrow copy")

    def __repr__(self):
        return (f"<Batch of {self.count} records, {self.schema.topic}[{self.partition}] offsets "
                f"{self.first_offset()} to {self.end_offset()}, codec {self.codec}>")
