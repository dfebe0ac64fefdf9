"""Kernels from which a barrier, a sync or a check was taken away. The power failures of power.c must tell
each from the true ones: else they prove nothing."""

from __future__ import annotations

from typing import Final, NamedTuple


class Mutant(NamedTuple):
    """A piece of a source, which must stand there once, and what is put in its place."""

    name: str
    promise: str
    """What it breaks."""
    file: str
    old: str
    new: str


MUTANTS: Final = (
    Mutant(
        "no-segment-sync",
        "what is called durable was synced",
        "ps_sync.c",
        "  int rc = ps_os_sync_data(log->env, fd);\n  if (own >= 0)",
        "  int rc = 0;\n  if (own >= 0)",
    ),
    Mutant(
        "no-directory-sync",
        "a segment has its name for good before anything in it is called durable",
        "ps_sync.c",
        "  if (status == PS_OK && new_file) status = ps_log_sync_directory(log, err);\n",
        "  (void)new_file;\n",
    ),
    Mutant(
        "durable-before-sync",
        "the durable offset moves after the sync that covers it",
        "ps_sync.c",
        "  if (!sync_one(log, from, &status, err)) status = sync_segments_anew(log, from, end, err);\n",
        "  ps_head_raise_durable(log->head, end);\n"
        "  if (!sync_one(log, from, &status, err)) status = sync_segments_anew(log, from, end, err);\n",
    ),
    Mutant(
        "sync-one-of-several",
        "one segment alone is synced only where no other was begun",
        "ps_sync.c",
        "ps_head_read_slot(log->head, &slot) &&\n             slot.segment == segment->base_offset;",
        "ps_head_read_slot(log->head, &slot);",
    ),
    Mutant(
        "sync-too-little",
        "a sync begins at the segment that holds the durable offset",
        "ps_sync.c",
        "  if (from > ps_log_start_offset(log)) status = ps_table_holding(log, from - 1, &segment, NULL);\n"
        "  if (status == PS_OK)\n    is_behind = true;\n"
        "  else\n    status = ps_table_holding(log, from, &segment, err);\n",
        "  status = ps_table_holding(log, to, &segment, err);\n",
    ),
    Mutant(
        "shown-before-sync",
        "readers of a sync topic see what is durable",
        "ps_append.c",
        "  if (ps_log_durability(log) == PS_DURABILITY_SYNC) return; /*",
        "  if (ps_log_durability(log) == PS_DURABILITY_SYNC && !log) return; /*",
    ),
    Mutant(
        "first-header-not-synced",
        "a segment that no other could replace has its header before its name",
        "ps_append.c",
        "  if (rc == 0 && durable) rc = ps_os_sync_data(log->env, fd);\n",
        "  (void)durable;\n",
    ),
    Mutant(
        "torn-tail-stays",
        "a torn tail is cut: the log goes on in a new segment",
        "ps_recover.c",
        "      new_segment = writes && (w.torn ||",
        "      new_segment = writes && (",
    ),
    Mutant(
        "cut-keeps-epoch",
        "after a cut a higher epoch begins",
        "ps_recover.c",
        "if (status == PS_OK && new_segment) status = unused_epoch(",
        "if (status == PS_OK && new_segment && !log) status = unused_epoch(",
    ),
    Mutant(
        "boot-keeps-epoch",
        "what was shown and is gone without a trace is told by a higher epoch",
        "ps_recover.c",
        "  bool new_epoch = writes && (b.copied || !b.same_boot);",
        "  bool new_epoch = writes && b.copied;",
    ),
    Mutant(
        "epoch-not-synced",
        "an epoch is on the disk before anything is written in it",
        "ps_epochs.c",
        "  if (rc == 0) rc = ps_os_sync_data(log->env, fd);\n",
        "",
    ),
    Mutant(
        "body-not-checked",
        "recovery believes no batch whose body it has not checked",
        "ps_recover.c",
        "(ps_frame_next_offset(&meta) <= w->durable || ps_frame_body_ok(p, &meta))) {",
        "(p || ps_frame_next_offset(&meta) <= w->durable || ps_frame_body_ok(p, &meta))) {",
    ),
    Mutant(
        "clean-is-believed",
        "a head that says all is well may be an old one",
        "ps_recover.c",
        "  if (b.clean && still_clean(log, &b)) {",
        "  if (b.clean && (true || still_clean(log, &b))) {",
    ),
    Mutant(
        "tail-not-kept",
        "what is cut is kept",
        "ps_recover.c",
        "  if (end == from) return PS_OK;\n  char path[600];",
        "  if (end >= from) return PS_OK;\n  char path[600];",
    ),
    Mutant(
        "never-without-segment",
        "there is no moment in which a log has no segment",
        "ps_recover.c",
        "set_aside(log, path, epoch, i == w->at, err);",
        "set_aside(log, path, epoch, false, err);",
    ),
    Mutant(
        "recovered-not-synced",
        "what a sync topic shows after recovery is durable",
        "ps_recover.c",
        "  if (dirty && (ps_log_durability(log) == PS_DURABILITY_SYNC || b.poisoned)) {",
        "  if (dirty && b.poisoned) {",
    ),
    Mutant(
        "cut-not-synced",
        "what is cut is on the disk before it is taken away",
        "ps_recover.c",
        "  int rc = ps_os_pwrite_all(log->env, fd, w->segment->map + from, end - from, 0);\n"
        "  if (rc == 0) rc = ps_os_sync_data(log->env, fd);\n",
        "  int rc = ps_os_pwrite_all(log->env, fd, w->segment->map + from, end - from, 0);\n",
    ),
    Mutant(
        "cut-not-named",
        "what is cut has its name for good before it is taken away",
        "ps_recover.c",
        "  if (status == PS_OK) status = ps_log_sync_directory(log, err);\n"
        "  if (status == PS_OK && !whole) {",
        "  if (status == PS_OK && !whole) {",
    ),
    Mutant(
        "cut-comes-back",
        "the log goes on in a new segment only when the old one ends on the disk, too",
        "ps_recover.c",
        "(int64_t)(w->position + PS_SEAL_BYTES));\n    if (rc == 0) rc = ps_os_sync_data(log->env, fd);\n",
        "(int64_t)(w->position + PS_SEAL_BYTES));\n",
    ),
    Mutant(
        "rewritten-not-synced",
        "after a failed sync a segment is on the disk anew before it takes the old one's place",
        "ps_recover.c",
        "      int rc = ps_os_pwrite_all(log->env, fd, s->map, bytes, 0);\n"
        "      if (rc == 0) rc = ps_os_sync_data(log->env, fd);\n",
        "      int rc = ps_os_pwrite_all(log->env, fd, s->map, bytes, 0);\n",
    ),
    Mutant(
        "not-rewritten",
        "after a failed sync the cache is not asked to write a second time",
        "ps_recover.c",
        "      if (b.poisoned && writes) status = rewrite(log, &w, new_segment, err);\n",
        "      if (!log && b.poisoned && writes) status = rewrite(log, &w, new_segment, err);\n",
    ),
    Mutant(
        "poison-forgotten",
        "a failed sync is final",
        "ps_sync.c",
        "  ps_log_poison(log, os_errno);\n  ps_fail_errno(err, os_errno, path, what);",
        "  (void)log;\n  ps_fail_errno(err, os_errno, path, what);",
    ),
    Mutant(
        "removed-before-durable",
        "a segment goes only when the log start above it is on the disk",
        "ps_retain.c",
        "  if (log->start_durable != start) status = ps_log_sync_head(log, err);\n",
        "",
    ),
    Mutant(
        "start-at-what-may-go",
        "the log starts only at what is on the disk",
        "ps_retain.c",
        "  status = ps_log_sync_start(log, offset, err);\n",
        "",
    ),
    Mutant(
        "removed-before-the-next-is-named",
        "what the log goes on in has its name for good before what is below goes",
        "ps_retain.c",
        "  status = ps_log_sync_start(log, start, err);\n",
        "",
    ),
    Mutant(
        "compacted-not-synced",
        "a segment that was compacted is on the disk before it takes the old one's place",
        "ps_rewrite.c",
        "  if (rc == 0) rc = ps_os_sync_data(log->env, out->fd);\n",
        "",
    ),
    Mutant(
        "merged-not-named",
        "what several segments have become has its name for good before the others go",
        "ps_rewrite.c",
        '  ps_status status = ps_log_sync_directory(log, err);\n  PS_POINT(log->env, "compact.dirsynced");',
        '  ps_status status = PS_OK;\n  PS_POINT(log->env, "compact.dirsynced");',
    ),
    Mutant(
        "merged-in-any-order",
        "what one segment has taken in goes in order: what is left still joins",
        "ps_rewrite.c",
        'has taken in");\n  return ps_log_sync_directory(log, err);',
        'has taken in");\n  return PS_OK;',
    ),
    Mutant(
        "start-in-one-place",
        "a log start that is being stored leaves the one before it as it is",
        "ps_head.c",
        "  if (one > two)\n",
        "  if (one > two && offset < 0)\n",
    ),
)
