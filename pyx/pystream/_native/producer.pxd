from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from pystream._native.c_api cimport cbool, ps_murmur2
from pystream._native.log cimport LogHandle, StoreHandle
from pystream._native.schema cimport Schema
from pystream._native.serial cimport Coder
from pystream._native.write_api cimport ps_lane, ps_producer, ps_record


cdef inline uint32_t lane_of_hash(const void *key, size_t key_bytes, uint32_t lanes) noexcept nogil:
    """Kafka's rule: Utils.toPositive(Utils.murmur2(key)) % partitions."""
    return <uint32_t>(ps_murmur2(key, key_bytes) & 0x7fffffff) % lanes


cdef class ProducerCore:
    cdef ps_producer *p
    cdef uint32_t lane_count
    cdef bint hashes           # keys choose lanes by murmur2
    cdef bint is_closed
    cdef bint is_closing
    cdef unsigned long reporter  # the thread that is calling callbacks, or 0
    cdef bint never_waits      # for room: BufferFull instead
    cdef const cbool *key_rule  # of the first log: whether records need keys
    cdef bint is_coded         # values or keys are serialized
    cdef list logs
    cdef Schema schema         # with the producer's serializers
    cdef Coder value_coder     # or None
    cdef Coder key_coder       # or None
    cdef StoreHandle store
    cdef uint32_t codec
    cdef uint32_t batch_bytes
    cdef uint32_t batch_records
    cdef object partitioner    # callable(key, partitions) or None
    cdef object on_delivery    # callable(error, metadata) or None
    cdef object parse_time
    cdef int64_t records_in    # by send_many: sent here, in this thread
    cdef int64_t bytes_in
    cdef int64_t batches_in
    cdef int64_t failed_in
    cdef int64_t errors_in
    cdef int64_t last_in       # wall clock, ns
    cdef object __weakref__

    cdef int set_options(self, uint64_t batch_bytes, uint64_t batch_records, int64_t linger_ns,
                         uint64_t buffer_bytes, object partitioner, object on_delivery) except -1
    cdef int fill(self, ps_lane *lane, LogHandle log) except -1
    cdef int check_width(self, str name, int64_t got, int32_t width) except -1
    cdef int abandon(self) except -1
    cdef int check_open(self) except -1
    # Records without keys are refused: the topic is compacted.
    cdef bint needs_keys(self) noexcept
    cdef int collect(self) except -1
    cdef object report_all(self)
    cdef bint wait_for_reports(self, int64_t deadline_ns) except -1
    cdef int64_t lane_of(self, object key, const uint8_t *data, int64_t key_bytes) except -1
    cdef int64_t lane_named(self, object partition) except -1
    cdef int send_coded(self, object value, object key, object headers, object timestamp, object partition,
                        object on_delivery) except -1
    cdef int send_any(self, object value, object key, object headers, object timestamp, object partition,
                      object on_delivery) except -1
    cdef int add(self, int64_t lane, const ps_record *record, object on_delivery) except -1
    cdef int64_t drain(self, uint32_t lane, int64_t deadline_ns, bint patient) except -1
    cdef int finish(self, int64_t deadline_ns) except -1
    cdef int sync_lanes(self) except -1
