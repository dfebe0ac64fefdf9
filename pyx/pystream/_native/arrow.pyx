# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Batches and topics in the Arrow C data interface, through PyCapsules.

Keys, values and headers are lent from the batch's own memory. Offsets, equal timestamps and the fields
of a `dtype=` topic are made for each export. A `requested_schema` is accepted and ignored, as the
protocol allows: a topic has one schema.
"""
cimport cython
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.errno cimport EINVAL, EIO, ENOMEM
from libc.stdint cimport int32_t, int64_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport strncpy

from pystream._native.c_api cimport PS_OK, ps_binary, ps_columns
from pystream._native.memory cimport (
    PS_FIELD_BOOL,
    PS_FIELD_COPY,
    PS_FIELD_SWAP,
    PS_FIELD_TIME,
    ArrowArray,
    ArrowArrayStream,
    ArrowSchema,
    ps_arrow_batch,
    ps_arrow_binary,
    ps_arrow_binary_schema,
    ps_arrow_plan,
    ps_arrow_plan_new,
    ps_arrow_plan_ref,
    ps_arrow_plan_set,
    ps_arrow_plan_unref,
    ps_arrow_schema,
    ps_field_kind,
    ps_lease,
)
from pystream._native.schema cimport Schema

import numpy as np

cdef extern from "Python.h" nogil:
    int Py_IsInitialized()

# ---- plans: from a dtype to Arrow columns -----------------------------------------------------

cdef tuple SYSTEM_COLUMNS = ("offset", "timestamp", "key", "headers")
cdef dict INTEGERS = {"i1": "c", "u1": "C", "i2": "s", "u2": "S", "i4": "i", "u4": "I", "i8": "l", "u8": "L"}
cdef dict FLOATS = {"f2": "e", "f4": "f", "f8": "g"}
cdef dict TIME_UNITS = {"s": "s", "ms": "m", "us": "u", "ns": "n"}


@cython.final
@cython.no_gc
cdef class Plan:
    def __init__(self):
        raise TypeError("a Plan is made by its topic's schema")

    def __dealloc__(self):
        ps_arrow_plan_unref(self.plan)


cdef tuple field_rule(object dtype):
    """(Arrow format, how it is copied, big-endian) of one field of a dtype."""
    cdef bint swapped = dtype.byteorder == ">"
    cdef str code = f"{dtype.kind}{dtype.itemsize}"
    raw = (f"w:{dtype.itemsize}", <int>PS_FIELD_COPY, False)
    if dtype.subdtype is not None or dtype.names is not None:
        return raw
    if dtype.kind == "b":
        return "b", <int>PS_FIELD_BOOL, False
    if code in INTEGERS or code in FLOATS:
        name = INTEGERS.get(code) or FLOATS[code]
        return name, <int>PS_FIELD_SWAP if swapped else <int>PS_FIELD_COPY, swapped
    if dtype.kind in "mM":
        unit, step = np.datetime_data(dtype)
        if step == 1 and unit in TIME_UNITS:
            name = f"ts{TIME_UNITS[unit]}:" if dtype.kind == "M" else f"tD{TIME_UNITS[unit]}"
            return name, <int>PS_FIELD_TIME, swapped
    return raw


cdef list plan_columns(object dtype):
    """[(column name, dtype, offset in the value)], names made unlike those of the system's columns."""
    cdef list columns = []
    if dtype is None:
        return columns
    if dtype.names is None:
        return [("value", dtype, 0)]
    taken = {*SYSTEM_COLUMNS, *dtype.names}
    for field in dtype.names:
        name = field
        if name in SYSTEM_COLUMNS:
            while name in taken:
                name = "value_" + name
            taken.add(name)
        columns.append((name, dtype.fields[field][0], dtype.fields[field][1]))
    return columns


