"""The numbers as Prometheus has them: parsed by its client, scraped over HTTP, counted without falling."""

from __future__ import annotations

import gc
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as parse_plain

import pystream
from commands import ENVIRONMENT, WAIT_S, altered, pystream_
from harness import T0
from pystream.metrics import Collector

Samples = dict[tuple[str, ...], float]


def parsed(text: str, parse: Callable[[str], Any] = text_string_to_metric_families) -> dict[str, Samples]:
    """{name: {label values in order of label names: value}}"""
    found: dict[str, Samples] = {}
    for family in parse(text):
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            place = found.setdefault(sample.name, {})
            assert labels not in place, "twice the same"
            place[labels] = sample.value
    return found


def scraped(collector: Collector) -> dict[str, Samples]:
    registry = CollectorRegistry()
    registry.register(collector)
    return parsed(openmetrics.generate_latest(registry).decode())


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """Two topics, a group that has read 7 of 30 records, and a partition that nobody has used."""
    path = tmp_path / "events.ps"
    with pystream.open(path) as store:
        clicks = store.topic("clicks", create=True, partitions=3, compression="lz4")
        for index in range(2):
            clicks.append([b"x" * 100] * 15, partition=index, timestamps=T0 + index)
        store.topic("ticks", create=True)
        with store.consumer("clicks", group="billing") as consumer:
            for number, _ in enumerate(consumer):
                if number == 7:
                    break
    return path


def test_values_are_those_of_the_statistics(filled: Path) -> None:
    with pystream.open(filled, "r") as store:
        found, stats = scraped(Collector(store)), store.stats()
        fields = {
            "pystream_log_start_offset": "log_start",
            "pystream_log_end_offset": "log_end",
            "pystream_log_high_watermark_offset": "high_watermark",
            "pystream_log_durable_offset": "durable_offset",
            "pystream_log_records": "records",
            "pystream_log_raw_bytes": "raw_bytes",
            "pystream_log_stored_bytes": "stored_bytes",
            "pystream_log_disk_bytes": "disk_bytes",
            "pystream_log_segments": "segments",
            "pystream_log_reclaimable_bytes": "reclaimable_bytes",
            "pystream_log_poisoned": "poisoned",
        }
        for name, field in fields.items():
            wanted = {(str(p.partition), p.topic): float(getattr(p, field)) for p in stats.partitions}
            assert found[name] == wanted, name
        assert found["pystream_log_newest_timestamp_seconds"] == {
            ("0", "clicks"): T0 / 1e9,
            ("1", "clicks"): T0 / 1e9,
        }
        assert sum(found["pystream_group_committed_offset"].values()) in (7, 8)
        lags = found["pystream_group_lag_records"]
        assert {labels[:1] for labels in lags} == {("billing",)} and sum(lags.values()) in (22, 23)
        ages = found["pystream_group_lag_seconds"]
        assert ages.keys() == lags.keys() and all((ages[key] > 0) == (lags[key] > 0) for key in lags)
        assert found["pystream_up"] == {(): 1} and found["pystream_topics"] == {(): 2}
        assert found["pystream_problems"] == {(): 0}
        assert 0 < found["pystream_store_free_bytes"][()] <= found["pystream_store_size_bytes"][()]
        assert "pystream_appends_total" not in found  # nothing is open for writing here


def test_sums_over_partitions(filled: Path) -> None:
    with pystream.open(filled, "r") as store:
        found = scraped(Collector(store, partitions=False, topics="clicks", labels={"store": "events"}))
        assert found["pystream_log_records"] == {("events", "clicks"): 30}
        assert found["pystream_log_end_offset"] == {("events", "clicks"): 30}
        assert found["pystream_log_oldest_timestamp_seconds"] == {("events", "clicks"): T0 / 1e9}
        assert found["pystream_group_lag_records"][("billing", "events", "clicks")] in (22, 23)
        assert found["pystream_topics"] == {("events",): 1}


