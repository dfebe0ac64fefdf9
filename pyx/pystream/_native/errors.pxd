from pystream._native.c_api cimport ps_error

# Raise the exception that stands for *err; never returns normally.
cdef int raise_error(const ps_error *err, object topic=*, object partition=*) except -1

# The exception for a topic that was deleted or renamed; locks_fd: its `locks` file, or -1.
cdef object deleted_error(str topic, object partition, str path, int locks_fd)
