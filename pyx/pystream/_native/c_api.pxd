# What the C kernels offer, as their headers say it. Declarations only.
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stddef cimport size_t


cdef extern from "<stdbool.h>" nogil:
    ctypedef bint cbool "bool"


cdef extern from "ps_format.h" nogil:
    const int64_t PS_TIMESTAMP_NONE
    enum:
        PS_ALIGN
        PS_CODEC_NONE
        PS_CODEC_LZ4
        PS_ATTR_TIMESTAMPS_EQUAL
        PS_ATTR_LOG_APPEND_TIME
        PS_ATTR_TRANSACTIONAL
        PS_ATTR_CONTROL
        PS_ATTR_DELETE_HORIZON
        PS_FRAME_HEADER_BYTES
        PS_SEGMENT_BYTES_MIN
        PS_SEGMENT_BYTES_MAX
        PS_RECORDS_PER_BATCH_MAX
        PS_HEADERS_PER_RECORD_MAX
        PS_HEADER_KEY_BYTES_MAX
        PS_PARTITIONS_MAX
        PS_TOPIC_NAME_BYTES_MAX
        PS_FORMAT_VERSION


cdef extern from "ps_status.h" nogil:
    ctypedef enum ps_status:
        PS_OK
        PS_END
        PS_OS_ERROR
        PS_NO_MEMORY
        PS_CORRUPT
        PS_VERSION
        PS_POISONED
        PS_DELETED
        PS_FORKED
        PS_CLOSED
        PS_TOO_LARGE
        PS_INVALID
        PS_TIMEOUT
        PS_READ_ONLY
        PS_HELD
        PS_INTERRUPTED
        PS_OUT_OF_RANGE
        PS_NOT_FOUND
    ctypedef struct ps_error:
        ps_status status
        int os_errno
        int64_t offset
        int64_t segment
        int64_t position
        char what[160]
        char path[512]
    ps_status ps_fail(ps_error *err, ps_status status, const char *path, const char *what)


cdef extern from "ps_hash.h" nogil:
    ctypedef struct ps_piece:
        const void *data
        size_t bytes
    uint64_t ps_hash(const void *data, size_t bytes)
    const char *ps_hash_variant()
    int32_t ps_murmur2(const void *data, size_t bytes)


cdef extern from "ps_frame.h" nogil:
    ctypedef struct ps_frame_meta:
        uint64_t body_checksum
        uint32_t frame_bytes
        uint32_t attributes
        int64_t base_offset
        uint32_t record_count
        uint32_t last_offset_delta
        int64_t first_timestamp
        int64_t max_timestamp
        uint32_t stored_bytes
        uint32_t raw_bytes
        int32_t value_width
        int32_t key_width
        int64_t delete_horizon
        int64_t durable_offset
        int32_t leader_epoch
        int32_t schema_id
        int64_t producer_id
        int32_t base_sequence
        int16_t producer_epoch
        uint8_t batch_uuid[16]
        uint32_t key_bytes
        uint32_t value_bytes
        uint32_t header_count
        uint32_t header_key_bytes
        uint32_t header_value_bytes
    ctypedef struct ps_binary:
        const uint8_t *validity
        const int32_t *offsets
        const uint8_t *data
        uint32_t bytes
        int32_t width
    ctypedef struct ps_columns:
        uint32_t count
        const uint32_t *offset_deltas
        const int64_t *timestamps
        int64_t first_timestamp
        bint has_keys
        ps_binary keys
        ps_binary values
        bint has_headers
        const int32_t *header_lists
        uint32_t header_count
        ps_binary header_keys
        ps_binary header_values
    ctypedef struct ps_prepared:
        ps_frame_meta meta
        ps_piece pieces[32]
        size_t piece_count
    void ps_frame_meta_init(ps_frame_meta *meta)
    uint64_t ps_columns_raw_bytes(const ps_columns *columns)
    uint64_t ps_frame_bytes_raw(const ps_columns *columns)
    uint64_t ps_frame_scratch_bytes(const ps_columns *columns, uint32_t codec)
    ps_status ps_frame_prepare(const ps_columns *columns, const ps_frame_meta *proto, uint32_t codec,
                               uint32_t frame_bytes_max, void *scratch, uint64_t scratch_bytes,
                               ps_prepared *out, ps_error *err)
    void ps_frame_prepare_empty(uint32_t offsets, ps_prepared *out)
    ps_status ps_frame_decompress(const uint8_t *p, const ps_frame_meta *meta, uint8_t *out)
    ps_status ps_frame_columns(const ps_frame_meta *meta, const uint8_t *body, uint64_t raw_bytes, ps_columns *out)
    ps_status ps_columns_check(const ps_frame_meta *meta, const ps_columns *columns)
    uint32_t ps_frame_codec(const ps_frame_meta *m)
    int64_t ps_frame_next_offset(const ps_frame_meta *m)
    bint ps_bit(const uint8_t *bits, uint32_t i)
    uint32_t ps_columns_find_offset(const ps_columns *c, int64_t base_offset, int64_t offset)