def test_what_this_process_does_is_counted(store: pystream.Store, topic: pystream.Topic) -> None:
    collector = Collector(store)
    producer = topic.producer()
    consumer = store.consumer("t", timeout=0)
    before = scraped(collector)
    assert before["pystream_producer_records_total"] == {("t",): 0}
    for _ in range(10):
        producer.send(b"x")
    producer.flush()
    topic.append([b"y"] * 5)
    assert len(list(consumer)) == 15
    found = scraped(collector)
    assert found["pystream_producer_records_total"] == {("t",): 10}
    assert found["pystream_producer_pending_records"] == {("t",): 0}
    assert found["pystream_consumer_records_total"] == {("",): 15}
    assert found["pystream_consumer_partitions"] == {("",): 1}
    assert found["pystream_appended_records_total"] == {("0", "t"): 15}
    assert found["pystream_sync_lag_max_seconds"][("0", "t")] >= 0
    producer.close()
    consumer.close()
    del producer, consumer
    gc.collect()
    with topic.producer() as another:
        another.send(b"z")
        another.flush()
        found = scraped(collector)
        assert found["pystream_producer_records_total"] == {("t",): 11}
    assert found["pystream_consumer_records_total"] == {("",): 15}
    assert "pystream_consumer_partitions" not in found or found["pystream_consumer_partitions"] == {("",): 0}


def test_names_types_and_units() -> None:
    """Each name ends with its unit, counters with _total; promtool has nothing to say against them."""
    from pystream import metrics

    names = []
    for families in (
        metrics.STORE,
        metrics.PARTITION,
        (metrics.OLDEST, metrics.UP, metrics.TOPICS, metrics.PROBLEMS, metrics.COLLECT),
        metrics.PROCESS,
        metrics.GROUP,
        metrics.PRODUCER,
        metrics.CONSUMER,
    ):
        for family in families:
            assert re.fullmatch(r"pystream(_[a-z]+)+", family.name)
            assert not family.name.endswith("_total") and family.help.endswith((".", ")"))
            assert family.name.endswith(family.unit)
            assert bool(family.unit) == family.name.endswith(("_bytes", "_seconds"))
            names.append(family.name)
    assert len(names) == len(set(names))


def test_registering_looks_at_nothing_and_names_clash(store: pystream.Store) -> None:
    registry = CollectorRegistry(auto_describe=True)
    collector = Collector(store)
    store.close()
    registry.register(collector)
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(Collector(store))
    assert parsed(openmetrics.generate_latest(registry).decode()) == {"pystream_up": {(): 0}}
    registry.unregister(collector)


def test_topics_that_go_leave_the_rest(store: pystream.Store) -> None:
    for name in ("a", "b"):
        store.topic(name, create=True).append([b"x"])
    collector = Collector(store, topics=["a", "b", "c"])
    assert scraped(collector)["pystream_topics"] == {(): 2}
    store.delete_topic("a")
    assert scraped(collector)["pystream_log_records"] == {("0", "b"): 1}
    store.topic("c", create=True)
    assert scraped(collector)["pystream_topics"] == {(): 2}


def test_what_is_refused(store: pystream.Store) -> None:
    with pytest.raises(pystream.OptionError, match="topic name"):
        Collector(store, topics="a/b")
    with pytest.raises(pystream.OptionError, match="'topic' is a label of pystream's own"):
        Collector(store, labels={"topic": "x"})
    for name in ("__x", "a-b", "ä", "1a"):
        with pytest.raises(pystream.OptionError, match="no name of a label"):
            Collector(store, labels={name: "x"})
    with pytest.raises(TypeError, match="partitions"):
        Collector(store, partitions=1)  # type: ignore[arg-type]


def test_label_values_are_escaped(store: pystream.Store) -> None:
    found = scraped(Collector(store, labels={"store": 'a "b"\\\n'}))
    assert found["pystream_up"] == {('a "b"\\\n',): 1}


# ---- the command ----------------------------------------------------------------------------------------