cdef Plan make_plan(Schema schema):
    cdef list columns = plan_columns(schema.dtype)
    cdef Plan plan = Plan.__new__(Plan)
    cdef uint32_t i = 0
    plan.plan = ps_arrow_plan_new(schema.key_width, schema.value_width, <uint32_t>len(columns))
    if plan.plan == NULL:
        raise MemoryError()
    for name, dtype, offset in columns:
        form, kind, swapped = field_rule(dtype)
        if not ps_arrow_plan_set(plan.plan, i, name.encode(), form.encode(), offset, dtype.itemsize,
                                 <ps_field_kind><int>kind, swapped):
            raise MemoryError()
        i += 1
    return plan


cdef ps_arrow_plan *plan_of(Schema schema) except NULL:
    if schema.arrow_plan is None:
        schema.arrow_plan = make_plan(schema)
    return (<Plan>schema.arrow_plan).plan

# ---- capsules ---------------------------------------------------------------------------------

cdef void destroy_schema(object capsule) noexcept:
    cdef ArrowSchema *schema = <ArrowSchema *>PyCapsule_GetPointer(capsule, "arrow_schema")
    if schema.release != NULL:
        schema.release(schema)
    free(schema)


cdef void destroy_array(object capsule) noexcept:
    cdef ArrowArray *array = <ArrowArray *>PyCapsule_GetPointer(capsule, "arrow_array")
    if array.release != NULL:
        array.release(array)
    free(array)


cdef void destroy_stream(object capsule) noexcept:
    cdef ArrowArrayStream *stream = <ArrowArrayStream *>PyCapsule_GetPointer(capsule, "arrow_array_stream")
    if stream.release != NULL:
        stream.release(stream)
    free(stream)


# The capsule is made around an empty structure first: nothing is lost if making it fails.
cdef object new_schema_capsule(ArrowSchema **out):
    cdef ArrowSchema *schema = <ArrowSchema *>calloc(1, sizeof(ArrowSchema))
    if schema == NULL:
        raise MemoryError()
    out[0] = schema
    try:
        return PyCapsule_New(schema, "arrow_schema", destroy_schema)
    except BaseException:
        free(schema)
        raise


cdef object new_array_capsule(ArrowArray **out):
    cdef ArrowArray *array = <ArrowArray *>calloc(1, sizeof(ArrowArray))
    if array == NULL:
        raise MemoryError()
    out[0] = array
    try:
        return PyCapsule_New(array, "arrow_array", destroy_array)
    except BaseException:
        free(array)
        raise


cdef object schema_capsule(Schema schema):
    cdef ArrowSchema *out = NULL
    cdef ps_arrow_plan *plan = plan_of(schema)
    capsule = new_schema_capsule(&out)
    if ps_arrow_schema(plan, out) != PS_OK:
        raise MemoryError()
    return capsule


cdef int batch_export(Schema schema, ps_lease *lease, const ps_columns *columns, int64_t base_offset,
                      uint32_t start, uint32_t count, ArrowArray *out) except -1:
    if ps_arrow_batch(plan_of(schema), lease, columns, base_offset, start, count, out) != PS_OK:
        raise MemoryError()
    return 0


cdef object batch_capsule(Schema schema, ps_lease *lease, const ps_columns *columns, int64_t base_offset,
                          uint32_t start, uint32_t count):
    cdef ArrowArray *out = NULL
    capsule = new_array_capsule(&out)
    batch_export(schema, lease, columns, base_offset, start, count, out)
    return capsule


cdef object binary_schema_capsule(int32_t width):
    cdef ArrowSchema *out = NULL
    capsule = new_schema_capsule(&out)
    if ps_arrow_binary_schema(width, out) != PS_OK:
        raise MemoryError()
    return capsule


cdef object binary_capsule(ps_lease *lease, const ps_binary *column, bint absent, int32_t width,
                           uint32_t start, uint32_t count):
    cdef ArrowArray *out = NULL
    capsule = new_array_capsule(&out)
    if ps_arrow_binary(lease, column, absent, width, start, count, out) != PS_OK:
        raise MemoryError()
    return capsule


