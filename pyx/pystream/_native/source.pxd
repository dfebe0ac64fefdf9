from cpython.object cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.string cimport memcpy

from pystream._native.c_api cimport ps_binary
from pystream._native.schema cimport Schema


cdef extern from "Python.h":
    # Py_buffer without Cython's reference counting of `obj`.
    ctypedef struct View "Py_buffer":
        void *buf
        PyObject *obj
        Py_ssize_t len
    # Borrowed references: loops over items must not touch reference counts.
    PyObject **PySequence_Fast_ITEMS(object sequence)
    Py_ssize_t PySequence_Fast_GET_SIZE(object sequence)
    bint PyBytes_CheckExact(PyObject *item)
    Py_ssize_t PyBytes_GET_SIZE(PyObject *item)
    char *PyBytes_AS_STRING(PyObject *item)
    int get_view "PyObject_GetBuffer" (object owner, View *view, int flags) except -1
    void release_view "PyBuffer_Release" (View *view)

cdef extern from *:
    void __builtin_prefetch(const void *address) nogil

# Memory that grows and is used again for the next batch.
cdef struct Buffer:
    uint8_t *data
    size_t capacity

# A stretch of a column in memory that somebody lends: Arrow's layout, offset already added.
cdef struct Part:
    int64_t first            # index of its first slot in the whole column
    int64_t count
    const int32_t *offsets32 # variable width, one of the two
    const int64_t *offsets64
    const uint8_t *data
    const uint8_t *validity  # NULL: no nulls
    int64_t bit              # of slot 0 in validity
    int32_t width            # -1 = variable
    bint strip               # trailing zero bytes do not count


cdef class Source:
    """Values or keys as they came: a list, or lent memory in parts."""
    cdef str name
    cdef int32_t width        # what the topic wants; -1 = variable
    cdef bint nullable
    cdef readonly Py_ssize_t count
    cdef object items         # list or tuple, or None
    cdef object owner         # keeps lent memory alive
    cdef int32_t[2] ends      # offsets of a single item that is lent
    cdef Part *parts
    cdef Py_ssize_t part_count
    cdef Py_ssize_t part_at   # the part that was used last
    cdef int64_t bytes_total  # of all slots
    cdef int64_t bytes_max    # of the longest
    cdef Buffer data
    cdef Buffer offsets
    cdef Buffer validity

    # What `obj` holds; everything about it is checked here, before anything is written.
    cdef int open(self, str name, object obj, Schema schema, bint is_key) except -1
    # Bytes of slot i, -1 = null.
    cdef int64_t size(self, Py_ssize_t i) except -2
    # Slot i itself: fills *p, answers its bytes, -1 = null. Only for lent memory and bytes.
    cdef int64_t peek(self, Py_ssize_t i, const uint8_t **p) except -2
    # Slots start .. start + count, or those named by `order`, as a column. *nulls = how many are null.
    # Lent where possible (of a list, a single item), else copied once into buffers that last until the next take.
    cdef int take(self, Py_ssize_t start, Py_ssize_t count, const uint32_t *order, ps_binary *out,
                  Py_ssize_t *nulls) except -1

    cdef int check_scalar(self, object item, Py_ssize_t i, Schema schema) except -1
    cdef object wrong_width(self, Py_ssize_t i, int64_t got)
    cdef object wrong_null(self, Py_ssize_t i)
    cdef int copy_odd(self, object item, Py_ssize_t i, size_t used, int64_t *size) except -1
    cdef int open_items(self, object items, Schema schema) except -1
    cdef int open_array(self, object array, Schema schema, bint is_key) except -1
    cdef int open_arrow(self, object obj, Schema schema, bint is_key) except -1
    cdef int add_part(self, Part part) except -1
    cdef int check_parts(self) except -1
    cdef Part *part_of(self, Py_ssize_t i) noexcept nogil
    cdef int64_t odd_size(self, object item, Py_ssize_t i) except -2
    cdef int lend(self, Py_ssize_t start, Py_ssize_t count, ps_binary *out, Py_ssize_t *nulls) except -1
    cdef int gather(self, Py_ssize_t start, Py_ssize_t count, const uint32_t *order, ps_binary *out,
                    Py_ssize_t *nulls) except -1