cdef extern from "ps_os.h" nogil:
    ctypedef int (*ps_hook)(void *context, const char *name)
    ctypedef struct ps_env:
        ps_hook hook
        void *context
    ctypedef enum ps_fault_action:
        PS_FAULT_NONE
        PS_FAULT_KILL
        PS_FAULT_ERRNO
    ctypedef struct ps_fault_plan:
        char name[64]
        int64_t nth
        int64_t times
        int64_t seen
        ps_fault_action action
        int os_errno
    int ps_env_ask(const ps_env *env, const char *name)
    bint ps_fault_parse(const char *text, ps_fault_plan *plan)
    int ps_fault_hook(void *context, const char *name)
    int64_t ps_os_now_ns()
    int64_t ps_os_monotonic_ns()
    uint64_t ps_os_random_u64()
    int ps_os_openat(const ps_env *env, int dirfd, const char *path, int flags, unsigned int mode)
    int ps_os_close(int fd)
    void ps_os_unmap(void *address, size_t bytes)
    int ps_os_lock_try(const ps_env *env, int fd, int64_t at, bint shared)
    int ps_os_lock_wait(const ps_env *env, int fd, int64_t at, bint shared)
    int ps_os_unlock(int fd, int64_t at)
    int ps_os_lock_look(const ps_env *env, int fd, int64_t at)
    int ps_os_nap(int64_t ns)
    int ps_os_futex_wait(const void *word, uint32_t seen, int64_t timeout_ns)
    void ps_os_futex_wake_all(const void *word)
    enum:
        PS_WAIT_WORDS_MAX
    int ps_os_futex_wait_many(const void **words, const uint32_t *seen, size_t count, int64_t timeout_ns)
    ctypedef enum ps_io:
        PS_IO_AUTO
        PS_IO_MAP
        PS_IO_PWRITE
        PS_IO_REFUSED
    ps_io ps_os_choose_io(int fd, char *name)


cdef extern from "ps_segment.h" nogil:
    ctypedef struct ps_segment:
        int64_t base_offset
        int32_t leader_epoch
        uint32_t capacity
        const uint8_t *map
        char path[512]
    void ps_segment_ref(ps_segment *segment)
    void ps_segment_unref(ps_segment *segment)


cdef extern from "ps_maps.h" nogil:
    const size_t PS_MAPS_MAX
    ctypedef struct ps_maps:
        size_t count
        size_t max


