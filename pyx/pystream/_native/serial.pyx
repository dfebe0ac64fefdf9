# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, binding=False
"""Serializers where they meet records: one call a value at most, and for text none and no bytes object."""
from cpython.buffer cimport PyObject_CheckBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.math cimport isfinite
from libc.string cimport memcpy

from pystream._native.source cimport (
    PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE, PySequence_Fast_GET_SIZE, PySequence_Fast_ITEMS, kind_of,
    reserve,
)

import numpy as np

from pystream._native.errors import SerializationError

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef extern from "ps_arrow.h" nogil:
    struct ArrowSchema:
        const char *format
        void (*release)(ArrowSchema *) noexcept nogil
    struct ArrowArrayStream:
        int (*get_schema)(ArrowArrayStream *, ArrowSchema *) noexcept

# Stored bytes that an error message shows.
cdef enum:
    SHOWN_BYTES = 32


cdef class Coder:
    """Coder(name, serialize=None, deserialize=None, is_text=False)

    is_text: they encode and decode UTF-8, so that this need not call them.
    """

    def __init__(self, str name not None, serialize=None, deserialize=None, bint is_text=False):
        self.name = name
        self.serialize = serialize
        self.deserialize = deserialize
        self.is_text = is_text

    def __repr__(self):
        return f"<Coder {self.name}>"


cdef class CodedSchema(Schema):
    """CodedSchema(schema, values=None, keys=None): `schema` with a Coder for values, for keys, or for both."""

    def __init__(self, Schema schema not None, Coder values=None, Coder keys=None):
        Schema.__init__(self, schema.topic, schema.value_width, schema.key_width, schema.dtype, schema.codec,
                        schema.log_append_time)
        self.values = values
        self.keys = keys


cdef Coder encoder_of(Schema schema, bint is_key):
    cdef Coder coder
    if type(schema) is not CodedSchema:
        return None
    coder = (<CodedSchema>schema).keys if is_key else (<CodedSchema>schema).values
    return coder if coder is not None and coder.serialize is not None else None


cdef bint calls_back(Schema schema):
    cdef Coder coder
    if type(schema) is not CodedSchema:
        return False
    for coder in ((<CodedSchema>schema).values, (<CodedSchema>schema).keys):
        if coder is not None and coder.deserialize is not None and not coder.is_text:
            return True
    return False


# ---- into bytes -------------------------------------------------------------------------------------

cdef object cannot_serialize(Coder coder, str place, Py_ssize_t index, Schema schema, object error):
    reason = f"{type(error).__name__}: {error}" if type(error) is not TypeError else str(error)
    failed = SerializationError(
        f"{place} cannot be serialized by {coder.name} for topic {schema.topic!r}: {reason}; nothing of this call was "
        "taken, so mend it and try again", topic=schema.topic)
    failed.index = index if index >= 0 else None
    failed.__cause__ = error
    return failed


cdef str place_of(str name, Py_ssize_t index):
    return name if index < 0 else f"{name}[{index}]"


cdef object encode_one(Coder coder, object given, str name, Py_ssize_t index, Schema schema):
    """The bytes that stand for an object; None for None."""
    if given is None:
        return None
    try:
        out = coder.serialize(given)
    except MemoryError:
        raise
    except Exception as error:
        raise cannot_serialize(coder, place_of(name, index), index, schema, error)
    if type(out) is bytes:
        return out
    if not PyObject_CheckBuffer(out):
        hint = ": encode it, for example by .encode()" if isinstance(out, str) else ""
        raise TypeError(f"the serializer {coder.name} made {kind_of(out)} of {place_of(name, index)}, not bytes or a "
                        f"bytes-like object{hint}")
    return bytes(out)  # memory that it may use again for the next one


