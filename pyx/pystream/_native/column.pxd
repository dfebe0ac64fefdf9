from libc.stdint cimport int32_t, uint8_t, uint32_t

from pystream._native.c_api cimport ps_binary
from pystream._native.memory cimport ps_lease


cdef class Loan:
    """Bytes of a batch, lent read-only through the buffer protocol: keeps the batch's memory alive."""
    cdef ps_lease *lease
    cdef const uint8_t *bytes_at
    cdef Py_ssize_t size


cdef class Column:
    """The keys or the values of a batch, or of a slice of one."""
    # Memory: `binary` points into what the lease keeps.
    cdef ps_lease *lease
    cdef ps_binary binary
    cdef bint absent            # every slot is null, and binary is empty
    # The slots start .. start + count of the stored batch.
    cdef uint32_t start
    cdef uint32_t count
    cdef readonly int32_t width  # bytes of every slot; -1 = variable
    cdef object dtype            # of to_numpy(), or None for raw bytes

    cdef inline bint is_valid(self, uint32_t i) noexcept
    cdef inline const uint8_t *slot(self, uint32_t i, Py_ssize_t *size) noexcept
    cdef (Py_ssize_t, Py_ssize_t) span(self) noexcept


cdef Loan lend(ps_lease *lease, const void *bytes_at, Py_ssize_t size)
# count items of a NumPy dtype that stand at `data`, as a read-only array.
cdef object lend_array(ps_lease *lease, const void *data, Py_ssize_t count, object dtype)
cdef Column new_column(ps_lease *lease, const ps_binary *binary, bint absent, int32_t width, object dtype,
                       uint32_t start, uint32_t count)
