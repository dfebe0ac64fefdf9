# cython: language_level=3, binding=False
"""Consumer groups' shared pages: control, the member's own, and those of its peers."""
import errno as errors_of
import os

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uintptr_t
from libc.errno cimport errno

from pystream._native.c_api cimport (
    ps_os_close, ps_os_lock_look, ps_os_lock_try, ps_os_lock_wait, ps_os_openat, ps_os_random_u64,
    ps_os_unlock, ps_os_unmap,
)
from pystream._native.reader cimport PartitionReader

from pystream._native.errors import FencedMemberError, FormatVersionError


cdef extern from "ps_log.h" nogil:
    void ps_live_boot_id(const ps_env *env, uint8_t *out)


cdef extern from "<fcntl.h>" nogil:
    const int AT_FDCWD
    const int O_RDONLY
    const int O_RDWR


cdef extern from "<sys/inotify.h>" nogil:
    int inotify_init1(int flags)
    int inotify_add_watch(int fd, const char *path, uint32_t mask)
    const int IN_CLOEXEC
    const int IN_NONBLOCK
    const uint32_t IN_MOVED_TO
    const uint32_t IN_MOVED_FROM
    const uint32_t IN_ATTRIB
    const uint32_t IN_ONLYDIR


cdef extern from *:
    """
    static inline void ps_mark_set(int64_t *mark, int64_t offset) {
      __atomic_store_n(mark, offset, __ATOMIC_RELEASE);
    }
    static inline int64_t ps_mark_get(const int64_t *mark) { return __atomic_load_n(mark, __ATOMIC_ACQUIRE); }
    """
    void ps_mark_set(int64_t *mark, int64_t offset) nogil
    int64_t ps_mark_get(const int64_t *mark) nogil


cdef int fail(int rc, str path) except -1:
    raise OSError(-rc, os.strerror(-rc), path)


# Another description of an open file, to be mapped: a map keeps what it was made from open, in forked children
# too, and with it the locks on that would outlive who took them.
cdef int open_again(const ps_env *env, LockFile file, bint writable) except -1:
    cdef bytes path = b"/proc/self/fd/%d" % file.fd
    cdef int fd = ps_os_openat(env, AT_FDCWD, path, O_RDWR if writable else O_RDONLY, 0)
    if fd < 0:
        fail(fd, file.path)
    return fd


def random_id():
    """A number that was never given to anything else, as 16 hexadecimal digits."""
    return f"{ps_os_random_u64():016x}"


def head_durable(StoreHandle store not None, str path not None):
    """(topic uuid, durable offset) as the partition's head at `path` has them; None: there is no head. Raises OSError;
    EINVAL: it is not sound."""
    cdef bytes encoded = os.fsencode(path)
    cdef uint8_t uuid[16]
    cdef int64_t durable
    cdef int rc = ps_group_head_durable(&store.env, encoded, uuid, &durable)
    if rc == -errors_of.ENOENT or rc == -errors_of.ENOTDIR:
        return None
    if rc < 0:
        fail(rc, path)
    return bytes(uuid[:16]), durable


def watch_directory(str path not None):
    """A descriptor that becomes readable when an entry of the directory comes or goes by a rename, and when its
    time of change is set."""
    cdef bytes encoded = os.fsencode(path)
    cdef int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK)
    if fd < 0 or inotify_add_watch(fd, encoded, IN_MOVED_TO | IN_MOVED_FROM | IN_ATTRIB | IN_ONLYDIR) < 0:
        failed = errno
        if fd >= 0:
            os.close(fd)
        raise OSError(failed, os.strerror(failed), path)
    return fd


