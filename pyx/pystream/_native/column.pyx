# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Column: the keys or the values of a batch, lent from its memory."""
cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.memoryview cimport PyMemoryView_FromObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport int32_t, uint8_t, uint32_t, uintptr_t

from pystream._native.arrow cimport binary_capsule, binary_schema_capsule
from pystream._native.c_api cimport ps_binary, ps_bit
from pystream._native.memory cimport ps_lease, ps_lease_ref, ps_lease_unref

import numpy as np

cdef object ndarray = np.ndarray
cdef object INT32 = np.dtype(np.int32)


@cython.final
@cython.freelist(64)
cdef class Loan:
    def __init__(self):
        raise TypeError("a Loan is made by a batch")

    def __dealloc__(self):
        ps_lease_unref(self.lease)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, <void *>self.bytes_at, self.size, 1, flags)

    def __releasebuffer__(self, Py_buffer *view):
        pass

    def __reduce__(self):
        raise TypeError("lent memory cannot be pickled; take bytes() of it")


cdef Loan lend(ps_lease *lease, const void *bytes_at, Py_ssize_t size):
    cdef Loan loan = Loan.__new__(Loan)
    ps_lease_ref(lease)
    loan.lease = lease
    # Consumers of buffers dislike NULL, even of no bytes.
    loan.bytes_at = <const uint8_t *>(bytes_at if bytes_at != NULL else <const void *>lease)
    loan.size = size
    return loan


cdef object lend_array(ps_lease *lease, const void *data, Py_ssize_t count, object dtype):
    return ndarray((count,), dtype, lend(lease, data, count * <Py_ssize_t>dtype.itemsize))


cdef Column new_column(ps_lease *lease, const ps_binary *binary, bint absent, int32_t width, object dtype,
                       uint32_t start, uint32_t count):
    cdef Column column = Column.__new__(Column)
    ps_lease_ref(lease)
    column.lease = lease
    column.binary = binary[0]
    column.absent = absent
    column.width = width
    column.dtype = dtype
    column.start = start
    column.count = count
    return column