cdef extern from "ps_log.h" nogil:
    ctypedef enum ps_durability:
        PS_DURABILITY_NONE
        PS_DURABILITY_INTERVAL
        PS_DURABILITY_SYNC
    ctypedef struct ps_reserve:
        int64_t min_free_bytes
        bint low
        uint32_t rolls
        uint32_t trims
    ctypedef struct ps_log_options:
        uint8_t topic_uuid[16]
        uint32_t partition
        uint32_t segment_bytes
        uint32_t index_interval_bytes
        ps_durability durability
        ps_io io
        uint64_t incarnation
        bint log_append_time
        bint topic_locks
        bint read_only
        int live_fd
        ps_reserve *reserve
        ps_maps *maps
        uint32_t message_bytes_max
    ctypedef struct ps_log_alterable:
        uint32_t segment_bytes
        uint32_t index_interval_bytes
        uint32_t message_bytes_max
        ps_durability durability
        bint log_append_time
    ctypedef struct ps_log:
        pass
    ps_status ps_log_open(const ps_env *env, const char *dir, int locks_fd, const ps_log_options *options,
                          bint create, ps_log **out, ps_error *err)
    ps_status ps_log_close(ps_log *log, ps_error *err)
    void ps_log_set_options(ps_log *log, const ps_log_alterable *options)
    void ps_log_set_needs_keys(ps_log *log, bint needs_keys)
    bint ps_log_needs_keys(const ps_log *log)
    const cbool *ps_log_needs_keys_place(const ps_log *log)
    void ps_log_free(ps_log *log)
    void ps_log_after_fork(ps_log *log)
    ps_status ps_log_append(ps_log *log, ps_prepared *batch, int64_t timeout_ns, int64_t *base_offset, ps_error *err)
    ps_status ps_log_sync(ps_log *log, ps_error *err)
    void ps_log_start_writeback(ps_log *log)
    bint ps_log_is_dirty(const ps_log *log)
    uint64_t ps_log_rolls(const ps_log *log)
    ps_status ps_log_hold(ps_log *log, int64_t timeout_ns, ps_error *err)
    void ps_log_release(ps_log *log)
    bint ps_log_is_held(const ps_log *log)
    void ps_log_prepare_next(ps_log *log)
    void ps_log_populate(ps_log *log, uint64_t bytes)
    int64_t ps_log_start_offset(const ps_log *log)
    int64_t ps_log_high_watermark(ps_log *log)
    int64_t ps_log_readable_offset(ps_log *log, bint durable)
    int64_t ps_log_end_offset(ps_log *log)
    int64_t ps_log_durable_offset(ps_log *log)
    bint ps_log_is_read_only(const ps_log *log)
    int32_t ps_log_leader_epoch(const ps_log *log)
    ps_status ps_log_check(const ps_log *log, ps_error *err)
    void ps_log_poison(ps_log *log, int os_errno)
    uint32_t ps_log_segment_bytes(const ps_log *log)
    uint32_t ps_log_frame_bytes_max(const ps_log *log)
    bint ps_log_stamps(const ps_log *log)
    ctypedef struct ps_log_stats:
        int64_t log_start
        int64_t high_watermark
        int64_t log_end
        int64_t durable
        uint64_t appends
        uint64_t appended_records
        uint64_t appended_bytes
        uint64_t syncs
        uint64_t rolls
        uint64_t mends
        uint64_t cuts
        uint64_t wakes
        uint64_t segments
        uint64_t stored_bytes
        uint64_t lent_segments
        uint64_t lent_bytes
        uint64_t pinned_bytes
    void ps_log_get_stats(ps_log *log, ps_log_stats *out)
    void ps_log_get_counters(ps_log *log, ps_log_stats *out)
    ctypedef struct ps_cursor:
        ps_segment *segment
        uint64_t position
        int64_t next_offset
        bint durable
    ctypedef struct ps_frame_view:
        ps_segment *segment
        uint64_t position
        const uint8_t *frame
        const uint8_t *body
        ps_frame_meta meta
    void ps_cursor_init(ps_cursor *cursor)
    void ps_cursor_clear(ps_cursor *cursor)
    ps_status ps_cursor_seek(ps_log *log, ps_cursor *cursor, int64_t offset, ps_error *err)
    ps_status ps_cursor_next(ps_log *log, ps_cursor *cursor, ps_frame_view *view, ps_error *err)
    ps_status ps_log_epoch_end(ps_log *log, int32_t epoch, int64_t *end, ps_error *err)
    ps_status ps_log_find_time(ps_log *log, int64_t timestamp, int64_t *offset, int64_t *found, ps_error *err)
    const void *ps_log_signal_word(const ps_log *log)
    uint32_t ps_log_listen(ps_log *log)
    ps_status ps_log_wait(ps_log *log, int64_t offset, int64_t spin_ns, int64_t timeout_ns)
    void ps_log_wake(ps_log *log)
    ps_status ps_live_enter(const ps_env *env, const char *path, int fd, uint64_t *incarnation, ps_error *err)


