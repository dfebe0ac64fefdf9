"""A store's numbers as Prometheus and OpenMetrics have them (the extra [metrics]).

In a program that has metrics of its own:

    prometheus_client.REGISTRY.register(pystream.metrics.Collector(store))

`pystream metrics STORE --listen` does it for programs that have not.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import ReferenceType, ref

from prometheus_client import CollectorRegistry, exposition, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics

from pystream import options as opt
from pystream.errors import OptionError, PystreamError
from pystream.producer import Producer

if TYPE_CHECKING:
    from pystream.stats import GroupLag, PartitionStats, TopicStats
    from pystream.store import Store

__all__ = ["Collector"]

_log = logging.getLogger("pystream")


class _Family(NamedTuple):
    """One metric: where its value is found, and what is said of it."""

    name: str
    """Without `_total`; with its unit, if it has one, at the end."""
    field: str
    """Of what it is a metric of. Nanoseconds become seconds, flags 0 and 1; None is left out."""
    help: str
    unit: str = ""
    counts: bool = False
    """It never falls, but for a restart."""
    summed: bool = True
    """Partitions of a topic add up; else the largest stands for them."""


def _gauges(*rows: tuple[str, str, str]) -> tuple[_Family, ...]:
    """Families whose unit is the last word of their names, if that is one."""
    return tuple(_Family(name, field, text, _unit_of(name)) for name, field, text in rows)


def _counters(*rows: tuple[str, str, str]) -> tuple[_Family, ...]:
    return tuple(_Family(name, field, text, _unit_of(name), counts=True) for name, field, text in rows)


def _unit_of(name: str) -> str:
    unit = name.rpartition("_")[2]
    return unit if unit in ("bytes", "seconds") else ""


STORE: Final = _gauges(
    ("pystream_store_free_bytes", "free_bytes", "Free on the file system of the store."),
    ("pystream_store_size_bytes", "size_bytes", "Size of the file system of the store."),
    ("pystream_store_min_free_bytes", "min_free_bytes", "What appends of this process leave free."),
    (
        "pystream_store_low_on_space",
        "low_on_space",
        "1: appends of this process are refused for want of space.",
    ),
)
"""Of a store."""

PARTITION: Final = (
    *_gauges(
        ("pystream_log_start_offset", "log_start", "First offset that can be read."),
        ("pystream_log_high_watermark_offset", "high_watermark", "First offset that cannot be read yet."),
        ("pystream_log_end_offset", "log_end", "Offset that the next record gets."),
        ("pystream_log_durable_offset", "durable_offset", "Everything below it survives a power failure."),
        ("pystream_log_records", "records", "Offsets between log start and high watermark."),
        ("pystream_log_unsynced_records", "unsynced_records", "Offsets that a power failure could take."),
        ("pystream_log_raw_bytes", "raw_bytes", "Stored bytes without compression, by a sample of batches."),
        ("pystream_log_stored_bytes", "stored_bytes", "Bytes of segments that are in use."),
        ("pystream_log_disk_bytes", "disk_bytes", "What all files take on the disk."),
        ("pystream_log_reclaimable_bytes", "reclaimable_bytes", "What the next maintenance can free."),
        ("pystream_log_dirty_bytes", "dirty_bytes", "Bytes that no compaction has seen yet."),
        ("pystream_log_lent_bytes", "lent_bytes", "Bytes of segments that readers of this process hold."),
        ("pystream_log_pinned_bytes", "pinned_bytes", "Of these, what is of files that are gone."),
        ("pystream_log_segments", "segments", "Segments."),
        ("pystream_log_waited_for", "waited_for", "1: somebody waits for the next append."),
        ("pystream_log_poisoned", "poisoned", "1: a write or sync has failed, nothing is appended."),
    ),
    *(
        family._replace(summed=False)
        for family in _gauges(
            ("pystream_log_newest_timestamp_seconds", "newest_timestamp_ns", "Newest record's timestamp."),
            ("pystream_log_leader_epoch", "leader_epoch", "Counts boots and torn tails."),
        )
    ),
)
"""Of a partition, or of all partitions of a topic."""

OLDEST: Final = _gauges(
    ("pystream_log_oldest_timestamp_seconds", "oldest_timestamp_ns", "Timestamp of the oldest record kept.")
)[0]

PROCESS: Final = (
    *_counters(
        ("pystream_appends", "appends", "Batches appended by this process."),
        ("pystream_appended_records", "appended_records", "Records appended by this process."),
        ("pystream_appended_bytes", "appended_bytes", "Bytes of batches appended by this process."),
        ("pystream_syncs", "syncs", "Syncs by this process."),
        ("pystream_rolls", "rolls", "Segments begun by this process."),
        ("pystream_mends", "mends", "Appends of writers that died, mended by this process."),
        ("pystream_cuts", "cuts", "Torn tails cut off by this process."),
        ("pystream_wakes", "wakes", "Calls to the kernel because somebody waited for an append."),
    ),
    _Family(
        "pystream_sync_lag_max_seconds",
        "sync_lag_max_ns",
        "Longest that a record of this process has waited for its interval sync.",
        "seconds",
        summed=False,
    ),
)
"""What this process did with a partition."""

GROUP: Final = (
    *_gauges(
        ("pystream_group_lag_records", "lag_records", "Offsets that the group has still to do."),
        ("pystream_group_committed_offset", "committed", "Offset up to which the group has done all."),
        ("pystream_group_members", "members", "Consumers of the group that read it."),
    ),
    _Family(
        "pystream_group_lag_seconds",
        "lag_ns",
        "Age of the first record that the group has still to do.",
        "seconds",
        summed=False,
    ),
)
"""Of a consumer group in a partition, or in a topic."""

PRODUCER: Final = (
    *_counters(
        ("pystream_producer_records", "records", "Records delivered by producers of this process."),
        ("pystream_producer_bytes", "bytes", "Bytes of the batches that they delivered."),
        ("pystream_producer_batches", "batches", "Batches that they delivered."),
        ("pystream_producer_failed_records", "failed_records", "Records that they gave up."),
        ("pystream_producer_errors", "errors", "Tries to append a batch that failed."),
        ("pystream_producer_retries", "retries", "Tries that were followed by another."),
    ),
    *_gauges(
        ("pystream_producer_pending_records", "pending_records", "Records sent and not delivered yet."),
        ("pystream_producer_pending_bytes", "pending_bytes", "Bytes of them."),
    ),
)
"""Of this process's producers of a topic."""