def topic_schema(Schema schema not None):
    """The Arrow schema of a topic as a PyCapsule named "arrow_schema"."""
    return schema_capsule(schema)

# ---- streams ----------------------------------------------------------------------------------

cdef class ArrowSource:
    cdef int arrow_next(self, ArrowArray *out) except -1:
        out.release = NULL
        return 0


cdef struct StreamState:
    ps_arrow_plan *plan
    PyObject *sources    # list of ArrowSource, drawn from in order; owned
    Py_ssize_t at
    char error[256]      # of the last failure, "" when there was none


cdef int stream_get_schema(ArrowArrayStream *stream, ArrowSchema *out) noexcept nogil:
    cdef StreamState *state = <StreamState *>stream.private_data
    return 0 if ps_arrow_schema(state.plan, out) == PS_OK else ENOMEM


cdef int stream_get_next(ArrowArrayStream *stream, ArrowArray *out) noexcept with gil:
    # The readers are Python objects, and what they raise is too: this callback alone needs the GIL.
    cdef StreamState *state = <StreamState *>stream.private_data
    cdef list sources = <list>state.sources
    out.release = NULL
    try:
        while state.at < len(sources):
            if (<ArrowSource>sources[state.at]).arrow_next(out):
                return 0
            state.at += 1
        return 0
    except BaseException as error:
        text = f"{type(error).__name__}: {error}".encode("utf-8", "replace")
        strncpy(state.error, text, sizeof(state.error) - 1)
        if isinstance(error, MemoryError):
            return ENOMEM
        return EIO if isinstance(error, OSError) else EINVAL


cdef const char *stream_last_error(ArrowArrayStream *stream) noexcept nogil:
    cdef StreamState *state = <StreamState *>stream.private_data
    return state.error if state.error[0] else NULL


cdef void stream_drop_sources(StreamState *state) noexcept with gil:
    Py_DECREF(<object>state.sources)


cdef void stream_release(ArrowArrayStream *stream) noexcept nogil:
    cdef StreamState *state = <StreamState *>stream.private_data
    stream.release = NULL
    ps_arrow_plan_unref(state.plan)
    if Py_IsInitialized():  # else the readers went with the interpreter
        stream_drop_sources(state)
    free(state)


@cython.final
cdef class ArrowStream:
    """Batches of a topic as a finite Arrow stream, for everything that reads `__arrow_c_stream__`.

    `sources` are drawn from in order, once: a second export raises ValueError.
    """
    cdef Schema schema
    cdef list sources

    def __init__(self, Schema schema not None, sources):
        self.schema = schema
        self.sources = list(sources)
        for source in self.sources:
            if not isinstance(source, ArrowSource):
                raise TypeError(f"an Arrow stream is made of partition readers, not {type(source).__name__}")

    def __arrow_c_schema__(self):
        return schema_capsule(self.schema)

    def __arrow_c_stream__(self, requested_schema=None):
        cdef ArrowArrayStream *stream
        cdef StreamState *state
        cdef ps_arrow_plan *plan = plan_of(self.schema)
        if self.sources is None:
            raise ValueError("the stream has been exported already; ask the topic for a new one")
        stream = <ArrowArrayStream *>calloc(1, sizeof(ArrowArrayStream))
        state = <StreamState *>calloc(1, sizeof(StreamState))
        if stream == NULL or state == NULL:
            free(stream)
            free(state)
            raise MemoryError()
        try:
            capsule = PyCapsule_New(stream, "arrow_array_stream", destroy_stream)
        except BaseException:
            free(stream)
            free(state)
            raise
        ps_arrow_plan_ref(plan)
        state.plan = plan
        Py_INCREF(self.sources)
        state.sources = <PyObject *>self.sources
        self.sources = None
        stream.get_schema = stream_get_schema
        stream.get_next = stream_get_next
        stream.get_last_error = stream_last_error
        stream.release = stream_release
        stream.private_data = state
        return capsule
