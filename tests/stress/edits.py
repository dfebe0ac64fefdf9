"""The mutations: what is edited, who is to notice, and as what."""

from __future__ import annotations

from typing import Final, NamedTuple


class Edit(NamedTuple):
    """A piece of a source, which must stand there once, and what is put in its place."""

    file: str
    old: str
    new: str


class Mutation(NamedTuple):
    name: str
    promise: str
    """What it breaks."""
    edits: tuple[Edit, ...]
    cast: str = ""
    """Who is needed to notice."""
    kinds: frozenset[str] = frozenset()
    """Anomalies of which any one is the right answer."""
    campaign: str = ""
    """The test of `tests.campaign` that is to notice, instead of the stress: any failure is right."""


OVERWRITTEN: Final = frozenset(
    "lost-write duplicate reordered inconsistent-offsets offset-gap torn-record foreign-record".split()
)

MUTATIONS: Final = (
    Mutation(
        "skip-lock",
        "one writer at a time: the append lock",
        (
            Edit(
                "csrc/ps_lock.c",
                "  if (log->held) return 0;\n  int rc = ps_os_lock_try(",
                "  if (log->locks_fd >= 0) return 0;\n  int rc = ps_os_lock_try(",
            ),
        ),
        "log",
        OVERWRITTEN | {"intruder"},
    ),
    Mutation(
        "publish-before-body",
        "a frame is whole before the watermark shows it",
        (
            Edit(
                "csrc/ps_append.c",
                "  ps_pieces_copy(batch->pieces, batch->piece_count, p + PS_FRAME_HEADER_BYTES);\n"
                '  PS_POINT(log->env, "append.body");\n',
                "  memcpy(p, header, sizeof header);\n"
                "  ps_max_i64(log->head + PS_HEAD_WATERMARK_OFF, ps_frame_next_offset(meta));\n"
                '  PS_POINT(log->env, "append.body");\n'
                "  ps_pieces_copy(batch->pieces, batch->piece_count, p + PS_FRAME_HEADER_BYTES);\n",
            ),
        ),
        "log",
        frozenset({"torn-record", "inconsistent-offsets", "offset-gap"}),
    ),
    # Until the append has ended, the order of watermark and slot is not seen even when a process dies: the
    # state word is odd then, and whoever comes next adopts a whole frame. So here the slot is written last.
    Mutation(
        "publish-before-log-end",
        "the log end covers a frame before anyone may go on behind it",
        (
            Edit(
                "csrc/ps_append.c",
                '  ps_head_write_slot(log->head, slot);\n  PS_POINT(log->env, "append.log_end");\n',
                '  PS_POINT(log->env, "append.log_end");\n',
            ),
            Edit(
                "csrc/ps_append.c",
                '  PS_POINT(log->env, "append.even");\n  return status;\n',
                '  PS_POINT(log->env, "append.even");\n'
                "  if (status == PS_OK) ps_head_write_slot(log->head, &slot);\n  return status;\n",
            ),
        ),
        "log,armed=6",
        OVERWRITTEN,
    ),
    Mutation(
        "keep-lock-across-fork",
        "a forked child lets go of the descriptors that carry its parent's locks",
        (
            Edit(
                "pyx/pystream/_native/forks.pyx",
                "        ps_os_close(fd.fd)\n        fd.fd = -1\n        fd = fd.next\n",
                "        fd = fd.next\n",
            ),
        ),
        "log,holder=3,forker=2",
        frozenset({"stall", "hang"}),
    ),
    Mutation(
        "never-wake",
        "a writer wakes who waits",
        (
            Edit(
                "csrc/ps_os.c",
                "{ syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0); }",
                "{ (void)word; }",
            ),
        ),
        "log,race",
        frozenset({"stall"}),
    ),
    # The watermark is moved by a compare-and-swap, on x86-64 as good as the fence behind it. As a plain
    # store, by which it could as well be moved under the append lock, it shows what the fence is for.
    Mutation(
        "no-fence-before-waiters",
        "the watermark moves before the look at who waits",
        (
            Edit(
                "csrc/ps_append.c",
                "  ps_max_i64(log->head + PS_HEAD_WATERMARK_OFF, slot->log_end);\n"
                '  PS_POINT(log->env, "append.published");\n',
                "  ps_release_i64(log->head + PS_HEAD_WATERMARK_OFF, slot->log_end);\n"
                '  PS_POINT(log->env, "append.published");\n',
            ),
            Edit(
                "csrc/ps_head.c",
                "  uint32_t *word = (uint32_t *)(head + PS_HEAD_SIGNAL_OFF);\n"
                "  __atomic_thread_fence(__ATOMIC_SEQ_CST);\n",
                "  uint32_t *word = (uint32_t *)(head + PS_HEAD_SIGNAL_OFF);\n",
            ),
        ),
        "race",
        frozenset({"stall"}),
    ),
    Mutation(
        "commit-when-fenced",
        "a fenced member commits no more",
        (
            Edit(
                "pyx/pystream/_native/group.pyx",
                "        if not ps_member_confirm(self.page):\n",
                "        if not ps_member_confirm(self.page) and self.page == NULL:\n",
            ),
        ),
        "groups",
        frozenset({"fenced-commit"}),
    ),
    Mutation(
        "forget-marks",
        "what a member has consumed is committed when it is taken out",
        (
            Edit(
                "pystream/group/shared.py",
                "                mark = self.mark_of(claim)\n                if mark >= 0:\n",
                "                mark = -1\n                if mark >= 0:\n",
            ),
        ),
        "groups",
        frozenset({"lost-commit"}),
    ),
    Mutation(
        "take-what-is-owned",
        "a partition has one owner at a time",
        (
            Edit(
                "pystream/group/membership.py",
                "for key in wanted if key not in state.claims}:",
                "for key in wanted if key not in mine}:",
            ),
            Edit(
                "pystream/group/membership.py",
                "                if key not in state.claims and state.targets.get(key) == self.member_id:\n",
                "                if state.targets.get(key) == self.member_id:\n",
            ),
        ),
        "groups",
        frozenset({"two-owners"}),
    ),
    Mutation(
        "remove-without-moving-start",
        "the log start rises before what is below it goes",
        (
            Edit(
                "csrc/ps_retain.c",
                "  int64_t start = removable_end(log, ps_log_start_offset(log));\n",
                "  int64_t start = out->log_start;\n",
            ),
            Edit(
                "csrc/ps_retain.c",
                "    if (status == PS_OK && start > ps_log_start_offset(log)) "
                "status = raise_start(log, start, &later);\n"
                "    if (status == PS_OK) status = remove_below(log, &l, files_max, out, &later);\n",
                "    out->log_start = status == PS_OK ? removable_end(log, start) : 0;\n"
                "    if (status == PS_OK) status = remove_below(log, &l, files_max, out, &later);\n",
            ),
        ),
        "upkeep",
        frozenset({"torn-record", "error", "poll-skip"}),
    ),
    Mutation(
        "remove-too-much",
        "no less than retention_bytes is left",
        (
            Edit(
                "csrc/ps_retain.c",
                "bool many = rule->max_bytes >= 0 && left >= rule->max_bytes;",
                "bool many = rule->max_bytes >= 0 && bytes >= rule->max_bytes;",
            ),
        ),
        "upkeep",
        frozenset({"early-deletion"}),
    ),
    Mutation(
        "removed-files-stay-open",
        "every process lets go of files that were removed or replaced",
        (
            Edit("csrc/ps_retain.c", "  if (i > 0) move_files(log, REMOVED_BELOW);\n", ""),
            Edit(
                "csrc/ps_rewrite.c", "  ps_log_files_changed(log);\n  return status;\n", "  return status;\n"
            ),
        ),
        "upkeep",
        frozenset({"pinned"}),
    ),
    Mutation(
        "drop-the-newest",
        "the last record of each key stays",
        (
            Edit(
                "csrc/ps_compact.c",
                "(ps_keymap_get(&c->map, keys[i]) > offset ||",
                "(ps_keymap_get(&c->map, keys[i]) == offset ||",
            ),
        ),
        "upkeep",
        frozenset({"lost-write", "poll-skip", "stale-table", "resurrected"}),
    ),
    Mutation(
        "left-overs-stay",
        "what an interrupted merge has left is passed over, and goes",
        (
            Edit(
                "csrc/ps_compact_look.c",
                "    if (s.base < end && s.end <= end) {\n",
                "    if (s.base < end && s.end < s.base) {\n",
            ),
        ),
        "upkeep,armed_tidier=4",
        frozenset({"not-tidied"}),
    ),
    Mutation(
        "skip-maintenance-lock",
        "one at a time looks after a partition",
        (
            Edit(
                "csrc/ps_lock.c",
                "    rc = -lock_place_until(log, maintain_place(log), deadline);\n",
                "    rc = deadline < 0;\n",
            ),
        ),
        "upkeep,keyer=4,tidier=3,trimmer=6",
        OVERWRITTEN | {"poll-skip", "error", "crash"},
    ),
    # From here on: what only a power failure shows. Others are in tests/faults: mutants.py of the kernels,
    # and stores.py. A group whose saved offsets were beyond the durable log is not among them: their epochs
    # tell it of the cut.
    Mutation(
        "unsynced-documents",
        "a document is on the disk before it has its name",
        (
            Edit(
                "pystream/metadata.py",
                '    with open(path, "xb") as file:\n        file.write(data)\n        file.flush()\n'
                "        os.fsync(file.fileno())\n",
                '    with open(path, "xb") as file:\n        file.write(data)\n',
            ),
        ),
        campaign="power-stores",
    ),
    Mutation(
        "unsynced-offsets",
        "committed offsets are on the disk before they take the place of the last ones",
        (
            Edit(
                "pystream/group/shared.py",
                "                    file.flush()\n                    os.fsync(file.fileno())\n"
                '                self.control.point("group.saving")\n',
                '                self.control.point("group.saving")\n',
            ),
        ),
        campaign="power-stores",
    ),
)
