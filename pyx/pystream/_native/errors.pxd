from pystream._native.c_api cimport ps_error

# Raise the exception that stands for *err; never returns normally.
cdef int raise_error(const ps_error *err, object topic=*, object partition=*) except -1
