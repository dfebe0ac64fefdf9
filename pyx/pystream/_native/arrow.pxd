from libc.stdint cimport int32_t, int64_t, uint32_t

from pystream._native.c_api cimport ps_binary, ps_columns
from pystream._native.memory cimport ArrowArray, ps_arrow_plan, ps_lease
from pystream._native.schema cimport Schema


cdef class Plan:
    """What all batches of a topic export as; kept by its Schema."""
    cdef ps_arrow_plan *plan


cdef class ArrowSource:
    """Something that an ArrowStream can draw batches from."""
    # 1: *out is filled and the caller's to release. 0: the end.
    cdef int arrow_next(self, ArrowArray *out) except -1


# A new reference to a PyCapsule each.
cdef object schema_capsule(Schema schema)
cdef object batch_capsule(Schema schema, ps_lease *lease, const ps_columns *columns, int64_t base_offset,
                          uint32_t start, uint32_t count)
cdef object binary_schema_capsule(int32_t width)
cdef object binary_capsule(ps_lease *lease, const ps_binary *column, bint absent, int32_t width,
                           uint32_t start, uint32_t count)
# The same, into a structure of the caller's.
cdef int batch_export(Schema schema, ps_lease *lease, const ps_columns *columns, int64_t base_offset,
                      uint32_t start, uint32_t count, ArrowArray *out) except -1