def test_printed(filled: Path) -> None:
    result = pystream_("metrics", filled)
    assert result.returncode == 0 and result.stderr == "" and result.stdout.endswith("# EOF\n")
    assert parsed(result.stdout)["pystream_log_records"][("0", "clicks")] == 15
    plain = pystream_("metrics", filled, "--format", "prometheus", "--no-partitions", "-t", "clicks")
    assert parsed(plain.stdout, parse_plain)["pystream_log_records"] == {("clicks",): 30}
    with pystream.open(filled, "r") as store:
        registry = CollectorRegistry()
        registry.register(Collector(store))
        assert set(parsed(result.stdout)) == set(parsed(generate_latest(registry).decode(), parse_plain))


def test_wrong_usage(filled: Path, tmp_path: Path) -> None:
    for text in ("x", "host:", "localhost:70000", "::1:80", "1:2:3"):
        result = pystream_("metrics", filled, "--listen", text)
        assert result.returncode == 2 and repr(text) in result.stderr, text
    result = pystream_("metrics", filled, "-t", "click")
    assert result.returncode == 3 and "did you mean 'clicks'" in result.stderr
    result = pystream_("metrics", tmp_path / "none")
    assert result.returncode == 3 and "does not exist" in result.stderr
    hide = "import sys; sys.modules['prometheus_client'] = None"
    missing = altered(f"{hide}; import importlib.util as u; f = u.find_spec; "
                      "u.find_spec = lambda n, p=None: None if n == 'prometheus_client' else f(n, p)",
                      "metrics", filled)  # fmt: skip
    assert missing.returncode == 2 and "pystream-log[metrics]" in missing.stderr


@contextmanager
def served(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command, and the address that it says it serves."""
    command = [sys.executable, "-m", "pystream", "metrics", *map(str, arguments)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    try:
        assert process.stderr is not None
        said = process.stderr.readline()
        address = re.search(r"http://\S+", said)
        assert address is not None, said + process.stderr.read()
        yield process, address[0]
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(WAIT_S)
        assert process.stderr is not None
        process.stderr.close()


def fetch(address: str, **headers: str) -> tuple[str, str]:
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=WAIT_S) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def test_scraped_over_http(filled: Path) -> None:
    with served(filled, "--listen", "0") as (process, address):
        assert address.startswith("http://127.0.0.1:")
        kind, text = fetch(address, Accept="application/openmetrics-text; version=1.0.0")
        assert kind.startswith("application/openmetrics-text")
        assert parsed(text)["pystream_log_records"][("0", "clicks")] == 15
        kind, text = fetch(address)
        assert kind.startswith("text/plain")
        with pystream.open(filled) as store:
            store["clicks"].append([b"x"] * 10, partition=0)
        assert parsed(fetch(address)[1], parse_plain)["pystream_log_records"][("0", "clicks")] == 25
        only = fetch(address + "?name[]=pystream_up")[1]
        assert set(parsed(only, parse_plain)) == {"pystream_up"}
        assert parsed(only, parse_plain)["pystream_up"] == {(): 1}
        with pytest.raises(urllib.error.HTTPError, match="405"):
            urllib.request.urlopen(urllib.request.Request(address, data=b"x", method="POST"), timeout=WAIT_S)
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0


def test_it_ends_when_interrupted_and_says_when_it_cannot_begin(filled: Path) -> None:
    with served(filled, "--listen", "localhost:0", "--no-partitions") as (process, address):
        port = int(address.rpartition(":")[2].split("/")[0])
        taken = pystream_("metrics", filled, "--listen", port)
        assert taken.returncode == 3 and f"127.0.0.1:{port}" in taken.stderr
        assert os.strerror(98) in taken.stderr
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 130
    with socket.socket() as free:  # nothing is left behind
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", port))


def test_many_scrapes_at_once(filled: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with served(filled, "--listen", "0") as (process, address), ThreadPoolExecutor(8) as pool:
        begun = time.monotonic()
        for _, text in pool.map(lambda _: fetch(address), range(40)):
            assert parsed(text, parse_plain)["pystream_up"] == {(): 1}
        assert time.monotonic() - begun < WAIT_S
        process.terminate()
        assert process.wait(WAIT_S) == 0