cdef extern from "ps_retain.h" nogil:
    ctypedef struct ps_retention:
        int64_t min_timestamp
        int64_t max_bytes
        int64_t roll_before
    ctypedef struct ps_retained:
        int64_t log_start
        uint64_t bytes
        uint32_t files
        bint rolled
        bint more
    ctypedef struct ps_segment_facts:
        int64_t base_offset
        int64_t end_offset
        int64_t max_timestamp
        int64_t created_ns
        uint64_t bytes
    ps_status ps_log_delete_before(ps_log *log, int64_t offset, ps_error *err)
    ps_status ps_log_retain(ps_log *log, const ps_retention *rule, uint32_t files_max, ps_retained *out, ps_error *err)
    void ps_log_set_keep_bytes(ps_log *log, int64_t bytes)
    bint ps_log_take_due(ps_log *log)
    ps_status ps_log_keep(ps_log *log, ps_error *err)
    bint ps_log_is_late(const ps_log *log)
    void ps_log_catch_up(ps_log *log)
    ps_status ps_log_segments(ps_log *log, ps_segment_facts **out, size_t *count, ps_error *err)
    void ps_log_trim(ps_log *log)


cdef extern from "ps_topic.h" nogil:
    ps_status ps_topic_lock(const ps_env *env, int locks_fd, uint32_t partitions, uint32_t *next, int64_t timeout_ns,
                            const char *path, ps_error *err)
    ps_status ps_topic_mark_deleted(const ps_env *env, const char *path, ps_error *err)
    ps_status ps_topic_mark_moved(const ps_env *env, const char *path, ps_error *err)


cdef extern from "ps_walk.h" nogil:
    enum:
        PS_WALK_BUFFER_BYTES_MIN
    ctypedef enum ps_walk_event:
        PS_WALK_END
        PS_WALK_HEADER
        PS_WALK_FRAME
        PS_WALK_DAMAGE
        PS_WALK_SEAL
        PS_WALK_NEED
    ctypedef enum ps_verdict:
        PS_UNCHECKED
        PS_SOUND
        PS_DAMAGED
        PS_NEWER
    ctypedef struct ps_segment_info:
        int64_t base_offset
        uint64_t salt
        int32_t leader_epoch
        uint32_t partition
        uint32_t capacity
        uint8_t topic_uuid[16]
        int64_t created_ns
    ctypedef struct ps_seal:
        int64_t end_offset
        uint64_t frames
        int64_t max_timestamp
    ctypedef struct ps_walk:
        const ps_env *env
        int fd
        int64_t base_offset
        int64_t end_offset
        uint64_t salt
        bint bodies
        uint8_t *buffer
        uint64_t buffer_bytes
        uint8_t *scratch
        uint64_t scratch_bytes
        uint64_t size
        ps_verdict header
        ps_segment_info info
        uint64_t position
        uint64_t to
        ps_frame_meta meta
        ps_verdict frame
        ps_verdict body
        ps_verdict columns
        ps_columns view
        ps_verdict sealed
        ps_seal seal
        int reason
        int64_t missing
        int64_t found
        int rest
        uint64_t need_buffer
        uint64_t need_scratch
        int64_t next_offset
        uint64_t frames
    void ps_walk_begin(ps_walk *walk)
    ps_status ps_walk_next(ps_walk *walk, ps_walk_event *event, ps_error *err)