# The largest column of variable width: its offsets are 32 bits.
cdef enum:
    COLUMN_BYTES_MAX = 0x7fffffff

# 1 if slot `at` of a list, all that a batch takes of it, could be lent as it lies: a record on its own is what
# allocating and copying would cost most. Invariant: the item outlives whatever the list's owner does to it
# meanwhile, for the source has a reference of its own.
cdef inline bint lend_item(Source source, Py_ssize_t at, ps_binary *out) noexcept:
    cdef PyObject *item
    cdef Py_ssize_t size
    if at >= PySequence_Fast_GET_SIZE(source.items):
        return 0
    item = PySequence_Fast_ITEMS(source.items)[at]
    if not PyBytes_CheckExact(item):
        return 0
    size = PyBytes_GET_SIZE(item)
    if size > COLUMN_BYTES_MAX or 0 <= source.width != size:
        return 0
    source.owner = <object>item
    source.ends[0] = 0
    source.ends[1] = <int32_t>size
    out.data = <const uint8_t *>PyBytes_AS_STRING(item)
    out.bytes = <uint32_t>size
    out.offsets = source.ends if source.width < 0 else NULL
    return 1


# How far ahead items are fetched into the cache while the current one is looked at.
cdef enum:
    PREFETCH = 12

cdef inline void prefetch_item(Source source, Py_ssize_t i) noexcept:
    if source.items is not None and i < PySequence_Fast_GET_SIZE(source.items):
        __builtin_prefetch(PySequence_Fast_ITEMS(source.items)[i])

# Bytes of slot i, -1 = null, without a call where it is a bytes object in a list.
cdef inline int64_t size_of(Source source, Py_ssize_t i) except -2:
    cdef PyObject *item
    if source.items is not None and i < PySequence_Fast_GET_SIZE(source.items):
        item = PySequence_Fast_ITEMS(source.items)[i]
        if PyBytes_CheckExact(item):
            return PyBytes_GET_SIZE(item)
    return source.size(i)


# One value or key given on its own: fills *data and answers its bytes, -1 = null. Where view.obj is not
# NULL afterwards, the caller releases it.
cdef int64_t scalar_bytes(object value, str name, View *view, const uint8_t **data) except -2
cdef object refuse_scalar(object value, str place)
cdef object kind_of(object value)
# At least `bytes` of room; what is there stays.
cdef int reserve(Buffer *buffer, size_t bytes) except -1

cdef inline void set_bit(uint8_t *bits, Py_ssize_t i) noexcept nogil:
    bits[i >> 3] |= <uint8_t>(1 << (i & 7))

# Copy `count` items of a list one behind the other, as far as they are bytes and find room: how many. `ahead` is
# how many there are, to be fetched into the cache.
cdef inline Py_ssize_t gather_bytes(PyObject **slots, Py_ssize_t count, Py_ssize_t ahead, const Buffer *room,
                                    int32_t *offsets, size_t *bytes) noexcept:
    cdef Py_ssize_t i = 0
    cdef size_t size, used = 0, capacity = min(room.capacity, <size_t>COLUMN_BYTES_MAX)
    while i < count:
        if i + PREFETCH < ahead:
            __builtin_prefetch(slots[i + PREFETCH])
        if not PyBytes_CheckExact(slots[i]):
            break
        size = <size_t>PyBytes_GET_SIZE(slots[i])
        if size > capacity - used:
            break
        memcpy(room.data + used, PyBytes_AS_STRING(slots[i]), size)
        used += size
        i += 1
        offsets[i] = <int32_t>used
    bytes[0] = used
    return i

cdef extern from *:
    """
    /* What every ABI of NumPy has had in front: PyArray_DATA reads it so. Asking `array.ctypes.data` for it takes
     * longer than encoding a small array; `encode` sees to it, once, that both say the same. */
    typedef struct {
      PyObject_HEAD
      void *data;
    } ps_ndarray;
    #define ps_array_data(array) (((const ps_ndarray *)(array))->data)
    """
    const void *array_data "ps_array_data"(object array)
