# cython: language_level=3, binding=False
"""What all batches of a topic have in common."""


cdef class Schema:
    """Schema(topic, value_width=-1, key_width=-1, dtype=None, codec=0, log_append_time=False)

    Widths in bytes, -1 = variable; dtype: numpy.dtype of the values or None; codec: a code of the format.
    """

    def __init__(self, str topic not None, int value_width=-1, int key_width=-1, dtype=None, unsigned int codec=0,
                 bint log_append_time=False):
        if dtype is not None and dtype.itemsize != value_width:
            raise ValueError(f"dtype {dtype} has {dtype.itemsize} bytes, not {value_width}")
        self.topic = topic
        self.value_width = value_width
        self.key_width = key_width
        self.dtype = dtype
        self.codec = codec
        self.log_append_time = log_append_time

    def __repr__(self):
        return (f"Schema(topic={self.topic!r}, value_width={self.value_width}, key_width={self.key_width}, "
                f"dtype={self.dtype!r}, codec={self.codec}, log_append_time={self.log_append_time})")