CONSUMER: Final = (
    *_counters(
        ("pystream_consumer_records", "records", "Records handed out by consumers of this process."),
        ("pystream_consumer_bytes", "bytes", "Bytes of the stored batches that they came from."),
        ("pystream_consumer_batches", "batches", "Stored batches that they came from."),
        ("pystream_consumer_errors", "errors", "Asks for records that failed."),
        ("pystream_consumer_skipped_records", "skipped_records", "Records deleted before they read them."),
    ),
    *_gauges(
        ("pystream_consumer_partitions", "partitions", "Partitions that they read."),
        ("pystream_consumer_position_lag_records", "lag_records", "Offsets between positions and ends."),
    ),
)
"""Of this process's consumers in a group, or in none."""


UP, TOPICS, PROBLEMS, COLLECT = _gauges(
    ("pystream_up", "", "1: the store could be read."),
    ("pystream_topics", "", "Topics that these numbers are of."),
    ("pystream_problems", "", "Topics, partitions and groups that could not be read."),
    ("pystream_collect_seconds", "", "How long these numbers took to find."),
)
"""Of the collector itself."""


class Collector:
    """A collector for a registry of `prometheus_client`: a store's numbers, found when they are asked for.

    A store that cannot be read, or was closed, gives `pystream_up` 0 and nothing else.

    Args:
        store: an open store, to read or to write; what this process does is told of the latter only.
        topics: only these; all by default, those included that are made later.
        partitions: False: sums over each topic's partitions, without the label `partition`. For stores of
            thousands of them.
        labels: put on every sample, to tell stores in one registry apart.

    Raises:
        OptionError, TypeError: a name is none a topic can have; a label is none of a metric's, or in use.
    """

    def __init__(
        self,
        store: Store,
        *,
        topics: str | Iterable[str] | None = None,
        partitions: bool = True,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self._store = store
        self._topics = None if topics is None else [topics] if isinstance(topics, str) else list(topics)
        for name in self._topics or ():
            opt.check_topic_name(name)
        self._partitions = opt.parse_flag("partitions", partitions)
        self._labels = {str(name): str(value) for name, value in (labels or {}).items()}
        if taken := self._labels.keys() & {"topic", "partition", "group", "version"}:
            raise OptionError(f"labels: {taken.pop()!r} is a label of pystream's own")
        for name in self._labels:
            if not name.isidentifier() or not name.isascii() or name.startswith("__"):
                raise OptionError(f"labels: {name!r} is no name of a label: letters, digits and _")
        self._clients = _Clients()

    def describe(self) -> Iterator[Metric]:
        """The metrics without the store's values, so that registering does not look at it."""
        yield from self._made({})
        yield from (self._gauge(family, 0) for family in (UP, TOPICS, PROBLEMS, COLLECT))

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        begun = time.monotonic()
        try:
            found = self._store.stats(self._there())
        except PystreamError as error:
            _log.debug("metrics of %s: %s", self._store.path, error)
            yield self._gauge(UP, 0)
            return
        rows: dict[str, list[tuple[tuple[str, ...], float]]] = {}
        self._add(rows, STORE, (), found)
        for topic in found.topics.values():
            self._add_topic(rows, topic)
        for (kind, whose), values in self._clients.look(self._store).items():
            self._add(rows, PRODUCER if kind == "producer" else CONSUMER, (whose,), values)
        yield self._gauge(UP, 1)
        yield from self._made(rows)
        yield self._gauge(TOPICS, len(found.topics))
        yield self._gauge(PROBLEMS, len(found.errors))
        yield self._gauge(COLLECT, time.monotonic() - begun)

    def _there(self) -> list[str] | None:
        """Of the topics asked for, those that exist: one that was deleted has no numbers."""
        return None if self._topics is None else [name for name in self._topics if name in self._store]

    def _add_topic(self, rows: _Rows, topic: TopicStats) -> None:
        places: Iterable[tuple[tuple[str, ...], Any]] = (
            (((topic.name, str(part.partition)), part) for part in topic.partitions)
            if self._partitions
            else [((topic.name,), _Sum(topic.partitions, topic))]
        )
        for labels, place in places:
            self._add(rows, (*PARTITION, OLDEST), labels, place)
            if place.process is not None:
                self._add(rows, PROCESS, labels, place.process)
            for lag in place.groups:
                self._add(rows, GROUP, (lag.group, *labels), lag)

    def _add(self, rows: _Rows, families: Sequence[_Family], labels: tuple[str, ...], source: Any) -> None:
        for family in families:
            value = source.get(family.field) if isinstance(source, dict) else getattr(source, family.field)
            if value is not None:
                value = value / 1e9 if family.field.endswith("_ns") else float(value)
                rows.setdefault(family.name, []).append((labels, value))

    def _made(self, rows: _Rows) -> Iterator[Metric]:
        place = ("topic", "partition") if self._partitions else ("topic",)
        for families, labels in (
            (STORE, ()),
            ((*PARTITION, OLDEST), place),
            (PROCESS, place),
            (GROUP, ("group", *place)),
            (PRODUCER, ("topic",)),
            (CONSUMER, ("group",)),
        ):
            for family in families:
                kind: Callable[..., Any] = CounterMetricFamily if family.counts else GaugeMetricFamily
                metric = kind(family.name, family.help, labels=(*self._labels, *labels), unit=family.unit)
                for values, value in rows.get(family.name, ()):
                    metric.add_metric((*self._labels.values(), *values), value)
                if rows.get(family.name) or not rows:
                    yield metric

    def _gauge(self, family: _Family, value: float) -> Metric:
        metric = GaugeMetricFamily(family.name, family.help, labels=tuple(self._labels), unit=family.unit)
        metric.add_metric(tuple(self._labels.values()), value)
        return metric


def text_of(collector: Collector, *, plain: bool = False) -> str:
    """The metrics as OpenMetrics text; `plain`: as Prometheus's own, which is older."""
    generate = exposition.generate_latest if plain else openmetrics.generate_latest
    return generate(_registry_of(collector)).decode()


def serve(collector: Collector, host: str, port: int) -> tuple[int, Callable[[], None]]:
    """Serve the metrics by HTTP from threads of their own. Gives the port, and what ends it.

    Args:
        port: 0: any that is free.

    Raises:
        OSError: nobody can listen there.
    """
    server, thread = start_http_server(port, host, _registry_of(collector))

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return server.server_port, end


def _registry_of(collector: Collector) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(collector)
    return registry


_Rows = dict[str, list[tuple[tuple[str, ...], float]]]


class _Sum:
    """The partitions of a topic as one."""

    def __init__(self, parts: Sequence[PartitionStats], topic: TopicStats) -> None:
        self._parts = parts
        self.groups: tuple[GroupLag, ...] = topic.groups
        self.oldest_timestamp_ns = topic.oldest_timestamp_ns
        self.reclaimable_bytes = topic.reclaimable_bytes
        processes = [part.process for part in parts if part.process is not None]
        self.process = _Joined(processes, PROCESS) if processes else None
        self._joined = _Joined(parts, PARTITION)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._joined, name)


