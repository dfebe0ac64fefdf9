# cython: language_level=3, binding=False
"""Hashes: of keys, as Kafka's partitioner has them, and of metadata."""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer

from pystream._native.c_api cimport ps_hash, ps_hash_variant, ps_murmur2


def murmur2(key):
    """The 32-bit murmur2 of Kafka's Java client (`Utils.murmur2`) over a bytes-like `key`; signed, as there.

    Kafka's partition of a key is `(murmur2(key) & 0x7fffffff) % partitions`.
    """
    cdef Py_buffer view
    PyObject_GetBuffer(key, &view, PyBUF_SIMPLE)
    try:
        return ps_murmur2(view.buf, view.len)
    finally:
        PyBuffer_Release(&view)


def xxh3_hex(data):
    """xxh3-64 of bytes-like `data` as 16 hexadecimal digits."""
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        return f"{ps_hash(view.buf, view.len):016x}"
    finally:
        PyBuffer_Release(&view)


def variant():
    """The vector set the checksums use on this machine: "scalar", "sse2", "avx2", "avx512" or "neon"."""
    return ps_hash_variant().decode()
