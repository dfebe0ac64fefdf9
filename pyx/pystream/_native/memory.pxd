# The native owner of lent memory, and the Arrow C data interface over it: declarations only.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from pystream._native.c_api cimport ps_binary, ps_columns, ps_segment, ps_status


cdef extern from "ps_lease.h" nogil:
    ctypedef struct ps_lease:
        ps_segment *segment
        uint8_t *body
    ps_lease *ps_lease_of_segment(ps_segment *segment)
    ps_lease *ps_lease_of_body(uint64_t bytes)
    void ps_lease_ref(ps_lease *lease)
    void ps_lease_unref(ps_lease *lease)


cdef extern from "ps_arrow.h" nogil:
    struct ArrowSchema:
        void (*release)(ArrowSchema *) noexcept nogil
    struct ArrowArray:
        int64_t length
        void (*release)(ArrowArray *) noexcept nogil
    struct ArrowArrayStream:
        int (*get_schema)(ArrowArrayStream *, ArrowSchema *) noexcept nogil
        int (*get_next)(ArrowArrayStream *, ArrowArray *) noexcept nogil
        const char *(*get_last_error)(ArrowArrayStream *) noexcept nogil
        void (*release)(ArrowArrayStream *) noexcept nogil
        void *private_data
    ctypedef enum ps_field_kind:
        PS_FIELD_COPY
        PS_FIELD_SWAP
        PS_FIELD_BOOL
        PS_FIELD_TIME
    ctypedef struct ps_arrow_plan:
        pass
    ps_arrow_plan *ps_arrow_plan_new(int32_t key_width, int32_t value_width, uint32_t field_count)
    bint ps_arrow_plan_set(ps_arrow_plan *plan, uint32_t i, const char *name, const char *format,
                           uint32_t offset, uint32_t bytes, ps_field_kind kind, bint swapped)
    void ps_arrow_plan_ref(ps_arrow_plan *plan)
    void ps_arrow_plan_unref(ps_arrow_plan *plan)
    ps_status ps_arrow_schema(ps_arrow_plan *plan, ArrowSchema *out)
    ps_status ps_arrow_batch(const ps_arrow_plan *plan, ps_lease *lease, const ps_columns *columns,
                             int64_t base_offset, uint32_t start, uint32_t count, ArrowArray *out)
    ps_status ps_arrow_binary_schema(int32_t width, ArrowSchema *out)
    ps_status ps_arrow_binary(ps_lease *lease, const ps_binary *column, bint absent, int32_t width,
                              uint32_t start, uint32_t count, ArrowArray *out)