cdef class Control:
    """Maps the control page at `path`, made if it is not there and the store may be written to. Raises OSError."""

    def __init__(self, StoreHandle store not None, str path not None):
        cdef int rc, fd
        if self.file is not None:
            raise RuntimeError("a Control is made once")
        self.store = store
        self.path = path
        self.file = LockFile(path, store.read_only)
        if self.file.fd < 0:
            raise FileNotFoundError(errors_of.ENOENT, os.strerror(errors_of.ENOENT), path)
        fd = open_again(&store.env, self.file, not store.read_only)
        rc = ps_control_open(&store.env, fd, not store.read_only, &self.page, &self.identity)
        ps_os_close(fd)
        if rc < 0:
            fail(rc, path)
        self.identity.incarnation = store.incarnation
        ps_live_boot_id(&store.env, self.identity.boot_id)

    def __dealloc__(self):
        ps_os_unmap(self.page, PS_CONTROL_BYTES)

    @property
    def verdict(self):
        """"sound"; "passed": as its processes left it, all of which are dead; "moved": what was not synced may be
        lost; "blank"; "damaged". Raises FormatVersionError."""
        cdef ps_control_verdict verdict = ps_control_check(self.page, &self.identity)
        if verdict == PS_CONTROL_NEWER:
            raise FormatVersionError(f"{self.path}: written by another format version", path=self.path)
        return {<int>PS_CONTROL_SOUND: "sound", <int>PS_CONTROL_PASSED: "passed", <int>PS_CONTROL_MOVED: "moved",
                <int>PS_CONTROL_BLANK: "blank", <int>PS_CONTROL_DAMAGED: "damaged"}[<int>verdict]

    @property
    def state(self):
        """Id of the current state document, as 16 hexadecimal digits; "": there is none."""
        cdef uint64_t state = ps_control_state(self.page)
        return f"{state:016x}" if state else ""

    @property
    def signal(self):
        """The word that every change changes; read it before `state`."""
        return ps_control_signal(self.page)

    @property
    def in_place(self):
        """Whether the path still leads to this file."""
        return self.file.in_place()

    def begin(self, str state not None):
        """Gate held: make the page sound, with this state."""
        ps_control_begin(self.page, &self.identity, int(state, 16))
        ps_control_notify(self.page)

    def swap(self, str before not None, str after not None):
        """Make `after` the current state if `before` is; False: it is not."""
        return ps_control_swap(self.page, int(before, 16), int(after, 16))

    def notify(self):
        """Have all members look again."""
        if not self.store.read_only and not self.store.is_forked():
            ps_control_notify(self.page)

    def point(self, str name not None):
        """A named place where a test may end the process."""
        if self.store.env.hook != NULL:
            self.store.env.hook(self.store.env.context, name.encode())

    # ---- locks, of this object and no other

    def lock_gate(self):
        """Wait until the page may be made anew by us alone."""
        cdef int rc
        while True:
            with nogil:
                rc = ps_os_lock_wait(&self.store.env, self.file.fd, PS_CONTROL_LOCK_GATE, False)
            if rc != -errors_of.EINTR:
                break
            PyErr_CheckSignals()
        if rc < 0:
            fail(rc, self.path)

    def unlock_gate(self):
        ps_os_unlock(self.file.fd, PS_CONTROL_LOCK_GATE)

    def try_lock_save(self):
        """Whether we are the one who saves offsets now."""
        cdef int rc = ps_os_lock_try(&self.store.env, self.file.fd, PS_CONTROL_LOCK_SAVE, False)
        if rc == -errors_of.EAGAIN:
            return False
        return rc == 0 or fail(rc, self.path) == 0

    def unlock_save(self):
        ps_os_unlock(self.file.fd, PS_CONTROL_LOCK_SAVE)


