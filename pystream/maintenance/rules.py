"""What is due in a partition, by its topic's options and a look at its files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from pystream._native.maintenance import Survey
    from pystream.topicoptions import TopicOptions

AGAIN_NS: Final = 600 * 10**9
"""When to look again at what cannot be told from outside."""


class Due(NamedTuple):
    """What is to be done now, and when to look again though nothing has changed."""

    retain: bool = False
    compact: bool = False
    sweep: bool = False
    """A file of a maker of segments lies there, who may be dead."""
    at_ns: int | None = None
    """By the store's clock; None: not before something changes."""

    @property
    def now(self) -> bool:
        return self.retain or self.compact or self.sweep


def has_rules(options: TopicOptions) -> bool:
    """Whether anything ever leaves a topic by itself."""
    return options.compacts or has_bounds(options)


def has_bounds(options: TopicOptions) -> bool:
    """Whether whole segments do, by age or size."""
    return options.deletes and any(
        bound is not None
        for bound in (options.retention_ns, options.retention_bytes, options.retention_topic_bytes)
    )


def stored_bytes(seen: Survey) -> int:
    """What a partition's segments take, the one that is written to as far as it is written."""
    return seen.clean_bytes + seen.dirty_bytes + seen.active_bytes


def judge(seen: Survey, options: TopicOptions, now_ns: int) -> Due:
    """What is due in a partition that looks like this; not what is so for all of a topic's together."""
    if not seen.sound or seen.deleted:
        return Due()
    moments = [_next_expiry(seen, options), _next_roll(seen, options)]
    is_over = (
        options.deletes
        and options.retention_bytes is not None
        and stored_bytes(seen) - seen.oldest_bytes >= options.retention_bytes
        and seen.segments > 1
    )
    is_left_over = 0 <= seen.second <= seen.log_start
    compact = options.compacts and _is_dirty(seen, options, now_ns)
    if compact or (options.compacts and seen.dirty_bytes and options.min_compaction_lag_ns):
        moments.append(now_ns + min(max(options.min_compaction_lag_ns // 10, 10**9), AGAIN_NS))
    if options.compacts and seen.horizon is not None:
        moments.append(seen.horizon)
    expected = [moment for moment in moments if moment is not None]
    return Due(
        retain=is_over or is_left_over or any(m is not None and m <= now_ns for m in moments[:2]),
        compact=compact,
        sweep=seen.strays > 0,
        at_ns=min((moment for moment in expected if moment > now_ns), default=None),
    )


def _next_expiry(seen: Survey, options: TopicOptions) -> int | None:
    """When the first segment will be, or was, older than it may be."""
    if not options.deletes or options.retention_ns is None or seen.segments == 0:
        return None
    if seen.first != seen.active:
        newest = seen.oldest_timestamp if seen.oldest_known else 0
    elif seen.active_frames == 0:
        return None
    else:
        newest = seen.active_timestamp
    # One nanosecond more: what is exactly as old as it may be stays.
    return 0 if newest is None else newest + options.retention_ns + 1


def _next_roll(seen: Survey, options: TopicOptions) -> int | None:
    """When the segment that is written to will have been so for long enough, if that helps anybody."""
    if options.segment_age_ns is None or not has_rules(options):
        return None
    if seen.active_frames == 0 or seen.active_since is None:
        return None
    return seen.active_since + options.segment_age_ns + 1


def _is_dirty(seen: Survey, options: TopicOptions, now_ns: int) -> bool:
    """Whether compaction may be worth its while; it looks closer itself."""
    if seen.horizon is not None and seen.horizon <= now_ns:
        return True
    everything = seen.clean_bytes + seen.dirty_bytes
    return seen.dirty_bytes > 0 and seen.dirty_bytes >= options.min_cleanable_dirty_ratio * everything
