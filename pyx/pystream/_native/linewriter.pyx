# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, binding=False
"""Lines of a pipe or a file into a topic, a whole chunk at a time."""
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memmove, memset

from pystream._native.c_api cimport (
    PS_RECORDS_PER_BATCH_MAX, ps_binary, ps_columns, ps_log_frame_bytes_max, ps_os_monotonic_ns, ps_os_now_ns,
)
from pystream._native.encode cimport Headers, key_required
from pystream._native.lines cimport (
    CHUNK_BYTES, PIPE_BYTES, PS_LINES_SLACK, ps_lines_column, ps_lines_form, ps_lines_found, ps_lines_limits,
    ps_lines_split, ps_lines_split_keyed, ps_pipe_read, ps_pipe_wait_readable, ps_pipe_widen, raise_errno, text_of,
)
from pystream._native.log cimport LogHandle
from pystream._native.producer cimport ProducerCore
from pystream._native.source cimport Buffer, reserve
from pystream._native.write_api cimport (
    PS_LANE_STICKY, ps_lane_set_unsynced, ps_producer_lane, ps_record, ps_scratch, ps_scratch_free,
)
from pystream._native.writer cimport Appended, append_columns

from pystream._native.errors import RecordTooLargeError

cdef extern from "ps_builder.h" nogil:
    enum:
        PS_BUILDER_FIXED_BYTES

cdef extern from "ps_os.h" nogil:
    uint64_t ps_os_random_u64()

# Waits are cut here, so that a signal that came in between is seen.
cdef int64_t SLICE_NS = 200_000_000
# What waiting for input answers when the time is over.
cdef int64_t LATE = -(1 << 40)


class BadLineError(ValueError):
    """A line cannot be stored: `line` is its number in its input, from 1. The lines before it were taken."""

    def __init__(self, message, line):
        super().__init__(message)
        self.line = line

    def __reduce__(self):
        return type(self), (self.args[0], self.line)


# What a LineWriter keeps for each batch.
cdef enum:
    HELD
    KEY_DATA
    KEY_OFFSETS
    KEY_VALIDITY
    VALUE_DATA
    VALUE_OFFSETS
    VALUE_VALIDITY
    HEADER_LISTS
    HEADER_KEY_OFFSETS
    HEADER_KEY_DATA
    HEADER_VALUE_OFFSETS
    HEADER_VALUE_DATA
    MEMORIES


