# The kernels of the writing side: builders, producers, helper threads. Declarations only.
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from pystream._native.c_api cimport ps_error, ps_log, ps_status


cdef extern from "ps_builder.h" nogil:
    ctypedef struct ps_header:
        const char *key
        const void *value
        uint32_t key_bytes
        int32_t value_bytes
    ctypedef struct ps_record:
        const void *value
        const void *key
        int64_t value_bytes
        int64_t key_bytes
        int64_t timestamp
        const ps_header *headers
        uint32_t header_count
        bint has_timestamp
    ctypedef struct ps_builder:
        uint32_t count
        int64_t base_offset
        uint32_t lane
        void *user
        ps_error error
    int64_t ps_builder_timestamp(const ps_builder *builder, uint32_t i)


cdef extern from "ps_keeper.h" nogil:
    ctypedef struct ps_keeper:
        pass
    ctypedef struct ps_kept:
        pass
    ps_kept *ps_keeper_keep(ps_keeper *keeper, ps_log *log, int64_t interval_ns, bint populates,
                            uint32_t segment_bytes)
    void ps_kept_set(ps_kept *kept, int64_t interval_ns, bint populates, uint32_t segment_bytes)
    void ps_keeper_forget(ps_keeper *keeper, ps_kept *kept)
    void ps_kept_free(ps_kept *kept)
    void ps_kept_poke(ps_kept *kept)
    bint ps_kept_is_behind(const ps_kept *kept)
    ps_status ps_kept_wait(ps_kept *kept, int64_t timeout_ns)
    int64_t ps_kept_lag_ns_max(ps_kept *kept)
    int64_t ps_kept_late_ns(const ps_kept *kept)
    void ps_kept_note(ps_kept *kept, uint64_t bytes)


cdef extern from "ps_producer.h" nogil:
    enum:
        PS_LANE_STICKY
    ctypedef struct ps_lane:
        ps_log *log
        ps_kept *kept
        uint32_t codec
        int32_t value_width
        int32_t key_width
    ctypedef struct ps_producer_options:
        uint32_t batch_bytes
        uint32_t batch_records
        uint64_t buffer_bytes
        int64_t linger_ns
        bint reports
    ctypedef struct ps_producer_stats:
        uint64_t records
        uint64_t bytes
        uint64_t batches
        uint64_t failed_records
        uint64_t errors
        uint64_t retries
        int64_t last_ns
        uint64_t pending_records
        uint64_t pending_bytes
    ctypedef struct ps_producer:
        uint32_t attention
        bint has_error
        bint forked
        uint32_t sticky
    ctypedef struct ps_scratch:
        void *data
        uint64_t bytes
    void *ps_scratch_reserve(ps_scratch *scratch, uint64_t bytes)
    void ps_scratch_free(ps_scratch *scratch)
    ctypedef struct ps_lanes:
        ps_lane *lanes
    ps_producer *ps_producer_new(const ps_producer_options *options, uint32_t lane_count)
    ps_lanes *ps_producer_more(ps_producer *producer, uint32_t count)
    void ps_lanes_free(ps_lanes *more)
    void ps_producer_grow(ps_producer *producer, ps_lanes *more)
    ps_lane *ps_producer_lane(ps_producer *producer, uint32_t index)
    void ps_producer_free(ps_producer *producer)
    ctypedef struct ps_added:
        ps_builder *builder
        uint32_t index
        uint32_t lane
    ps_status ps_producer_add(ps_producer *producer, uint32_t lane, const ps_record *record, bint tracked,
                              ps_added *added, ps_error *err)
    ps_status ps_producer_drain(ps_producer *producer, uint32_t lane, ps_scratch *scratch, int64_t timeout_ns)
    bint ps_lane_take_unsynced(ps_lane *lane)
    void ps_lane_set_unsynced(ps_lane *lane)
    uint64_t ps_producer_send_off(ps_producer *producer, uint32_t lane)
    bint ps_producer_is_settled(ps_producer *producer, uint32_t lane, uint64_t target)
    uint64_t ps_producer_deliveries(const ps_producer *producer)
    ps_status ps_producer_wait_room(ps_producer *producer, int64_t timeout_ns)
    bint ps_producer_take_error(ps_producer *producer, ps_error *err, uint64_t *records, uint32_t *lane)
    ps_builder *ps_producer_fetch(ps_producer *producer)
    void ps_producer_recycle(ps_producer *producer, ps_builder *builder)
    uint64_t ps_producer_abandon(ps_producer *producer, const ps_error *fallback, ps_error *why, uint32_t *lane)
    void ps_producer_get_stats(ps_producer *producer, ps_producer_stats *out)
    uint32_t ps_producer_next_sticky(ps_producer *producer)
    bint ps_producer_add_plain(ps_producer *producer, const void *value, size_t bytes)
    bint ps_producer_add_keyed(ps_producer *producer, uint32_t lane, const void *value, size_t bytes,
                               const void *key, size_t key_bytes)


cdef extern from "ps_worker.h" nogil:
    ctypedef struct ps_worker:
        ps_keeper keeper
    ps_worker *ps_worker_new()
    ps_status ps_worker_start(ps_worker *worker, ps_error *err)
    void ps_worker_stop(ps_worker *worker)
    void ps_worker_attach(ps_worker *worker, ps_producer *producer)
    void ps_worker_detach(ps_worker *worker, ps_producer *producer)
    void ps_worker_before_fork(ps_worker *worker)
    void ps_worker_after_fork_parent(ps_worker *worker)
    void ps_worker_after_fork_child(ps_worker *worker)