@cython.final
@cython.freelist(64)
@cython.no_gc
cdef class Column:
    """The keys or the values of a batch: a sequence of read-only memoryviews, or None where null.

    Everything a Column gives out is the batch's own memory and keeps it alive, except `to_pylist()`,
    which copies. A slice is a Column over the same memory.
    """

    def __init__(self):
        raise TypeError("a Column is a part of a batch: batch.values or batch.keys")

    def __dealloc__(self):
        ps_lease_unref(self.lease)

    cdef inline bint is_valid(self, uint32_t i) noexcept:
        return not self.absent and ps_bit(self.binary.validity, self.start + i)

    cdef inline const uint8_t *slot(self, uint32_t i, Py_ssize_t *size) noexcept:
        cdef const int32_t *at
        if self.binary.offsets != NULL:
            at = self.binary.offsets + self.start + i
            size[0] = at[1] - at[0]
            return self.binary.data + at[0]
        size[0] = self.width
        return self.binary.data + <Py_ssize_t>(self.start + i) * self.width

    cdef (Py_ssize_t, Py_ssize_t) span(self) noexcept:
        """Where the bytes of these slots begin and end in the batch's data."""
        if self.absent:
            return 0, 0
        if self.binary.offsets != NULL:
            return self.binary.offsets[self.start], self.binary.offsets[self.start + self.count]
        if self.width < 0:  # an empty frame: no offsets are stored
            return 0, 0
        return (<Py_ssize_t>self.start * self.width,
                (<Py_ssize_t>self.start + <Py_ssize_t>self.count) * self.width)

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        cdef Py_ssize_t i, start, stop, step, size = 0
        cdef const uint8_t *data
        if isinstance(index, slice):
            start, stop, step = index.indices(self.count)
            if step != 1:
                raise ValueError("a column is sliced with step 1: its memory is lent, not copied")
            stop = max(start, stop)
            return new_column(self.lease, &self.binary, self.absent, self.width, self.dtype,
                              self.start + <uint32_t>start, <uint32_t>(stop - start))
        i = index
        if i < 0:
            i += self.count
        if not 0 <= i < self.count:
            raise IndexError(f"index {index} is out of range for a column of {self.count}")
        if not self.is_valid(<uint32_t>i):
            return None
        data = self.slot(<uint32_t>i, &size)
        return PyMemoryView_FromObject(lend(self.lease, data, size))

    def __iter__(self):
        cdef uint32_t i
        for i in range(self.count):
            yield self[i]

    def to_pylist(self):
        """A list of bytes, None where null: a copy."""
        cdef list out = PyList_New(self.count)
        cdef Py_ssize_t size = 0
        cdef const uint8_t *data
        cdef uint32_t i
        cdef object item
        for i in range(self.count):
            if self.is_valid(i):
                data = self.slot(i, &size)
                item = PyBytes_FromStringAndSize(<const char *>data, size)
            else:
                item = None
            Py_INCREF(item)
            PyList_SET_ITEM(out, i, item)
        return out

    def to_numpy(self, *, bint zero_nulls=False):
        """A read-only array over the batch's memory, of shape (len(self),).

        Its dtype is the topic's, or "V<width>" where only a width was declared. Null slots hold zeros:
        with any, `zero_nulls=True` must be given. Raises TypeError where the width is variable, and
        ValueError for nulls.
        """
        if self.width < 0:
            raise TypeError("values of variable width make no NumPy array without a copy: use .to_pylist(), "
                            "Arrow (pyarrow.array(column)), or .data with .offsets")
        if not zero_nulls and self.null_count:
            raise ValueError(f"{self.null_count} of {self.count} slots are null: pass zero_nulls=True to see "
                             "them as zeros, or use .to_pylist() or Arrow")
        dtype = self.dtype if self.dtype is not None else np.dtype((np.void, self.width))
        if self.absent:
            out = np.zeros(self.count, dtype)
            out.flags.writeable = False
            return out
        begin, end = self.span()
        return ndarray((self.count,), dtype, lend(self.lease, self.binary.data + <Py_ssize_t>begin,
                                                  <Py_ssize_t>end - <Py_ssize_t>begin))

    def __array__(self, dtype=None, copy=None):
        array = self.to_numpy()
        if dtype is not None and np.dtype(dtype) != array.dtype:
            if copy is False:
                raise ValueError(f"an array of {dtype} needs a copy")
            return array.astype(dtype)
        return array.copy() if copy else array

    @property
    def null_count(self):
        """How many slots are null."""
        cdef uint32_t i, nulls = 0
        if self.absent:
            return self.count
        if self.binary.validity != NULL:
            for i in range(self.start, self.start + self.count):
                nulls += not ps_bit(self.binary.validity, i)
        return nulls

    @property
    def data(self):
        """The bytes of these slots, end to end, as a read-only memoryview."""
        begin, end = self.span()
        return PyMemoryView_FromObject(lend(self.lease, self.binary.data + <Py_ssize_t>begin,
                                            <Py_ssize_t>end - <Py_ssize_t>begin))

    @property
    def offsets(self):
        """Where each slot begins and the last one ends: int32, shape (len(self) + 1,); None where the width
        is fixed. Slot i is data[offsets[i] - offsets[0] : offsets[i + 1] - offsets[0]]."""
        if self.width >= 0:
            return None
        if self.binary.offsets == NULL:
            out = np.zeros(self.count + 1, INT32)
            out.flags.writeable = False
            return out
        return lend_array(self.lease, self.binary.offsets + self.start, <Py_ssize_t>self.count + 1, INT32)

    @property
    def nbytes(self):
        """Bytes of `data`."""
        begin, end = self.span()
        return end - begin

    @property
    def address(self):
        """The address of the first byte of `data`; 0 where every slot is null because none was stored."""
        begin, _ = self.span()
        return 0 if self.absent else <uintptr_t>self.binary.data + <uintptr_t><Py_ssize_t>begin

    def __arrow_c_schema__(self):
        return binary_schema_capsule(self.width)

    def __arrow_c_array__(self, requested_schema=None):
        return (binary_schema_capsule(self.width),
                binary_capsule(self.lease, &self.binary, self.absent, self.width, self.start, self.count))

    def __reduce__(self):
        raise TypeError("a Column lends memory and cannot be pickled; pickle column.to_pylist()")

    def __repr__(self):
        width = "variable width" if self.width < 0 else f"{self.width} bytes each"
        return f"<Column of {self.count}, {width}, {self.nbytes} bytes, {self.null_count} null>"
