from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from pystream._native.c_api cimport ps_env, ps_status
from pystream._native.fetcher cimport Attention
from pystream._native.forks cimport LockFile
from pystream._native.log cimport StoreHandle


cdef extern from "ps_group.h" nogil:
    enum:
        PS_CONTROL_BYTES
        PS_CONTROL_SIGNAL_OFF
        PS_CONTROL_LOCK_GATE
        PS_CONTROL_LOCK_SAVE
        PS_MEMBER_MARKS_OFF
        PS_MEMBER_BEATS_OFF
        PS_MEMBER_PAGE_MARKS
        PS_MEMBER_MARKS_MAX
        PS_MEMBER_LOCK
    ctypedef enum ps_control_verdict:
        PS_CONTROL_SOUND
        PS_CONTROL_BLANK
        PS_CONTROL_DAMAGED
        PS_CONTROL_NEWER
        PS_CONTROL_MOVED
        PS_CONTROL_PASSED
    ctypedef struct ps_control_identity:
        uint64_t device, inode, incarnation
        uint8_t boot_id[16]
    int ps_control_open(const ps_env *env, int fd, bint writable, uint8_t **page, ps_control_identity *identity)
    ps_control_verdict ps_control_check(const uint8_t *page, const ps_control_identity *expected)
    void ps_control_begin(uint8_t *page, const ps_control_identity *identity, uint64_t state)
    uint64_t ps_control_state(const uint8_t *page)
    bint ps_control_swap(uint8_t *page, uint64_t before, uint64_t after)
    uint32_t ps_control_signal(const uint8_t *page)
    void ps_control_notify(uint8_t *page)
    int ps_member_create(const ps_env *env, int fd, uint64_t id, uint8_t **page)
    int ps_member_add_marks(const ps_env *env, int fd, uint32_t index, uint8_t **marks)
    int ps_member_open(const ps_env *env, int fd, uint64_t id, bint writable, uint8_t **page, size_t *bytes)
    bint ps_member_is_fenced(const uint8_t *page)
    uint64_t ps_member_beats(const uint8_t *page)
    void ps_member_fence(uint8_t *page)
    bint ps_member_confirm(const uint8_t *page)
    int ps_group_head_durable(const ps_env *env, const char *path, uint8_t *topic_uuid, int64_t *durable)


cdef class Control:
    """The control page of a group, mapped."""
    cdef StoreHandle store
    cdef LockFile file
    cdef uint8_t *page
    cdef ps_control_identity identity
    cdef readonly str path


cdef class Member(Attention):
    """This process's own page as a member of a group."""
    cdef Control control
    cdef LockFile file
    cdef uint8_t *page
    cdef list marks      # addresses of mapped runs of marks
    cdef list free_slots
    cdef readonly int slots   # marks there is room for
    cdef readonly uint64_t id
    cdef readonly str path
    cdef int64_t *mark_at(self, int slot) except NULL


cdef class Peer:
    """The page of another member, mapped."""
    cdef StoreHandle store
    cdef bytes path
    cdef uint8_t *page
    cdef size_t bytes
    cdef readonly uint64_t id
    cdef int open(self) noexcept
