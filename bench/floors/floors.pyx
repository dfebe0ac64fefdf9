# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Floors of the benchmarks, as Python sees them: see floors.h. Each does its whole work in one call."""
cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

import os

cdef extern from "Python.h":
    PyObject **PySequence_Fast_ITEMS(object sequence)
    Py_ssize_t PyBytes_GET_SIZE(PyObject *item)
    const char *PyBytes_AS_STRING(PyObject *item)

cdef extern from *:
    void __builtin_prefetch(const void *address) nogil

cdef extern from "ps_hash.h" nogil:
    uint64_t ps_hash(const void *data, size_t bytes)
    const char *ps_hash_variant()

cdef extern from "lz4.h" nogil:
    int LZ4_compressBound(int bytes)

cdef extern from "floors.h" nogil:
    ctypedef enum floor_way:
        FLOOR_POPULATE
        FLOOR_FAULT
        FLOOR_PWRITE
    ctypedef struct floor_file:
        int fd
        uint8_t *map
        uint64_t bytes
        uint64_t end
    ctypedef struct floor_post:
        uint32_t word
        uint32_t taken
    int floor_file_make(const char *path, uint64_t bytes, floor_file *out)
    int floor_file_view(const char *path, floor_file *out)
    void floor_file_drop(floor_file *file)
    int floor_store(floor_file *file, const void *data, uint64_t n, floor_way way)
    int floor_store_blocks(floor_file *file, const uint8_t *data, uint64_t bytes, uint64_t block, floor_way way,
                           bint checksum)
    int floor_sync(floor_file *file)
    int floor_compress_blocks(floor_file *file, const uint8_t *data, uint64_t bytes, uint64_t block,
                              uint8_t *scratch, floor_way way, uint64_t *stored)
    int floor_sync_loop(floor_file *file, const void *data, uint64_t bytes, uint64_t stride, uint64_t count)
    uint64_t floor_hash_pass(const floor_file *file, uint64_t block, bint populate)
    void floor_post_send(floor_post *post, bint wake)
    int64_t floor_post_receive(floor_post *post, uint32_t number, bint spin)

POPULATE = FLOOR_POPULATE
FAULT = FLOOR_FAULT
PWRITE = FLOOR_PWRITE

# How far ahead objects of a list are fetched into the cache.
DEF PREFETCH = 12


def hash_variant():
    """The vector set of xxh3 in use."""
    return ps_hash_variant().decode()


cdef int check(int rc, object path) except -1:
    if rc < 0:
        raise OSError(-rc, os.strerror(-rc), path)
    return 0


@cython.final
cdef class Sink:
    """A no-op with the signature of Producer.send."""

    def send(self, value, key=None, *, headers=None, timestamp=None, partition=None, on_delivery=None):
        return None


@cython.final
cdef class Ready:
    """Yields objects of a list again and again, `count` in all: an iterator that makes nothing."""
    cdef list objects
    cdef Py_ssize_t at, left

    def __init__(self, list objects, Py_ssize_t count):
        self.objects = objects
        self.left = count

    def __iter__(self):
        return self

    def __next__(self):
        if self.left == 0:
            raise StopIteration
        self.left -= 1
        if self.at == len(self.objects):
            self.at = 0
        self.at += 1
        return self.objects[self.at - 1]