cdef extern from "ps_inspect.h" nogil:
    ctypedef int c_bool "bool"
    const uint64_t PS_HEAD_HELD_FLAG
    const unsigned int PS_HEAD_SIGNAL_WAITED
    enum:
        PS_HEAD_BYTES
        PS_EPOCH_ENTRY_BYTES
        PS_INDEX_HEADER_BYTES
        PS_INDEX_ENTRY_BYTES
    ctypedef struct ps_slot:
        uint64_t sequence
        int64_t log_end
        int64_t segment
        uint64_t position
        uint64_t frames
        int64_t max_timestamp
        int32_t leader_epoch
    ctypedef struct ps_head_identity:
        uint8_t topic_uuid[16]
        uint32_t partition
        uint64_t device
        uint64_t inode
    ctypedef struct ps_index_entry:
        int64_t offset
        int64_t max_timestamp
        uint64_t position
    ctypedef struct ps_index_info:
        ps_verdict verdict
        uint64_t salt
        int64_t base_offset
        uint32_t interval
        uint32_t capacity
    void ps_inspect_index(const uint8_t *p, uint64_t limit, ps_index_info *out)
    ps_verdict ps_inspect_index_entry(const uint8_t *p, uint64_t limit, uint64_t salt, uint64_t i, ps_index_entry *out)
    int ps_inspect_index_hit(const ps_env *env, int fd, uint64_t salt, const ps_index_entry *entry, c_bool *hit)
    ctypedef struct ps_head_facts:
        ps_verdict identity
        ps_head_identity who
        uint64_t state
        uint64_t holder
        uint64_t incarnation
        int poison
        bint deleted
        int64_t log_start
        c_bool slot_sound[2]
        ps_slot slot[2]
        int64_t watermark
        int64_t log_end
        int64_t durable
        uint32_t signal
    void ps_inspect_head(const uint8_t *p, ps_head_facts *out)
    ctypedef struct ps_epoch_entry:
        int32_t epoch
        int64_t first_offset
        int64_t created_ns
    bint ps_inspect_epoch(const uint8_t *p, ps_epoch_entry *out)
    int ps_inspect_in_use(const ps_env *env, int live_fd)


cdef extern from "ps_stats.h" nogil:
    ctypedef struct ps_stats_segment:
        int64_t base_offset
        uint64_t used_bytes
        uint64_t disk_bytes
        bint gone
        bint has_seal
        ps_seal seal
    ctypedef struct ps_stats:
        char dir[512]
        ps_stats_segment *segments
        size_t count
        ps_verdict identity
        bint moved
        ps_head_facts head
        ps_slot slot
        bint has_slot
    ctypedef struct ps_stats_wanted:
        bint exact
        bint compacted
        bint counts_expired
        int64_t min_timestamp
        int64_t bytes_max
    ctypedef struct ps_stats_sizes:
        int64_t log_start
        int64_t high_watermark
        int64_t log_end
        int64_t durable
        int64_t records
        uint64_t segments
        uint64_t stored_bytes
        uint64_t raw_bytes
        uint64_t disk_bytes
        bint is_exact
        int64_t oldest
        int64_t newest
        uint64_t reclaimable_bytes
        uint64_t dirty_bytes
        uint64_t damaged
    void ps_stats_init(ps_stats *stats, const ps_env *env, const char *dir)
    void ps_stats_free(ps_stats *stats)
    ps_status ps_stats_measure(ps_stats *stats, const ps_stats_wanted *wanted, ps_stats_sizes *out, ps_error *err)
    ps_status ps_stats_timestamp(ps_stats *stats, int64_t offset, int64_t *timestamp, ps_error *err)
