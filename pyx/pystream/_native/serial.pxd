from libc.stdint cimport int64_t, uint8_t

from pystream._native.schema cimport Schema
from pystream._native.source cimport Source


cdef class Coder:
    """How values, or keys, become bytes and come back from them. Immutable."""
    cdef readonly str name
    cdef readonly object serialize    # callable(object) -> bytes-like; None: bytes go in as they are
    cdef readonly object deserialize  # callable(bytes) -> object; None: bytes come out as they are
    cdef readonly bint is_text        # str and UTF-8: done here, without calling either


cdef class CodedSchema(Schema):
    """A topic's schema as it is for somebody who reads or writes it through serializers."""
    cdef readonly Coder values  # or None
    cdef readonly Coder keys    # or None


# What serializes values, or keys, written under `schema`; None: nothing does.
cdef Coder encoder_of(Schema schema, bint is_key)
# Whether records read under `schema` are made by calling what is the user's own.
cdef bint calls_back(Schema schema)

# `obj` opened as the column `name`, serialized if the schema says so. Nothing has been written when it raises.
cdef Source open_source(str name, object obj, Schema schema, bint is_key)
# One value or key for a record: answers what owns the bytes, and where they lie: *size = -1 for None, -2 for
# what `coder` (None: no serializer) leaves to be looked at, because it is not a bytes object.
cdef object encode_scalar(Coder coder, object given, bint is_key, Schema schema, const uint8_t **data,
                          int64_t *size)
# The object that stored bytes stand for; SerializationError names the record.
cdef object decode(Coder coder, const char *data, Py_ssize_t size, bint is_key, str topic, int partition,
                   object offset)
