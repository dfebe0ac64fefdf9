# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, binding=False
"""One column of values or keys as it was given: a list, a NumPy array, or an Arrow column."""
from cpython.buffer cimport PyBUF_SIMPLE, PyObject_CheckBuffer
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset

import numpy as np

from pystream._native.errors import RecordTooLargeError, UnsupportedError

cdef extern from "ps_arrow.h" nogil:
    struct ArrowSchema:
        const char *format
        int64_t n_children
        ArrowSchema *dictionary
        void (*release)(ArrowSchema *) noexcept nogil
    struct ArrowArray:
        int64_t length
        int64_t null_count
        int64_t offset
        int64_t n_buffers
        const void **buffers
        void (*release)(ArrowArray *) noexcept nogil
    struct ArrowArrayStream:
        int (*get_schema)(ArrowArrayStream *, ArrowSchema *) noexcept
        int (*get_next)(ArrowArrayStream *, ArrowArray *) noexcept
        const char *(*get_last_error)(ArrowArrayStream *) noexcept

# Arrow's formats of numbers and times, as NumPy spells them.
_PRIMITIVES = {
    "c": "i1", "C": "u1", "s": "<i2", "S": "<u2", "i": "<i4", "I": "<u4", "l": "<i8", "L": "<u8",
    "e": "<f2", "f": "<f4", "g": "<f8", "tdD": "<i4", "tdm": "<i8", "tts": "<i4", "ttm": "<i4", "ttu": "<i8",
    "ttn": "<i8", "tDs": "<m8[s]", "tDm": "<m8[ms]", "tDu": "<m8[us]", "tDn": "<m8[ns]",
    "tss": "<M8[s]", "tsm": "<M8[ms]", "tsu": "<M8[us]", "tsn": "<M8[ns]",
}


