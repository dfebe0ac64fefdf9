from libc.stdint cimport int32_t, uint32_t


cdef class Schema:
    """What all batches of a topic have in common. Immutable."""
    cdef readonly str topic
    cdef readonly int32_t value_width   # -1 = variable
    cdef readonly int32_t key_width     # -1 = variable
    cdef readonly object dtype          # numpy.dtype or None
    cdef readonly uint32_t codec        # PS_CODEC_*
    cdef readonly bint log_append_time
    cdef object arrow_plan              # made by _native.arrow when first asked for