cdef int64_t text_bytes(Coder coder, object given, str name, Py_ssize_t index, Schema schema,
                        const uint8_t **data) except -2:
    """The UTF-8 of a str, which owns it; -1 for None."""
    cdef Py_ssize_t size
    if given is None:
        data[0] = NULL
        return -1
    try:
        if not isinstance(given, str):
            raise TypeError(f"it takes str, not {kind_of(given)}")
        data[0] = <const uint8_t *>PyUnicode_AsUTF8AndSize(given, &size)
    except (TypeError, ValueError) as error:
        raise cannot_serialize(coder, place_of(name, index), index, schema, error)
    return size


cdef object encode_scalar(Coder coder, object given, bint is_key, Schema schema, const uint8_t **data,
                          int64_t *size):
    cdef str name = "key" if is_key else "value"
    if coder is not None and coder.is_text:
        size[0] = text_bytes(coder, given, name, -1, schema, data)
        return given
    if coder is not None:
        given = encode_one(coder, given, name, -1, schema)
    data[0] = NULL
    size[0] = -2
    if given is None:
        size[0] = -1
    elif PyBytes_CheckExact(<PyObject *>given):
        data[0] = <const uint8_t *>PyBytes_AS_STRING(<PyObject *>given)
        size[0] = PyBytes_GET_SIZE(<PyObject *>given)
    return given


cdef object items_of(object obj):
    """What a column holds, as objects that a serializer knows; None where `Source` has the word to say."""
    if isinstance(obj, (list, tuple)):
        return obj
    if obj is None or isinstance(obj, (str, bytes, bytearray, memoryview, dict, int, float)):
        return None
    if isinstance(obj, np.ndarray):
        return obj.tolist() if obj.ndim == 1 else None
    if hasattr(obj, "to_pylist"):
        return obj.to_pylist()
    try:
        return list(obj)
    except TypeError:
        return None


cdef Source open_source(str name, object obj, Schema schema, bint is_key):
    cdef Coder coder = encoder_of(schema, is_key)
    cdef Source source
    cdef Py_ssize_t i = 0
    if coder is not None and coder.is_text:
        source = TextSource.__new__(TextSource)
        (<TextSource>source).schema = schema
        (<TextSource>source).coder = coder
    else:
        source = Source.__new__(Source)
        if coder is not None:
            items = items_of(obj)
            if items is not None:
                obj = []
                for item in items:
                    obj.append(encode_one(coder, item, name, i, schema))
                    i += 1
    source.open(name, obj, schema, is_key)
    return source


cdef class TextSource(Source):
    """A column of str, of which the UTF-8 is taken; Arrow's strings are UTF-8 already, and lent as they lie."""
    cdef Schema schema
    cdef Coder coder

    cdef int open(self, str name, object obj, Schema schema, bint is_key) except -1:
        if isinstance(obj, np.ndarray) and obj.ndim == 1:
            obj = obj.tolist()
        elif hasattr(obj, "__arrow_c_array__") or hasattr(obj, "__arrow_c_stream__"):
            form = arrow_form(obj)
            if form not in ("u", "U"):
                raise TypeError(f"{name} is an Arrow column of format {form!r}: the serializer {self.coder.name} takes "
                                "strings; cast it, or leave the serializer away")
        return Source.open(self, name, obj, schema, is_key)

    cdef int64_t text(self, Py_ssize_t i, const uint8_t **p) except -2:
        if i >= PySequence_Fast_GET_SIZE(self.items):
            raise RuntimeError(f"{self.name} changed size while being read")
        return text_bytes(self.coder, <object>PySequence_Fast_ITEMS(self.items)[i], self.name, i, self.schema, p)

    cdef int open_items(self, object items, Schema schema) except -1:
        cdef Py_ssize_t i
        cdef int64_t size
        cdef const uint8_t *p
        self.items = items
        self.count = PySequence_Fast_GET_SIZE(items)
        self.bytes_max = max(self.width, 0)
        for i in range(self.count):
            size = self.text(i, &p)
            if size < 0:
                size = max(self.width, 0)
            elif self.width >= 0 and size != self.width:
                raise self.wrong_width(i, size)
            self.bytes_total += size
            self.bytes_max = max(self.bytes_max, size)
        return 0

    cdef int64_t peek(self, Py_ssize_t i, const uint8_t **p) except -2:
        return Source.peek(self, i, p) if self.items is None else self.text(i, p)

    cdef int copy_odd(self, object item, Py_ssize_t i, size_t used, int64_t *size) except -1:
        cdef const uint8_t *p
        size[0] = text_bytes(self.coder, item, self.name, i, self.schema, &p)
        if size[0] > 0:
            reserve(&self.data, used + <size_t>size[0] + 1)
            memcpy(self.data.data + used, p, <size_t>size[0])
        return 0