cdef class LineWriter:
    """Appends lines to a topic, each as the value of a record, or as key and value.

    What is read is appended in batches: as much as there is to read, up to `chunk_bytes`, but never later than
    `linger_ns` after it came. Lines without keys go to `partition`, or batch by batch to all in turn; lines
    with keys where the producer sends them.
    """
    # Where to.
    cdef readonly ProducerCore producer
    cdef int64_t partition
    cdef uint32_t lane
    cdef bint direct              # whole columns, past the producer's builders
    cdef uint32_t frame_bytes_max
    cdef uint32_t lane_count      # of the producer, when it was looked at
    # How lines are read.
    cdef ps_lines_form form
    cdef ps_lines_limits limits
    cdef object owners            # of what the form points to
    cdef bint plain               # nothing but values
    cdef int64_t stamp
    cdef bint has_stamp
    cdef Headers headers
    # Input held: [start, end) of memory[HELD], of which `room` bytes may be used and one more for a delimiter.
    cdef size_t start
    cdef size_t end
    cdef size_t room
    cdef size_t chunk_bytes
    cdef int64_t linger_ns
    cdef str name
    # The columns of a batch, in memory that is used again for the next.
    cdef ps_lines_column keys
    cdef ps_lines_column values
    cdef Buffer memory[MEMORIES]
    cdef uint32_t header_rows     # made so far: they are the same for every batch
    cdef ps_scratch scratch
    # Counters.
    cdef readonly int64_t line    # lines taken from the input at hand
    cdef readonly int64_t records
    cdef readonly int64_t input_bytes  # taken

    def __init__(self, ProducerCore producer not None, *, int partition=-1, bytes delimiter=b"\n",
                 bytes separator=None, bytes null_text=None, bint strip_cr=False, headers=(), timestamp=None,
                 size_t chunk_bytes=CHUNK_BYTES, int64_t linger_ns=5_000_000):
        """separator: of key and value, None: no keys. null_text: what stands for null. timestamp: int ns, for all
        records; None: when they are appended. partition: -1 for all."""
        if self.producer is not None:
            raise RuntimeError("a LineWriter is made once")
        if len(delimiter) != 1:
            raise ValueError(f"delimiter={delimiter!r}: must be one byte")
        if separator is not None and (not separator or delimiter in separator):
            raise ValueError(f"separator={separator!r}: must be one or more bytes, and not hold the delimiter")
        if chunk_bytes < 1:
            raise ValueError("chunk_bytes must be positive")
        producer.check_open()
        self.partition = -1 if partition < 0 else producer.lane_named(partition)
        self.lane = <uint32_t>(ps_os_random_u64() % producer.lane_count)
        self.headers = Headers.__new__(Headers)
        self.headers.open(headers)
        if any(value is None for _, value in headers):
            raise ValueError("headers: a header of every line has a value")
        if timestamp is not None:
            if producer.schema.log_append_time:
                raise ValueError('timestamp= cannot be given: the topic stamps records itself '
                                 '(timestamp_type="append")')
            self.stamp = timestamp
            self.has_stamp = True
        self.owners = (separator, null_text)
        self.form.separator = text_of(separator)
        self.form.separator_bytes = 0 if separator is None else len(separator)
        self.form.null_text = text_of(null_text)
        self.form.null_bytes = 0 if null_text is None else len(null_text)
        self.form.delimiter = delimiter[0]
        self.form.strip_cr = strip_cr
        self.plain = separator is None and null_text is None and not strip_cr
        self.follow(producer)
        self.chunk_bytes = chunk_bytes
        self.linger_ns = linger_ns
        self.make_room(chunk_bytes)
        self.producer = producer

    cdef int follow(self, ProducerCore producer) except -1:
        """Go by the topic as it is now: its limits and partitions may change."""
        cdef LogHandle log = producer.logs[0]
        if self.lane_count == producer.lane_count and self.frame_bytes_max == ps_log_frame_bytes_max(log.log):
            return 0
        self.lane_count = producer.lane_count
        # A null slot of fixed width has bytes that no line has: builders know how to make one.
        self.direct = ((self.form.separator_bytes == 0 or ((self.partition >= 0 or self.lane_count == 1)
                                                           and producer.schema.key_width < 0))
                       and (self.owners[1] is None or producer.schema.value_width < 0))
        return self.set_limits(producer)

    cdef int set_limits(self, ProducerCore producer) except -1:
        cdef uint32_t i
        cdef LogHandle log = producer.logs[0]
        self.frame_bytes_max = ps_log_frame_bytes_max(log.log)
        self.limits.bytes_max = self.frame_bytes_max - PS_BUILDER_FIXED_BYTES
        self.limits.count_max = PS_RECORDS_PER_BATCH_MAX
        self.limits.record_bytes = 13 if self.form.separator_bytes == 0 else 18
        if self.headers.count:
            self.limits.record_bytes += 4
        for i in range(self.headers.count):
            self.limits.record_bytes += 9 + self.headers.items[i].key_bytes + max(self.headers.items[i].value_bytes, 0)
        return 0

    def __dealloc__(self):
        cdef int i
        ps_scratch_free(&self.scratch)
        for i in range(MEMORIES):
            free(self.memory[i].data)

    cdef int make_room(self, size_t bytes) except -1:
        """For `bytes` of input held, and for what they become."""
        self.room = bytes
        reserve(&self.memory[HELD], bytes + 1)
        reserve(&self.memory[VALUE_DATA], bytes + 1 + PS_LINES_SLACK)
        if self.form.separator_bytes:
            reserve(&self.memory[KEY_DATA], bytes + 1 + PS_LINES_SLACK)
        return 0

    # ---- reading

    def run(self, int fd, str name="input"):
        """Append the lines of a file, pipe or terminal until its end; `name` is for messages.

        A last line without delimiter counts. Raises what the system or the topic raises, and what a signal
        handler does; then whole lines that were read are still held: `flush` appends them.
        """
        cdef int64_t got, wait, due = 0
        cdef bint fresh = False
        self.begin(name)
        ps_pipe_widen(fd, PIPE_BYTES)
        while True:
            self.compact()
            wait = max(due - ps_os_monotonic_ns(), <int64_t>0) if fresh else -1
            got = self.read_some(fd, wait)
            if got == 0:
                break
            if got > 0:
                if not fresh:
                    fresh = True
                    due = ps_os_monotonic_ns() + self.linger_ns
                self.end += got
                if self.end < self.room and ps_os_monotonic_ns() < due:
                    continue
            self.append_lines()
            fresh = False
        self.finish()

    def feed(self, const unsigned char[::1] data not None, str name="input"):
        """Take lines from memory, which may begin and end within one; `finish` says that there are no more."""
        cdef size_t at = 0, some
        if self.name is None:
            self.begin(name)
        while at < <size_t>data.shape[0]:
            self.compact()
            some = min(<size_t>data.shape[0] - at, self.room - self.end)
            memcpy(self.memory[HELD].data + self.end, &data[at], some)
            self.end += some
            at += some
            if self.end == self.room:
                self.append_lines()

    def finish(self):
        """The input has ended: append all that is held, the last line even if nothing ends it."""
        cdef uint8_t *held = self.memory[HELD].data
        if self.end > self.start and held[self.end - 1] != self.form.delimiter:
            held[self.end] = self.form.delimiter
            self.end += 1
            self.input_bytes -= 1
        self.append_lines()
        self.name = None

    def flush(self):
        """Append the whole lines that are held; answers the bytes of an unfinished one, which stays."""
        self.append_lines()
        return self.end - self.start

    cdef int begin(self, str name) except -1:
        if self.end > self.start:
            raise ValueError("lines of another input are still held: finish() it first")
        self.name = name
        self.line = 0
        return 0

    cdef int compact(self) except -1:
        """Room for input behind what is held."""
        cdef uint8_t *held = self.memory[HELD].data
        self.end -= self.start
        if self.start and self.end:
            memmove(held, held + self.start, self.end)
        self.start = 0
        if self.end >= self.room:  # one line, unfinished
            self.make_room(min(self.room * 2, <size_t>self.frame_bytes_max + 1))
        return 0

    cdef int64_t read_some(self, int fd, int64_t wait_ns) except? -1:
        """Bytes read, 0 at the end, LATE when none came in time."""
        cdef uint8_t *at = self.memory[HELD].data + self.end
        cdef size_t bytes = self.room - self.end
        cdef int64_t got
        while True:
            with nogil:
                got = ps_pipe_wait_readable(fd, SLICE_NS if wait_ns < 0 else wait_ns)
                if got > 0:
                    got = ps_pipe_read(fd, at, bytes)
                elif got == 0:
                    got = LATE
            if got >= 0:
                return got
            PyErr_CheckSignals()
            if got == LATE or got == -EINTR or got == -EAGAIN:
                if wait_ns >= 0:
                    return LATE
            else:
                raise_errno(got, self.name)

    # ---- appending

    cdef int append_lines(self) except -1:
        """Append every whole line held."""
        while self.append_batch():
            pass
        if self.end - self.start > self.frame_bytes_max:
            raise self.too_large()
        return 0

    cdef object too_large(self):
        return RecordTooLargeError(
            f"{self.name}, line {self.line + 1}: takes more than the {self.limits.bytes_max} bytes that one record of "
            f"topic {self.producer.schema.topic!r} may take with its bookkeeping; alter the topic: a larger "
            "segment_bytes= or max_message_bytes=", topic=self.producer.schema.topic)

    cdef bint append_batch(self) except -1:
        """Append lines held as one batch; False: no whole line is held."""
        cdef ps_lines_found found
        if self.start == self.end:
            return False
        self.producer.check_open()
        self.follow(self.producer)
        self.split(&self.limits, &found)
        self.check_widths(&found)
        if found.count == 0:
            if found.full:
                raise self.too_large()
            return False
        if self.direct:
            self.append(&found)
        else:
            self.send(&found)
        self.took(&found)
        return True

    cdef void took(self, const ps_lines_found *found) noexcept:
        self.start += found.taken
        self.line += found.count
        self.records += found.count
        self.input_bytes += found.taken

    cdef int split(self, const ps_lines_limits *limits, ps_lines_found *found) except -1:
        cdef const uint8_t *data = self.memory[HELD].data + self.start
        cdef size_t bytes = self.end - self.start
        cdef size_t lines = bytes + 2
        reserve(&self.memory[VALUE_OFFSETS], lines * sizeof(int32_t))  # pages that are not used cost nothing
        self.values.data = self.memory[VALUE_DATA].data
        self.values.offsets = <int32_t *>self.memory[VALUE_OFFSETS].data
        if self.plain:
            with nogil:
                ps_lines_split(data, bytes, self.form.delimiter, limits, self.values.data, self.values.offsets, found)
            return 0
        reserve(&self.memory[VALUE_VALIDITY], lines // 8 + 1)
        self.values.validity = self.memory[VALUE_VALIDITY].data
        if self.form.separator_bytes:
            reserve(&self.memory[KEY_OFFSETS], lines * sizeof(int32_t))
            reserve(&self.memory[KEY_VALIDITY], lines // 8 + 1)
            self.keys.data = self.memory[KEY_DATA].data
            self.keys.offsets = <int32_t *>self.memory[KEY_OFFSETS].data
            self.keys.validity = self.memory[KEY_VALIDITY].data
        with nogil:
            ps_lines_split_keyed(data, bytes, &self.form, limits, &self.keys, &self.values, found)
        return 0

    cdef int check_widths(self, ps_lines_found *found) except -1:
        """Where the topic's values or keys have a fixed width: take only the lines before the first that does not
        fit, and raise when that is the first."""
        cdef uint32_t bad = found.count
        cdef int64_t key_less, key_at = -1, value_at = self.first_odd(&self.values, found.count, self.producer.schema.value_width)
        if self.form.separator_bytes:
            key_at = self.first_odd(&self.keys, found.count, self.producer.schema.key_width)
        if self.producer.needs_keys():
            key_less = self.first_keyless(found.count)
            if key_less == 0:
                raise key_required(self.producer.schema.topic, f"{self.name}, line {self.line + 1},", self.line)
            if key_less > 0:
                bad = <uint32_t>key_less
        if value_at < 0 and key_at < 0:
            return 0 if bad == found.count else self.split_few(bad, found)
        if value_at == 0 or key_at == 0:
            column, what, width = self.values, "value", self.producer.schema.value_width
            if value_at != 0:
                column, what, width = self.keys, "key", self.producer.schema.key_width
            raise BadLineError(
                f"{self.name}, line {self.line + 1}: the {what} has {column.offsets[1] - column.offsets[0]} bytes; every "
                f"{what} of topic {self.producer.schema.topic!r} has exactly {width}", self.line + 1)
        if value_at > 0:
            bad = min(bad, <uint32_t>value_at)
        if key_at > 0:
            bad = min(bad, <uint32_t>key_at)
        return self.split_few(bad, found)

    cdef int split_few(self, uint32_t count, ps_lines_found *found) except -1:
        """The first lines of those found, once more."""
        cdef ps_lines_limits fewer = self.limits
        fewer.count_max = count
        return self.split(&fewer, found)

    cdef int64_t first_odd(self, const ps_lines_column *column, uint32_t count, int32_t width) noexcept:
        cdef uint32_t i
        if width < 0:
            return -1
        for i in range(count):
            if column.offsets[i + 1] - column.offsets[i] != width and self.has(column, i):
                return i
        return -1

    cdef int64_t first_keyless(self, uint32_t count) noexcept:
        cdef uint32_t i
        if self.form.separator_bytes == 0:
            return 0 if count else -1
        for i in range(count if self.keys.nulls else 0):
            if not self.has(&self.keys, i):
                return i
        return -1

    cdef bint has(self, const ps_lines_column *column, uint32_t i) noexcept:
        return self.plain or (column.validity[i >> 3] >> (i & 7)) & 1

    cdef int append(self, const ps_lines_found *found) except -1:
        """The lines found, as one batch, in this thread."""
        cdef ProducerCore core = self.producer
        cdef ps_columns columns
        cdef Appended appended
        cdef LogHandle log
        cdef uint32_t to = <uint32_t>self.partition if self.partition >= 0 else self.lane
        memset(&columns, 0, sizeof(columns))
        columns.count = found.count
        columns.first_timestamp = self.stamp if self.has_stamp else ps_os_now_ns()
        self.fill(&columns.values, &self.values, found.count, core.schema.value_width)
        columns.keys.width = core.schema.key_width
        columns.header_keys.width = columns.header_values.width = -1
        if self.form.separator_bytes and self.keys.nulls < found.count:
            columns.has_keys = True
            self.fill(&columns.keys, &self.keys, found.count, core.schema.key_width)
        if self.headers.count:
            self.fill_headers(&columns)
        log = core.logs[to]
        append_columns(log, &columns, core.codec, NULL, &self.scratch, -1, &appended)
        ps_lane_set_unsynced(ps_producer_lane(core.p, to))
        self.lane = (self.lane + 1) % core.lane_count
        return 0

    cdef void fill(self, ps_binary *out, const ps_lines_column *column, uint32_t count, int32_t width) noexcept:
        out.validity = column.validity if not self.plain and column.nulls else NULL
        out.offsets = column.offsets if width < 0 else NULL
        out.data = column.data
        out.bytes = column.offsets[count]
        out.width = width

    cdef int fill_headers(self, ps_columns *columns) except -1:
        """The same headers for each record. The columns of a small batch are the beginning of those of a large."""
        cdef uint32_t n = self.headers.count, rows = columns.count
        if rows > self.header_rows:
            rows = min(max(rows, self.header_rows * 2), self.limits.count_max)
            self.make_headers(rows)
        columns.has_headers = True
        columns.header_lists = <int32_t *>self.memory[HEADER_LISTS].data
        columns.header_count = columns.count * n
        columns.header_keys.offsets = <int32_t *>self.memory[HEADER_KEY_OFFSETS].data
        columns.header_keys.data = self.memory[HEADER_KEY_DATA].data
        columns.header_keys.bytes = columns.header_keys.offsets[columns.header_count]
        columns.header_values.offsets = <int32_t *>self.memory[HEADER_VALUE_OFFSETS].data
        columns.header_values.data = self.memory[HEADER_VALUE_DATA].data
        columns.header_values.bytes = columns.header_values.offsets[columns.header_count]
        return 0

    cdef int make_headers(self, uint32_t rows) except -1:
        cdef uint32_t i, n = self.headers.count
        cdef size_t key_bytes = 0, value_bytes = 0, at = 0
        for i in range(n):
            key_bytes += self.headers.items[i].key_bytes
            value_bytes += self.headers.items[i].value_bytes
        reserve(&self.memory[HEADER_LISTS], (<size_t>rows + 1) * sizeof(int32_t))
        reserve(&self.memory[HEADER_KEY_OFFSETS], (<size_t>rows * n + 1) * sizeof(int32_t))
        reserve(&self.memory[HEADER_VALUE_OFFSETS], (<size_t>rows * n + 1) * sizeof(int32_t))
        reserve(&self.memory[HEADER_KEY_DATA], rows * key_bytes + 1)
        reserve(&self.memory[HEADER_VALUE_DATA], rows * value_bytes + 1)
        cdef int32_t *lists = <int32_t *>self.memory[HEADER_LISTS].data
        cdef int32_t *key_offsets = <int32_t *>self.memory[HEADER_KEY_OFFSETS].data
        cdef int32_t *value_offsets = <int32_t *>self.memory[HEADER_VALUE_OFFSETS].data
        cdef uint8_t *key_data = self.memory[HEADER_KEY_DATA].data
        cdef uint8_t *value_data = self.memory[HEADER_VALUE_DATA].data
        cdef uint32_t row
        lists[0] = key_offsets[0] = value_offsets[0] = 0
        for row in range(rows):
            lists[row + 1] = <int32_t>((row + 1) * n)
            for i in range(n):
                memcpy(key_data + key_offsets[at], self.headers.items[i].key, self.headers.items[i].key_bytes)
                memcpy(value_data + value_offsets[at], self.headers.items[i].value, self.headers.items[i].value_bytes)
                key_offsets[at + 1] = key_offsets[at] + self.headers.items[i].key_bytes
                value_offsets[at + 1] = value_offsets[at] + self.headers.items[i].value_bytes
                at += 1
        self.header_rows = rows
        return 0

    cdef int send(self, const ps_lines_found *found) except -1:
        """The lines found, one by one, to the producer's builders."""
        cdef ProducerCore core = self.producer
        cdef ps_record r
        cdef ps_lines_found sent
        cdef int64_t lane
        cdef uint32_t i
        core.collect()
        memset(&r, 0, sizeof(r))
        r.headers = self.headers.items
        r.header_count = self.headers.count
        r.timestamp = self.stamp
        r.has_timestamp = self.has_stamp
        r.key_bytes = -1
        for i in range(found.count):
            r.value = self.values.data + self.values.offsets[i]
            r.value_bytes = self.values.offsets[i + 1] - self.values.offsets[i] if self.has(&self.values, i) else -1
            lane = self.partition if self.partition >= 0 else <int64_t>PS_LANE_STICKY
            if self.form.separator_bytes:
                r.key = self.keys.data + self.keys.offsets[i]
                r.key_bytes = self.keys.offsets[i + 1] - self.keys.offsets[i] if self.has(&self.keys, i) else -1
                if self.partition < 0:
                    lane = core.lane_of(None, <const uint8_t *>r.key, r.key_bytes)
            try:
                core.add(lane, &r, None)
            except BaseException:  # those before it are the producer's now
                if i:
                    self.split_few(i, &sent)
                    self.took(&sent)
                raise
        return 0