cdef class File:
    """A file of its own: `bytes` of reserved space, mapped (make), or an existing file, read-only (view)."""
    cdef floor_file file
    cdef readonly str path
    cdef bint open, made

    @staticmethod
    def make(str path, uint64_t bytes):
        cdef File self = File.__new__(File)
        self.path = path
        check(floor_file_make(path.encode(), bytes, &self.file), path)
        self.open = self.made = True
        return self

    @staticmethod
    def view(str path):
        cdef File self = File.__new__(File)
        self.path = path
        check(floor_file_view(path.encode(), &self.file), path)
        self.open = True
        return self

    def close(self):
        if self.open:
            self.open = False
            floor_file_drop(&self.file)
            if self.made:
                os.unlink(self.path)

    @property
    def end(self):
        return self.file.end

    @property
    def bytes(self):
        return self.file.bytes

    def gather(self, list items, uint64_t batch_bytes, int way):
        """Items of bytes into a buffer with int32 offsets; each full buffer is checksummed and stored."""
        cdef PyObject **slots = PySequence_Fast_ITEMS(items)
        cdef Py_ssize_t i = 0, n = len(items), start, room = batch_bytes // 8
        cdef int32_t *offsets = <int32_t *>malloc(room * 4 + 4)
        cdef uint8_t *data = <uint8_t *>malloc(batch_bytes)
        cdef uint64_t used, size, sums = 0
        cdef int rc = 0
        if offsets == NULL or data == NULL:
            raise MemoryError()
        offsets[0] = 0
        while i < n and rc == 0:
            start = i
            used = 0
            while i < n and i - start < room:
                if i + PREFETCH < n:
                    __builtin_prefetch(slots[i + PREFETCH])
                size = PyBytes_GET_SIZE(slots[i])
                if used + size + 4 * (i - start + 2) > batch_bytes:
                    break
                memcpy(data + used, PyBytes_AS_STRING(slots[i]), size)
                used += size
                i += 1
                offsets[i - start] = <int32_t>used
            if i == start:
                raise ValueError("an item is larger than a batch")
            sums ^= ps_hash(offsets, (i - start + 1) * 4) ^ ps_hash(data, used)
            rc = floor_store(&self.file, offsets, (i - start + 1) * 4, <floor_way>way)
            if rc == 0:
                rc = floor_store(&self.file, data, used, <floor_way>way)
        free(offsets)
        free(data)
        check(rc, self.path)
        return sums

    def append_blocks(self, const uint8_t[::1] data, uint64_t block, int way):
        """Checksum and store `data`, `block` bytes at a time."""
        cdef int rc
        with nogil:
            rc = floor_store_blocks(&self.file, &data[0], <uint64_t>data.shape[0], block, <floor_way>way, True)
        check(rc, self.path)

    def compress_blocks(self, const uint8_t[::1] data, uint64_t block, int way):
        """The same through LZ4; gives the bytes stored."""
        cdef uint64_t stored = 0
        cdef int rc
        cdef uint8_t *scratch = <uint8_t *>malloc(LZ4_compressBound(<int>block))
        if scratch == NULL:
            raise MemoryError()
        with nogil:
            rc = floor_compress_blocks(&self.file, &data[0], <uint64_t>data.shape[0], block, scratch,
                                       <floor_way>way, &stored)
        free(scratch)
        check(rc, self.path)
        return stored

    def store(self, const uint8_t[::1] data, uint64_t block, int way):
        """Store blocks with a header each, without a checksum: memcpy or pwrite alone."""
        cdef int rc
        with nogil:
            rc = floor_store_blocks(&self.file, &data[0], <uint64_t>data.shape[0], block, <floor_way>way, False)
        check(rc, self.path)

    def sync(self):
        cdef int rc
        with nogil:
            rc = floor_sync(&self.file)
        check(rc, self.path)

    def sync_loop(self, bytes data, uint64_t stride, uint64_t count):
        """`count` times: write `data` at the next multiple of `stride`, then fdatasync."""
        cdef const uint8_t *p = data
        cdef uint64_t size = len(data)
        cdef int rc
        with nogil:
            rc = floor_sync_loop(&self.file, p, size, stride, count)
        check(rc, self.path)

    def hash_pass(self, uint64_t block, bint populate):
        """xxh3 over all of it, `block` bytes at a time."""
        return floor_hash_pass(&self.file, block, populate)


cdef class Post:
    """The shared word of a bare hand-over, in a buffer that both processes map."""
    cdef uint8_t[::1] memory
    cdef floor_post *post

    def __init__(self, uint8_t[::1] memory):
        self.memory = memory
        self.post = <floor_post *>&memory[0]

    def send(self, bint wake):
        floor_post_send(self.post, wake)

    def receive(self, uint32_t number, bint spin):
        """Latency in ns of message `number`, counted from 1."""
        cdef int64_t ns
        with nogil:
            ns = floor_post_receive(self.post, number, spin)
        PyErr_CheckSignals()
        if ns < 0:
            raise TimeoutError(f"message {number} did not come")
        return ns

    @property
    def taken(self):
        return self.post.taken