class _Joined:
    """Sums, or the largest, of fields of several."""

    def __init__(self, parts: Sequence[Any], families: Iterable[_Family]) -> None:
        for family in families:
            values = [value for part in parts if (value := getattr(part, family.field)) is not None]
            joined: Any = sum(values) if family.summed else max(values, default=None)
            setattr(self, family.field, joined)


class _Clients:
    """Sums over the producers and consumers of a store, whose counters do not fall when one of them goes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[ReferenceType[Any], tuple[_Kind, dict[str, int]]] = {}
        self._gone: dict[_Kind, dict[str, int]] = {}

    def look(self, store: Store) -> dict[_Kind, dict[str, int]]:
        """{("producer", topic) or ("consumer", group or ""): {field: sum}}"""
        with self._lock:
            for client in list(store._users):
                key: _Kind
                if isinstance(client, Producer):
                    key, families = ("producer", client.topic), PRODUCER
                else:
                    key, families = ("consumer", client.group or ""), CONSUMER
                stats = client.stats()
                self._last[ref(client)] = key, {each.field: getattr(stats, each.field) for each in families}
            sums = {key: dict(values) for key, values in self._gone.items()}
            for where, (key, values) in list(self._last.items()):
                if where() is None:
                    del self._last[where]
                    values = {name: value for name, value in values.items() if name in _COUNTED}
                    _add_up(self._gone.setdefault(key, dict.fromkeys(_COUNTED & values.keys(), 0)), values)
                _add_up(sums.setdefault(key, {}), values)
            return sums


def _add_up(sums: dict[str, int], values: Mapping[str, int]) -> None:
    for name, value in values.items():
        sums[name] = sums.get(name, 0) + value


_Kind = tuple[str, str]
_COUNTED: Final = frozenset(family.field for family in (*PRODUCER, *CONSUMER) if family.counts)
