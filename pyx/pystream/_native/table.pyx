# cython: language_level=3, boundscheck=False, wraparound=False, binding=False
"""The last record of each key, as batches bring them: what `pystream.latest` stands on."""
cimport cython
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

from pystream._native.batch cimport Batch
from pystream._native.c_api cimport PS_TIMESTAMP_NONE, ps_binary, ps_bit
from pystream._native.schema cimport Schema
from pystream._native.serial cimport CodedSchema, Coder, decode, encode_scalar
from pystream._native.source cimport refuse_scalar


@cython.final
@cython.no_gc
cdef class Entry:
    """Where a key was seen last, and with which value, as stored."""
    cdef readonly bytes value
    cdef readonly int64_t offset
    cdef int64_t timestamp_ns
    cdef readonly int32_t partition

    @property
    def timestamp(self):
        """Nanoseconds since 1970, or None."""
        return None if self.timestamp_ns == PS_TIMESTAMP_NONE else self.timestamp_ns


cdef inline bytes cell(const ps_binary *column, uint32_t row):
    cdef int32_t begin
    if column.offsets == NULL:
        return (<const char *>column.data + <Py_ssize_t>row * column.width)[:column.width]
    begin = column.offsets[row]
    return (<const char *>column.data + begin)[:column.offsets[row + 1] - begin]


@cython.final
cdef class Table:
    """Table(schema) - keys and values are taken and given as the schema says; inside they are bytes. Not locked."""
    cdef Schema schema
    cdef Coder keys, values  # or None
    cdef readonly dict entries  # key as stored -> Entry

    def __init__(self, Schema schema not None):
        self.schema = schema
        self.entries = {}
        if isinstance(schema, CodedSchema):
            self.keys = (<CodedSchema>schema).keys
            self.values = (<CodedSchema>schema).values

    def apply(self, Batch batch not None):
        """Take a batch in. Of one partition they come in order; between partitions, the later timestamp counts."""
        cdef const ps_binary *keys = &batch.columns.keys
        cdef const ps_binary *values = &batch.columns.values
        cdef dict entries = self.entries
        cdef Entry entry, there
        cdef uint32_t i, row
        cdef int64_t timestamp
        if not batch.columns.has_keys:
            return
        for i in range(batch.count):
            row = batch.start + i
            if keys.validity != NULL and not ps_bit(keys.validity, row):
                continue
            key = cell(keys, row)
            timestamp = batch.timestamp_at(i)
            there = entries.get(key)
            if there is not None and there.partition != batch.partition and there.timestamp_ns > timestamp:
                continue
            if values.validity != NULL and not ps_bit(values.validity, row):
                if there is not None:
                    del entries[key]
                continue
            entry = Entry.__new__(Entry)
            entry.value = cell(values, row)
            entry.offset = batch.offset_at(i)
            entry.timestamp_ns = timestamp
            entry.partition = batch.partition
            entries[key] = entry

    def forget(self, int partition):
        """Drop all that came from one partition."""
        cdef Entry entry
        self.entries = {key: entry for key, entry in self.entries.items() if entry.partition != partition}

    def stored(self, key):
        """A key as it is stored; None for None, which no record of the table has."""
        cdef const uint8_t *data
        cdef int64_t size
        owner = encode_scalar(self.keys, key, True, self.schema, &data, &size)
        if size == -1:
            return None
        if size >= 0:
            return owner if type(owner) is bytes else (<const char *>data)[:size]
        if isinstance(owner, (bytes, bytearray, memoryview)):
            return bytes(owner)
        raise refuse_scalar(owner, "key")

    def key(self, bytes stored not None, Entry entry not None):
        """The key that these bytes stand for."""
        if self.keys is None:
            return stored
        return decode(self.keys, stored, len(stored), True, self.schema.topic, entry.partition, entry.offset)

    def value(self, Entry entry not None):
        """The value of an entry."""
        if self.values is None:
            return entry.value
        return decode(self.values, entry.value, len(entry.value), False, self.schema.topic, entry.partition,
                      entry.offset)