cdef class Member(Attention):
    """Makes the file at `path`, locks it, and is looked at by a Fetcher between two records: `notice` is called when
    the group changes, and at least every `slice_ns` nanoseconds of a wait. Raises OSError."""

    def __init__(self, Control control not None, str path not None, notice, int64_t slice_ns):
        cdef int rc, fd
        if self.file is not None:
            raise RuntimeError("a Member is made once")
        self.id = int(path[-16:], 16)
        self.path = path
        self.control = control
        self.marks = []
        self.free_slots = []
        self.file = LockFile(path)
        rc = ps_os_lock_try(&control.store.env, self.file.fd, PS_MEMBER_LOCK, False)
        if rc < 0 or not self.file.in_place():  # taken for a dead member's, and swept
            fail(rc if rc < 0 else -errors_of.ESTALE, path)
        fd = open_again(&control.store.env, self.file, True)
        rc = ps_member_create(&control.store.env, fd, self.id, &self.page)
        ps_os_close(fd)
        if rc < 0:
            fail(rc, path)
        self.notice = notice
        self.slice_ns = slice_ns
        self.seen = ps_control_signal(control.page)
        self.word = <const uint32_t *>(control.page + PS_CONTROL_SIGNAL_OFF)
        self.beats = <uint64_t *>(self.page + PS_MEMBER_BEATS_OFF)

    def __dealloc__(self):
        ps_os_unmap(self.page, PS_MEMBER_MARKS_OFF)
        for address in self.marks or ():
            ps_os_unmap(<void *><uintptr_t>address, 4096)

    def set_slice(self, int64_t slice_ns):
        """The longest sleep at a stretch."""
        self.slice_ns = slice_ns

    def dealt_with(self, uint32_t signal):
        """What `signal` stood for has been dealt with."""
        self.seen = signal

    def heartbeat(self):
        """Say that the member lives."""
        self.beat()

    @property
    def activity(self):
        """A number that differs when the member did anything."""
        return ps_member_beats(self.page)

    @property
    def is_fenced(self):
        """Whether another member has removed this one."""
        return ps_member_is_fenced(self.page)

    def let_go(self):
        """Unlock the file: the member is dead to all others."""
        if self.file is not None:
            self.file.close()

    # ---- marks

    cdef int64_t *mark_at(self, int slot) except NULL:
        cdef uintptr_t run
        if not 0 <= slot < self.slots:
            raise IndexError(slot)
        run = <uintptr_t>self.marks[slot // <int>PS_MEMBER_PAGE_MARKS]
        return <int64_t *>run + slot % <int>PS_MEMBER_PAGE_MARKS

    def take_slot(self):
        """A mark of our own, with nothing said. Raises OSError."""
        cdef uint8_t *run = NULL
        cdef int rc, fd, slot
        if not self.free_slots:
            fd = open_again(&self.control.store.env, self.file, True)
            rc = ps_member_add_marks(&self.control.store.env, fd, <uint32_t>len(self.marks), &run)
            ps_os_close(fd)
            if rc < 0:
                fail(rc, self.path)
            self.marks.append(<uintptr_t>run)
            self.free_slots.extend(range(self.slots + <int>PS_MEMBER_PAGE_MARKS - 1, self.slots - 1, -1))
            self.slots += <int>PS_MEMBER_PAGE_MARKS
        slot = self.free_slots.pop()
        ps_mark_set(self.mark_at(slot), -1)
        return slot

    def give_back(self, int slot):
        """The mark is not ours any more in any state."""
        self.free_slots.append(slot)

    def mark(self, int slot):
        """Up to where is consumed; -1: nothing was said."""
        return ps_mark_get(self.mark_at(slot))

    def set_mark(self, int slot, int64_t offset):
        """Consumed up to `offset`. Counts if `confirm` says so afterwards."""
        ps_mark_set(self.mark_at(slot), offset)

    def confirm(self):
        """Raise FencedMemberError if what was marked before may not count."""
        if not ps_member_confirm(self.page):
            raise FencedMemberError("this consumer was put out of its group: it was silent for longer than its "
                                    "session_timeout; nothing was committed")

    def follow(self, PartitionReader reader not None, int slot):
        """Have the reader move the mark as its records are consumed."""
        reader.mark = self.mark_at(slot)
        reader.mark_owner = self


cdef class Peer:
    """Maps the page of the member whose file is at `path`. Raises OSError: FileNotFoundError where there is none, EINVAL
    where it is not whole."""

    def __init__(self, Control control not None, str path not None):
        cdef int rc
        if self.page != NULL:
            raise RuntimeError("a Peer is made once")
        self.store = control.store
        self.path = os.fsencode(path)
        self.id = int(path[-16:], 16)
        fd = self.open()
        rc = fd
        if fd >= 0:
            rc = ps_member_open(&self.store.env, fd, self.id, not self.store.read_only, &self.page, &self.bytes)
            ps_os_close(fd)
        if rc < 0:
            fail(rc, path)

    def __dealloc__(self):
        ps_os_unmap(self.page, self.bytes)

    cdef int open(self) noexcept:
        # Not kept open: each of many members looks at each of the others.
        cdef const char *text = self.path
        return ps_os_openat(&self.store.env, AT_FDCWD, text, O_RDONLY if self.store.read_only else O_RDWR, 0)

    @property
    def alive(self):
        """Whether its member still holds the file. Raises OSError."""
        cdef int fd = self.open()
        cdef int held
        if fd == -errors_of.ENOENT or fd == -errors_of.ENOTDIR:
            return False
        held = ps_os_lock_look(&self.store.env, fd, PS_MEMBER_LOCK) if fd >= 0 else fd
        if fd >= 0:
            ps_os_close(fd)
        if held < 0:
            fail(held, os.fsdecode(self.path))
        return held != 0

    @property
    def activity(self):
        """A number that differs when the member did anything."""
        return ps_member_beats(self.page)

    @property
    def is_fenced(self):
        """Whether somebody has removed it."""
        return ps_member_is_fenced(self.page)

    def confirms(self):
        """Whether all that its marks were seen to say counts: it was not removed before."""
        return ps_member_confirm(self.page)

    def fence(self):
        """From now on nothing that the member marks counts, but for what `mark` gives."""
        ps_member_fence(self.page)

    def mark(self, int slot):
        """Up to where is consumed; -1: nothing was said, None: it is not mapped."""
        cdef size_t at = PS_MEMBER_MARKS_OFF + <size_t>slot * 8
        if slot < 0 or at + 8 > self.bytes:
            return None
        return ps_mark_get(<const int64_t *>(self.page + at))