cdef str arrow_form(object obj):
    """The format of an Arrow column."""
    cdef ArrowSchema *form
    cdef ArrowSchema streamed
    cdef ArrowArrayStream *stream
    if hasattr(obj, "__arrow_c_array__"):
        capsule = obj.__arrow_c_array__(None)[0]
        form = <ArrowSchema *>PyCapsule_GetPointer(capsule, "arrow_schema")
        return form.format.decode()
    capsule = obj.__arrow_c_stream__(None)
    stream = <ArrowArrayStream *>PyCapsule_GetPointer(capsule, "arrow_array_stream")
    if stream.get_schema(stream, &streamed):
        raise OSError("the Arrow stream failed: it has no schema")
    try:
        return streamed.format.decode()
    finally:
        if streamed.release != NULL:
            streamed.release(&streamed)


# ---- and back ---------------------------------------------------------------------------------------

cdef object cannot_deserialize(Coder coder, const char *data, Py_ssize_t size, bint is_key, str topic, int partition,
                               object offset, object error):
    cdef str what = "key" if is_key else "value"
    begins = "it is" if size <= SHOWN_BYTES else f"{size} bytes that begin with"
    shown = PyBytes_FromStringAndSize(data, min(size, <Py_ssize_t>SHOWN_BYTES))
    failed = SerializationError(
        f"the {what} at offset {offset} of topic {topic!r} partition {partition} cannot be deserialized by "
        f"{coder.name}: {type(error).__name__}: {error} ({begins} {shown!r}); to pass over the record go on at offset "
        f"{offset + 1}, to see its bytes read it with {what}=\"bytes\"",
        topic=topic, partition=partition, offset=offset)
    failed.__cause__ = error
    return failed


cdef object decode(Coder coder, const char *data, Py_ssize_t size, bint is_key, str topic, int partition,
                   object offset):
    try:
        if coder.is_text:
            return PyUnicode_DecodeUTF8(data, size, NULL)
        return coder.deserialize(PyBytes_FromStringAndSize(data, size))
    except MemoryError:
        raise
    except Exception as error:
        raise cannot_deserialize(coder, data, size, is_key, topic, partition, offset, error)


# ---- for serializers of JSON ------------------------------------------------------------------------

def is_plain_and_finite(value):
    """True when `value` is made of dict, list, tuple, str, int, float, bool and None alone, and no float of it
    is NaN or infinite; else nothing is said."""
    kind = type(value)
    if kind is float:
        return bool(isfinite(<double>value))
    if kind is dict:
        for item in (<dict>value).values():
            if not is_plain_and_finite(item):
                return False
        return True
    if kind is list or kind is tuple:
        for item in value:
            if not is_plain_and_finite(item):
                return False
        return True
    return value is None or kind is str or kind is int or kind is bool


cdef inline bint is_digit(uint8_t c) noexcept nogil:
    return c - 48 < 10 and c >= 48


def may_exceed_int64(bytes data not None):
    """Whether there are 20 digits in a row, or a minus sign and 19: an integer, perhaps, beyond 64 bits."""
    cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(<PyObject *>data)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(<PyObject *>data)
    cdef Py_ssize_t low, high, i = 18
    # Of any 19 digits in a row one stands where this looks.
    while i < n:
        if is_digit(p[i]):
            low = i
            while low > 0 and is_digit(p[low - 1]):
                low -= 1
            high = i + 1
            while high < n and is_digit(p[high]):
                high += 1
            if high - low >= 20 or (high - low == 19 and low > 0 and p[low - 1] == 45):
                return True
            i = high
        i += 19
    return False