cdef int reserve(Buffer *buffer, size_t bytes) except -1:
    """At least `bytes` of room; what is there stays."""
    cdef size_t wanted
    cdef void *data
    if buffer.capacity >= bytes:
        return 0
    wanted = max(bytes, buffer.capacity + buffer.capacity // 2, <size_t>4096)
    data = realloc(buffer.data, wanted)
    if data == NULL:
        raise MemoryError(f"no memory for a column of {bytes} bytes")
    buffer.data = <uint8_t *>data
    buffer.capacity = wanted
    return 0


cdef inline bint bit_at(const uint8_t *bits, int64_t i) noexcept nogil:
    return (bits[i >> 3] >> (i & 7)) & 1


cdef object kind_of(object value):
    return type(value).__name__


cdef object refuse_scalar(object value, str place):
    cdef str option = place.partition("[")[0].rstrip("s")  # of "the value of headers[0]", no option at all
    if isinstance(value, str):
        hint = f', or let {option}="utf8" do it, on the topic or the producer' if option in ("key", "value") else ""
        return TypeError(f"{place} is a str: records hold bytes, so encode it: .encode(){hint}")
    hint = f': {option}="json", on the topic or the producer, takes it' if (
        option in ("key", "value") and isinstance(value, (dict, list))) else ""
    return TypeError(f"{place} must be bytes, a bytes-like object or None, not {kind_of(value)}{hint}")


cdef int64_t scalar_bytes(object value, str name, View *view, const uint8_t **data) except -2:
    view.obj = NULL
    if value is None:
        data[0] = NULL
        return -1
    if PyBytes_CheckExact(<PyObject *>value):
        data[0] = <const uint8_t *>PyBytes_AS_STRING(<PyObject *>value)
        return PyBytes_GET_SIZE(<PyObject *>value)
    if not PyObject_CheckBuffer(value):
        raise refuse_scalar(value, name)
    try:
        get_view(value, view, PyBUF_SIMPLE)
    except BufferError:
        raise TypeError(f"{name} is not contiguous in memory: copy it, or take bytes({name})") from None
    data[0] = <const uint8_t *>view.buf
    return view.len


# ---- one column --------------------------------------------------------------------------------------

cdef class Source:

    def __dealloc__(self):
        free(self.parts)
        free(self.data.data)
        free(self.offsets.data)
        free(self.validity.data)

    cdef int open(self, str name, object obj, Schema schema, bint is_key) except -1:
        self.name = name
        self.width = schema.key_width if is_key else schema.value_width
        self.nullable = is_key or schema.dtype is None
        if isinstance(obj, (list, tuple)):
            return self.open_items(obj, schema)
        if isinstance(obj, np.ndarray):
            if obj.dtype.kind == "O" and obj.ndim == 1:
                return self.open_items(obj.tolist(), schema)
            self.open_array(obj, schema, is_key)
        elif hasattr(obj, "__arrow_c_array__") or hasattr(obj, "__arrow_c_stream__"):
            self.open_arrow(obj, schema, is_key)
        elif isinstance(obj, (str, bytes, bytearray, memoryview, dict, int, float)) or obj is None:
            raise TypeError(f"{name} must be a list of bytes, an array or an Arrow column, not "
                            f"{kind_of(obj)}; one record goes in as [{name.rstrip('s')}]")
        else:
            try:
                items = list(obj)
            except TypeError:
                raise TypeError(f"{name} must be a list of bytes, an array or an Arrow column, not "
                                f"{kind_of(obj)}") from None
            return self.open_items(items, schema)
        return self.check_parts()

    cdef object wrong_width(self, Py_ssize_t i, int64_t got):
        return ValueError(f"{self.name}[{i}] has {got} bytes: this topic's {self.name} have exactly {self.width}")

    cdef object wrong_null(self, Py_ssize_t i):
        return TypeError(f"{self.name}[{i}] is null: a dtype= topic has no null values")

    # ---- lists

    cdef int64_t odd_size(self, object item, Py_ssize_t i) except -2:
        """Bytes of an item that is not a bytes object."""
        cdef View view
        cdef const uint8_t *data
        cdef int64_t size = scalar_bytes(item, f"{self.name}[{i}]", &view, &data)
        if view.obj != NULL:
            release_view(&view)
        return size

    cdef int check_scalar(self, object item, Py_ssize_t i, Schema schema) except -1:
        """An item of a dtype= topic that is not bytes."""
        if isinstance(item, (tuple, int, float)):
            raise TypeError(f"{self.name}[{i}] is a {kind_of(item)}: give an array of the topic's dtype, "
                            "np.array(rows, dtype=...)")
        if item is not None and getattr(item, "dtype", schema.dtype) != schema.dtype:
            raise TypeError(f"{self.name}[{i}] is of {item.dtype}, the topic of {schema.dtype}")
        return 0

    cdef int open_items(self, object items, Schema schema) except -1:
        cdef Py_ssize_t i, n = PySequence_Fast_GET_SIZE(items)
        cdef PyObject **slots = PySequence_Fast_ITEMS(items)
        cdef PyObject *item
        cdef int64_t size, total = 0, longest = 0
        cdef int32_t width = self.width
        self.items = items
        self.count = n
        for i in range(n):
            if i + PREFETCH < n:
                __builtin_prefetch(slots[i + PREFETCH])
            item = slots[i]
            if PyBytes_CheckExact(item):
                size = PyBytes_GET_SIZE(item)
            else:
                if not self.nullable:
                    self.check_scalar(<object>item, i, schema)
                size = self.odd_size(<object>item, i)
                if PySequence_Fast_GET_SIZE(items) != n:
                    raise RuntimeError(f"{self.name} changed size while being read")
                slots = PySequence_Fast_ITEMS(items)
                if size < 0:
                    if not self.nullable:
                        raise self.wrong_null(i)
                    if width > 0:
                        total += width
                    continue
            if width >= 0 and size != width:
                raise self.wrong_width(i, size)
            total += size
            if size > longest:
                longest = size
        self.bytes_total = total
        self.bytes_max = max(longest, <int64_t>width)
        return 0

    # ---- NumPy

    cdef int open_array(self, object array, Schema schema, bint is_key) except -1:
        cdef Part part
        kind = array.dtype.kind
        name = self.name
        dtype = None if is_key else schema.dtype
        if kind == "U":
            raise TypeError(f"{name} is an array of str: records hold bytes, so encode it: np.char.encode(array), or "
                            f'let {name.rstrip("s")}="utf8" do it, on the topic or the producer')
        if kind == "O":
            raise TypeError(f"{name} is an array of objects with {array.ndim} dimensions, not 1")
        rows = array.ndim == 2 and array.dtype == np.uint8  # each row one item
        if dtype is not None:
            if array.dtype != dtype:
                raise TypeError(f"{name} is of dtype {array.dtype}, the topic of {dtype}")
            if array.ndim != 1:
                raise ValueError(f"{name} has {array.ndim} dimensions, not 1")
        elif not rows:
            if array.ndim != 1:
                raise ValueError(f"{name} has {array.ndim} dimensions: give one, or rows of uint8")
            if self.width < 0 and (kind not in "SV" or array.dtype.names is not None):
                raise TypeError(f"{name} is an array of {array.dtype}, but this topic's {name} are bytes of varying "
                                "length: create the topic with dtype=, or give bytes")
        width = array.shape[1] if rows else array.dtype.itemsize
        if self.width >= 0 and width != self.width:
            raise ValueError(f"{name} has items of {width} bytes: this topic's {name} have exactly {self.width}")
        array = np.ascontiguousarray(array)
        memset(&part, 0, sizeof(Part))
        part.count = array.shape[0]
        part.data = <const uint8_t *>array_data(array)
        part.width = width
        part.strip = self.width < 0 and kind == "S"  # as NumPy itself reads such items
        self.owner = array
        return self.add_part(part)

    # ---- Arrow

    cdef int open_arrow(self, object obj, Schema schema, bint is_key) except -1:
        cdef ArrowSchema *form
        cdef ArrowArray *array
        if hasattr(obj, "__arrow_c_array__"):
            schema_capsule, array_capsule = obj.__arrow_c_array__(None)
            form = <ArrowSchema *>PyCapsule_GetPointer(schema_capsule, "arrow_schema")
            array = <ArrowArray *>PyCapsule_GetPointer(array_capsule, "arrow_array")
            self.owner = array_capsule
            arrow_part(self, array, arrow_format(form), schema, is_key)
            return 0
        return open_stream(self, obj.__arrow_c_stream__(None), schema, is_key)

    # ---- lent memory

    cdef int add_part(self, Part part) except -1:
        cdef Part *grown = <Part *>realloc(self.parts, (self.part_count + 1) * sizeof(Part))
        if grown == NULL:
            raise MemoryError()
        part.first = self.count
        grown[self.part_count] = part
        self.parts = grown
        self.part_count += 1
        self.count += part.count
        return 0

    cdef Part *part_of(self, Py_ssize_t i) noexcept nogil:
        cdef Py_ssize_t low, high, middle
        cdef Part *part = &self.parts[self.part_at]
        if part.first <= i < part.first + part.count:
            return part
        low, high = 0, self.part_count - 1
        while low < high:
            middle = (low + high + 1) // 2
            if self.parts[middle].first <= i:
                low = middle
            else:
                high = middle - 1
        self.part_at = low
        return &self.parts[low]

    cdef int check_parts(self) except -1:
        """Sizes of all slots; offsets that fall are refused before anything follows them."""
        cdef Py_ssize_t i
        cdef int64_t size
        cdef int32_t step, longest = 0, signs
        cdef const int32_t *offsets
        cdef Part *part
        self.part_at = 0
        part = self.parts
        if self.part_count == 1 and part.width >= 0 and part.validity == NULL and not part.strip:
            self.bytes_max = part.width
            self.bytes_total = part.width * <int64_t>self.count
            return 0
        if self.part_count == 1 and part.offsets32 != NULL and part.validity == NULL and self.width < 0:
            offsets = part.offsets32
            signs = offsets[0]
            for i in range(self.count):  # in 32 bits, for the compiler to do several at once
                signs |= offsets[i + 1]
                step = <int32_t>(<uint32_t>offsets[i + 1] - <uint32_t>offsets[i])
                signs |= step  # of two that are not negative: it is so itself where they fall
                longest = step if step > longest else longest
            if signs >= 0:  # else the loop below says where
                self.bytes_max = longest
                self.bytes_total = <int64_t>offsets[self.count] - offsets[0]
                return 0
        for i in range(self.count):
            size = self.size(i)
            if size < 0:
                if not self.nullable:
                    raise self.wrong_null(i)
                if self.width > 0:
                    self.bytes_total += self.width
                continue
            if self.width >= 0 and size != self.width:
                raise self.wrong_width(i, size)
            self.bytes_total += size
            if size > self.bytes_max:
                self.bytes_max = size
        return 0

    cdef int64_t peek(self, Py_ssize_t i, const uint8_t **p) except -2:
        cdef Part *part
        cdef PyObject *item
        cdef int64_t slot, start, size
        if self.items is not None:
            if i >= PySequence_Fast_GET_SIZE(self.items):
                raise RuntimeError(f"{self.name} changed size while being read")
            item = PySequence_Fast_ITEMS(self.items)[i]
            if not PyBytes_CheckExact(item):
                return self.odd_size(<object>item, i)
            p[0] = <const uint8_t *>PyBytes_AS_STRING(item)
            return PyBytes_GET_SIZE(item)
        part = self.part_of(i)
        slot = i - part.first
        if part.validity != NULL and not bit_at(part.validity, part.bit + slot):
            return -1
        if part.width >= 0:
            p[0] = part.data + slot * part.width
            size = part.width
            if part.strip:
                while size > 0 and p[0][size - 1] == 0:
                    size -= 1
            return size
        if part.offsets32 != NULL:
            start = part.offsets32[slot]
            size = part.offsets32[slot + 1] - start
        else:
            start = part.offsets64[slot]
            size = part.offsets64[slot + 1] - start
        if size < 0 or start < 0:
            raise ValueError(f"{self.name}: the offsets of the Arrow column fall at {i}")
        p[0] = part.data + start
        return size

    cdef int64_t size(self, Py_ssize_t i) except -2:
        cdef const uint8_t *p
        return self.peek(i, &p)

    cdef int take(self, Py_ssize_t start, Py_ssize_t count, const uint32_t *order, ps_binary *out,
                  Py_ssize_t *nulls) except -1:
        memset(out, 0, sizeof(ps_binary))
        out.width = self.width
        nulls[0] = 0
        if self.items is None and order == NULL and count > 0 and self.lend(start, count, out, nulls):
            return 0
        if self.items is not None and count == 1 and lend_item(self, order[start] if order != NULL else start, out):
            return 0
        return self.gather(start, count, order, out, nulls)

    cdef int lend(self, Py_ssize_t start, Py_ssize_t count, ps_binary *out, Py_ssize_t *nulls) except -1:
        """1 if the slots could be lent as they lie."""
        cdef Part *part = self.part_of(start)
        cdef int64_t slot = start - part.first
        cdef int64_t low, high, i
        cdef int32_t *offsets
        if slot + count > part.count or part.strip:
            return 0
        if part.validity != NULL:
            for i in range(count):
                if not bit_at(part.validity, part.bit + slot + i):
                    return 0  # null slots must be empty or zero, and bits begin at 0: rare enough to copy
        if part.width >= 0:
            low = slot * part.width
            high = low + count * part.width
        elif part.offsets32 != NULL:
            low = part.offsets32[slot]
            high = part.offsets32[slot + count]
        else:
            low = part.offsets64[slot]
            high = part.offsets64[slot + count]
        if high - low > COLUMN_BYTES_MAX:
            return 0
        out.data = part.data + low
        out.bytes = <uint32_t>(high - low)
        if self.width >= 0:
            return 1
        if part.offsets32 != NULL and low == 0:
            out.offsets = part.offsets32 + slot
            return 1
        reserve(&self.offsets, (count + 1) * sizeof(int32_t))
        offsets = <int32_t *>self.offsets.data
        if part.width >= 0:
            for i in range(count + 1):
                offsets[i] = <int32_t>(i * part.width)
        elif part.offsets32 != NULL:
            for i in range(count + 1):
                offsets[i] = <int32_t>(part.offsets32[slot + i] - low)
        else:
            for i in range(count + 1):
                offsets[i] = <int32_t>(part.offsets64[slot + i] - low)
        out.offsets = offsets
        return 1

    cdef int copy_odd(self, object item, Py_ssize_t i, size_t used, int64_t *size) except -1:
        """Copy an item that is not a bytes object behind the `used` bytes."""
        cdef View view
        cdef const uint8_t *data
        size[0] = scalar_bytes(item, f"{self.name}[{i}]", &view, &data)
        try:
            if size[0] >= 0:
                reserve(&self.data, used + <size_t>size[0] + 1)
                memcpy(self.data.data + used, data, <size_t>size[0])
        finally:
            if view.obj != NULL:
                release_view(&view)
        return 0

    cdef int gather(self, Py_ssize_t start, Py_ssize_t count, const uint32_t *order, ps_binary *out,
                    Py_ssize_t *nulls) except -1:
        cdef Py_ssize_t i, at, n = 0, first = 0
        cdef size_t used = 0
        cdef int64_t size
        cdef const uint8_t *p = NULL
        cdef PyObject **slots = NULL
        cdef PyObject *item
        cdef int32_t *offsets = NULL
        cdef int32_t width = self.width
        cdef bint is_list = self.items is not None
        reserve(&self.validity, count // 8 + 1)
        memset(self.validity.data, 0, count // 8 + 1)
        # Most often the whole is one batch, or all are alike; else it grows.
        reserve(&self.data, <size_t>(<double>self.bytes_total * count / max(self.count, 1)) + 1)
        if width < 0:
            reserve(&self.offsets, (count + 1) * sizeof(int32_t))
            offsets = <int32_t *>self.offsets.data
            offsets[0] = 0
        if is_list:
            n = PySequence_Fast_GET_SIZE(self.items)
            slots = PySequence_Fast_ITEMS(self.items)
            if order == NULL and width < 0 and start + count <= n:
                first = gather_bytes(slots + start, count, n - start, &self.data, offsets, &used)
                memset(self.validity.data, 0xff, first // 8)
                for i in range(first & ~7, first):
                    set_bit(self.validity.data, i)
        for i in range(first, count):
            at = order[start + i] if order != NULL else start + i
            size = 0
            if is_list:
                if at >= n:
                    raise RuntimeError(f"{self.name} changed size while being read")
                if order == NULL and at + PREFETCH < n:
                    __builtin_prefetch(slots[at + PREFETCH])
                item = slots[at]
                if PyBytes_CheckExact(item):
                    p = <const uint8_t *>PyBytes_AS_STRING(item)
                    size = PyBytes_GET_SIZE(item)
                else:
                    self.copy_odd(<object>item, at, used, &size)
                    n = PySequence_Fast_GET_SIZE(self.items)
                    slots = PySequence_Fast_ITEMS(self.items)
                    p = NULL
            else:
                size = self.peek(at, &p)
            if size < 0:
                nulls[0] += 1
                if width > 0:
                    reserve(&self.data, used + width + 1)
                    memset(self.data.data + used, 0, width)
                    used += width
            else:
                if width >= 0 and size != width:
                    raise self.wrong_width(at, size)
                if used + <size_t>size > <size_t>COLUMN_BYTES_MAX:
                    raise RecordTooLargeError(f"{self.name} have more than {COLUMN_BYTES_MAX} bytes for one batch")
                if p != NULL:
                    if used + <size_t>size > self.data.capacity:
                        reserve(&self.data, used + <size_t>size)
                    memcpy(self.data.data + used, p, <size_t>size)
                used += <size_t>size
                set_bit(self.validity.data, i)
            if width < 0:
                offsets[i + 1] = <int32_t>used
        out.data = self.data.data
        out.bytes = <uint32_t>used
        out.offsets = offsets
        out.validity = self.validity.data if nulls[0] else NULL
        return 0


# ---- Arrow columns ----------------------------------------------------------------------------------

cdef str arrow_format(const ArrowSchema *form):
    if form.dictionary != NULL:
        raise UnsupportedError("dictionary-encoded Arrow columns cannot be appended: decode the column first")
    return form.format.decode()


cdef int arrow_part(Source source, const ArrowArray *array, str form, Schema schema, bint is_key) except -1:
    """Point a part at an Arrow array of binary, string, fixed width or numbers."""
    cdef Part part
    name = source.name
    memset(&part, 0, sizeof(Part))
    part.count = array.length
    part.width = -1
    dtype = None if is_key else schema.dtype
    if form in ("z", "u", "Z", "U"):
        if dtype is not None:
            raise TypeError(f"{name} is an Arrow column of bytes, the topic of dtype {dtype}")
        if array.buffers[1] == NULL:
            if array.length:
                raise ValueError(f"{name}: the Arrow column has no offsets")
        elif form in ("z", "u"):
            part.offsets32 = <const int32_t *>array.buffers[1] + array.offset
        else:
            part.offsets64 = <const int64_t *>array.buffers[1] + array.offset
        part.data = <const uint8_t *>array.buffers[2]
    else:
        if form.startswith("w:"):
            width = int(form[2:])
            if dtype is not None:
                raise TypeError(f"{name} is an Arrow column of bytes, the topic of dtype {dtype}")
        else:
            spelling = _PRIMITIVES.get(form if not form.startswith("ts") else form[:3])
            if form == "+s":
                raise TypeError(f"{name} is a table: give one of its columns, or for a dtype= topic an array of its "
                                "rows (of a pandas data frame, .to_records(index=False))")
            if spelling is None:
                raise TypeError(f"{name} is an Arrow column of format {form!r}: give one of binary, string, fixed "
                                "size binary or numbers (of a table, one column)")
            if source.width < 0:
                raise TypeError(f"{name} is an Arrow column of numbers, but this topic's {name} are bytes of varying "
                                "length: create the topic with dtype=, or give bytes")
            if dtype is not None and np.dtype(spelling) != dtype:
                raise TypeError(f"{name} is an Arrow column of {np.dtype(spelling)}, the topic of {dtype}")
            width = np.dtype(spelling).itemsize
        if source.width >= 0 and width != source.width:
            raise ValueError(f"{name} has items of {width} bytes: this topic's {name} have exactly {source.width}")
        part.width = width
        part.data = <const uint8_t *>array.buffers[1] + array.offset * part.width
    if array.null_count != 0 and array.buffers[0] != NULL:
        part.validity = <const uint8_t *>array.buffers[0]
        part.bit = array.offset
    if part.count:
        source.add_part(part)
    return 0


cdef class Chunks:
    """The arrays of an Arrow stream."""
    cdef object stream
    cdef ArrowArray **arrays
    cdef Py_ssize_t count

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.count):
            if self.arrays[i].release != NULL:
                self.arrays[i].release(self.arrays[i])
            free(self.arrays[i])
        free(self.arrays)

    cdef ArrowArray *add(self) except NULL:
        cdef ArrowArray *array
        cdef ArrowArray **grown = <ArrowArray **>realloc(self.arrays, (self.count + 1) * sizeof(ArrowArray *))
        if grown == NULL:
            raise MemoryError()
        self.arrays = grown
        array = <ArrowArray *>calloc(1, sizeof(ArrowArray))
        if array == NULL:
            raise MemoryError()
        self.arrays[self.count] = array
        self.count += 1
        return array


cdef object stream_error(ArrowArrayStream *stream, str name, int errno_):
    cdef const char *text = stream.get_last_error(stream)
    what = text.decode("utf-8", "replace") if text != NULL else f"error {errno_}"
    return OSError(errno_, f"{name}: the Arrow stream failed: {what}")


cdef int open_stream(Source source, object capsule, Schema schema, bint is_key) except -1:
    cdef ArrowArrayStream *stream = <ArrowArrayStream *>PyCapsule_GetPointer(capsule, "arrow_array_stream")
    cdef Chunks chunks = Chunks.__new__(Chunks)
    cdef ArrowSchema form
    cdef ArrowArray *array
    cdef int failed
    chunks.stream = capsule
    failed = stream.get_schema(stream, &form)
    if failed:
        raise stream_error(stream, source.name, failed)
    try:
        text = arrow_format(&form)
    finally:
        if form.release != NULL:
            form.release(&form)
    while True:
        array = chunks.add()
        failed = stream.get_next(stream, array)
        if failed:
            raise stream_error(stream, source.name, failed)
        if array.release == NULL:
            break
        arrow_part(source, array, text, schema, is_key)
    source.owner = chunks
    return 0
