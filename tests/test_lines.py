"""Lines into a topic and back: LineWriter and LineReader against bytes.split and plain producers."""

import io
import os
import signal
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lives
import pystream
from harness import Life
from pystream._native.linereader import LineReader
from pystream._native.linewriter import BadLineError, LineWriter

FEW = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
# Few different bytes, so that delimiters, separators and nulls meet in every way.
texts = st.binary(max_size=400) | st.lists(
    st.sampled_from([b"\n", b":", b"::", b"\r\n", b"NULL", b"a", b"long " * 30, b"\0", b"\xff"]), max_size=60
).map(b"".join)


@pytest.fixture
def store(tmp_path):
    with pystream.open(tmp_path / "store") as store:
        yield store


@pytest.fixture
def fresh(store):
    """Makes a topic of its own each time."""
    count = iter(range(10**6))
    return lambda **options: store.topic(f"t{next(count)}", create=True, segment_bytes="64KiB", **options)


def write(topic, text, *, pieces=(), **options):
    """Feed `text`, cut into pieces of those lengths; the writer."""
    with topic.producer() as producer:
        writer = LineWriter(producer, **options)
        at = 0
        for length in pieces:
            writer.feed(text[at : at + length])
            at += length
        writer.feed(text[at:])
        writer.finish()
    return writer


def lines_of(text, delimiter=b"\n"):
    parts = text.split(delimiter)
    return parts if parts[-1] else parts[:-1]


def joined(topic, *, sink=None, **options):
    sink = sink or io.BytesIO()
    reader = LineReader(sink, **options)
    for batch in topic.batches():
        reader.put_batch(batch)
    reader.flush()
    return sink.getvalue(), reader


@FEW
@given(
    text=texts,
    pieces=st.lists(st.integers(0, 90), max_size=8),
    chunk=st.sampled_from([1, 7, 64, 1000]),
    delimiter=st.sampled_from([b"\n", b"\0", b":"]),
    room=st.sampled_from([1, 30, 1000]),
)
def test_round_trip(fresh, text, pieces, chunk, delimiter, room):
    topic = fresh()
    writer = write(topic, text, pieces=pieces, chunk_bytes=chunk, delimiter=delimiter)
    wanted = lines_of(text, delimiter)
    assert [record.value for record in topic.records()] == wanted
    assert writer.records == len(wanted)
    assert writer.input_bytes == len(text)
    whole = b"".join(line + delimiter for line in wanted)
    output, reader = joined(topic, delimiter=delimiter, buffer_bytes=room)
    assert output == whole
    assert (reader.records, reader.output_bytes) == (len(wanted), len(whole))


@FEW
@given(
    text=texts,
    separator=st.sampled_from([b":", b"::"]),
    null=st.sampled_from([None, b"NULL", b""]),
    strip=st.booleans(),
    partitions=st.sampled_from([1, 3]),
    compression=st.sampled_from(["none", "lz4"]),
)
def test_keys(fresh, text, separator, null, strip, partitions, compression):
    """As a producer would send what Python splits."""
    topic = fresh(partitions=partitions, compression=compression)
    write(topic, text, separator=separator, null_text=null, strip_cr=strip, chunk_bytes=64)
    other = fresh(partitions=partitions)
    wanted = []
    with other.producer() as producer:
        for line in lines_of(text):
            if strip:
                line = line.removesuffix(b"\r")
            key, found, value = line.partition(separator)
            if not found:
                key, value = None, line
            key = None if key == null else key
            value = None if null is not None and value == null else value
            wanted.append((key, value))
            if key is not None:
                producer.send(value, key)

    def keyed(topic):
        return [
            [(record.key, record.value) for record in topic.partition(index) if record.key is not None]
            for index in range(topic.partitions)
        ]

    assert keyed(topic) == keyed(other)
    by_key = lambda pair: (pair[0] is None, pair[0] or b"", pair[1] is None, pair[1] or b"")  # noqa: E731
    assert sorted(((r.key, r.value) for r in topic.records()), key=by_key) == sorted(wanted, key=by_key)
    if partitions == 1:
        assert [(r.key, r.value) for r in topic.records()] == wanted
        if not strip and null is None:
            output, _ = joined(topic, keys=True, separator=separator, buffer_bytes=50)
            assert output == b"".join(line + b"\n" for line in lines_of(text))


def test_lines_without_keys_go_to_partitions_by_turns(fresh):
    topic = fresh(partitions=3)
    write(topic, b"x\n" * 90, chunk_bytes=20)
    assert [len(list(topic.partition(i))) for i in range(3)] == [30, 30, 30]
    write(topic, b"y\n" * 10, partition=1)
    assert sum(record.value == b"y" for record in topic.partition(1)) == 10


@pytest.mark.parametrize("separator", [None, b":"])
@pytest.mark.parametrize("partitions", [1, 2])
def test_headers_and_timestamp_of_every_record(fresh, separator, partitions):
    topic = fresh(partitions=partitions)
    headers = [("a", b"1"), ("b", b""), ("a", b"\xff" * 40)]
    write(topic, b"k:v\n" * 300, separator=separator, headers=headers, timestamp=123, chunk_bytes=300)
    records = list(topic.records())
    assert len(records) == 300
    assert {record.headers for record in records} == {tuple(headers)}
    assert {record.timestamp for record in records} == {123}
    if separator is None or partitions == 1:
        assert len(list(topic.batches())) > 3  # small ones and large ones have the same


def test_the_largest_line(fresh):
    """The limit is a segment's, and the same as a producer's; lines before one too large are appended."""
    topic = fresh()
    most = 64 * 1024
    with pytest.raises(pystream.RecordTooLargeError):
        topic.append([b"x" * most])
    while True:
        try:
            topic.append([b"x" * most])
            break
        except pystream.RecordTooLargeError:
            most -= 1
    write(topic, b"x" * most + b"\ny", chunk_bytes=100)
    assert [len(record.value) for record in topic.records()][1:] == [most, 1]
    for ended in (b"\n", b""):
        before = topic.offsets()[0][1]
        with topic.producer() as producer:
            writer = LineWriter(producer, chunk_bytes=100)
            with pytest.raises(pystream.RecordTooLargeError, match=r"^words, line 3: .*segment_bytes="):
                writer.feed(b"a\nb\n" + b"x" * (most + 1) + ended, "words")
                writer.finish()
            assert (writer.records, writer.line) == (2, 2)
        assert [r.value for r in topic.partition(0).records(before)] == [b"a", b"b"]


def test_a_line_without_end_is_refused_before_it_takes_all_memory(fresh):
    topic = fresh()
    with topic.producer() as producer:
        writer = LineWriter(producer, chunk_bytes=1000)
        with pytest.raises(pystream.RecordTooLargeError, match="line 1"):
            for _ in range(100):
                writer.feed(b"x" * 1000)


@pytest.mark.parametrize("separator", [None, b":"])
def test_widths(fresh, separator):
    topic = fresh(value_bytes=3)
    text = b"abc\ndef\n" if separator is None else b"k:abc\ndef\n"
    write(topic, text, separator=separator)
    assert [record.value for record in topic.records()] == [b"abc", b"def"]
    with topic.producer() as producer:
        writer = LineWriter(producer, separator=separator)
        with pytest.raises(
            BadLineError, match=r"^input, line 3: the value has 2 bytes; .* exactly 3$"
        ) as caught:
            writer.feed(text + b"gh\nijk\n")
            writer.finish()
        assert caught.value.line == 3
    assert [record.value for record in topic.records()] == [b"abc", b"def"] * 2


@pytest.mark.parametrize("partitions", [1, 2])
def test_key_widths_and_nulls(fresh, partitions):
    topic = fresh(key_bytes=2, value_bytes=1, partitions=partitions)
    write(topic, b"ab:1\n2\nNULL:3\ncd:NULL\n", separator=b":", null_text=b"NULL")
    found = {(record.key, record.value) for record in topic.records()}
    assert found == {(b"ab", b"1"), (None, b"2"), (None, b"3"), (b"cd", None)}
    with topic.producer() as producer:
        writer = LineWriter(producer, separator=b":")
        with pytest.raises(BadLineError, match=r"line 2: the key has 3 bytes; .* exactly 2$"):
            writer.feed(b"ef:4\nabc:1\n")
            writer.finish()
    assert len(list(topic.records())) == 5


def test_wrong_arguments(fresh):
    topic = fresh(partitions=2)
    stamped = fresh(timestamp_type="append")
    with topic.producer() as producer, stamped.producer() as stamper:
        for options, text in [
            ({"delimiter": b"ab"}, "delimiter"),
            ({"delimiter": b""}, "delimiter"),
            ({"separator": b""}, "separator"),
            ({"separator": b"a\n"}, "hold the delimiter"),
            ({"chunk_bytes": 0}, "chunk_bytes"),
            ({"headers": [("a", None)]}, "header"),
            ({"partition": 2}, "partition 2"),
        ]:
            with pytest.raises(ValueError, match=text):
                LineWriter(producer, **options)
        with pytest.raises(ValueError, match="stamps records itself"):
            LineWriter(stamper, timestamp=1)
        writer = LineWriter(producer)
        with pytest.raises(RuntimeError, match="once"):
            writer.__init__(producer)
    with pytest.raises(pystream.ClosedError):
        LineWriter(producer)
    with pytest.raises(pystream.ClosedError):
        writer.feed(b"a\n")
        writer.finish()
    for options in ({"delimiter": b"ab"}, {"buffer_bytes": 0}):
        with pytest.raises(ValueError):
            LineReader(io.BytesIO(), **options)


# ---- from and to descriptors --------------------------------------------------------------------------


@pytest.fixture
def pipe():
    reading, writing = os.pipe()
    ends = {reading, writing}

    def close(fd):
        ends.discard(fd)
        os.close(fd)

    yield reading, writing, close
    for fd in ends:
        os.close(fd)


def in_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_run_reads_a_pipe_to_its_end(fresh, pipe):
    topic = fresh()
    reading, writing, close = pipe
    text = b"".join(b"line %d\n" % i for i in range(50_000)) + b"last"

    def feed():
        view = memoryview(text)
        while view:
            view = view[os.write(writing, view[:5000]) :]
        close(writing)

    thread = in_thread(feed)
    with topic.producer() as producer:
        writer = LineWriter(producer)
        writer.run(reading, "pipe")
    thread.join()
    assert writer.records == 50_001
    output, _ = joined(topic)
    assert output == text + b"\n"


def test_what_trickles_is_appended_soon_and_what_streams_in_large_batches(fresh, pipe):
    topic = fresh()
    partition = topic.partition(0)
    reading, writing, close = pipe
    delays = []

    def feed():
        for i in range(5):
            began = time.monotonic()
            os.write(writing, b"%d\nhalf" % i)
            assert partition.wait(i, timeout=30)
            delays.append(time.monotonic() - began)
            os.write(writing, b"\x08")  # and the rest of the line comes with the next
        os.write(writing, b"\n" + b"x\n" * 1000)
        close(writing)

    thread = in_thread(feed)
    with topic.producer() as producer:
        LineWriter(producer, linger_ns=20_000_000).run(reading)
    thread.join()
    values = [record.value for record in topic.records()]
    assert values[:2] == [b"0", b"half\x081"] and len(values) == 1006
    assert sorted(delays)[2] < 0.25  # the median: others may have the processor for longer
    assert len(list(topic.batches())) <= 8


def test_linger_gathers(fresh, pipe):
    topic = fresh()
    reading, writing, close = pipe

    def feed():
        for _ in range(10):
            os.write(writing, b"x\n")
            time.sleep(0.001)
        close(writing)

    thread = in_thread(feed)
    with topic.producer() as producer:
        LineWriter(producer, linger_ns=10_000_000_000).run(reading)  # the end does not wait for it
    thread.join()
    assert [len(batch) for batch in topic.batches()] == [10]


def test_a_signal_ends_a_wait_and_loses_nothing(fresh, pipe):
    topic = fresh()
    reading, writing, _ = pipe

    class Stop(Exception):
        pass

    def stop(number, frame):
        raise Stop

    before = signal.signal(signal.SIGUSR1, stop)
    try:
        os.write(writing, b"one\ntwo\nunfin")
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        with topic.producer() as producer:
            writer = LineWriter(producer, linger_ns=60 * 10**9)
            with pytest.raises(Stop):
                writer.run(reading)
            assert list(topic.records()) == []
            assert writer.flush() == len(b"unfin")
            assert [record.value for record in topic.records()] == [b"one", b"two"]
            with pytest.raises(ValueError, match="finish"):
                writer.run(reading)
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_descriptor_that_cannot_be_read(fresh, tmp_path):
    topic = fresh()
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with topic.producer() as producer, pytest.raises(IsADirectoryError, match="here"):
            LineWriter(producer).run(fd, "here")
    finally:
        os.close(fd)


def test_reader_writes_to_a_descriptor(fresh, pipe):
    topic = fresh()
    topic.append([b"x" * i for i in range(300)])
    reading, writing, close = pipe
    os.set_blocking(writing, False)  # it waits all the same
    got = []

    def drain():
        while data := os.read(reading, 3000):
            got.append(data)

    thread = in_thread(drain)
    reader = LineReader(writing, buffer_bytes=1000)
    for _ in range(20):
        for batch in topic.batches():
            reader.put_batch(batch)
    reader.put(b"end" * 1000)
    reader.flush()
    close(writing)
    thread.join()
    assert b"".join(got) == b"".join(b"x" * i + b"\n" for i in range(300)) * 20 + b"end" * 1000


def test_nobody_reads(fresh, pipe):
    topic = fresh()
    topic.append([b"x" * 1000] * 50)
    reading, writing, close = pipe
    close(reading)
    reader = LineReader(writing, buffer_bytes=1000)
    with pytest.raises(BrokenPipeError):
        for batch in topic.batches():
            reader.put_batch(batch)


def test_rows_larger_than_the_buffer_and_nulls(fresh):
    topic = fresh()
    topic.append([b"v" * 100, None, b"", b"w" * 30], keys=[b"k" * 50, None, b"key", None])
    assert joined(topic, buffer_bytes=8)[0] == b"v" * 100 + b"\n\n\n" + b"w" * 30 + b"\n"
    for room in (1, 8, 1000):
        output, _ = joined(topic, keys=True, separator=b", ", buffer_bytes=room)
        assert output == b"k" * 50 + b", " + b"v" * 100 + b"\n\nkey, \n" + b"w" * 30 + b"\n"
        output, _ = joined(topic, keys=True, null_text=b"-", delimiter=b"", buffer_bytes=room)
        assert output == b"k" * 50 + b"\t" + b"v" * 100 + b"-\t-" + b"key\t" + b"-\t" + b"w" * 30


def test_slices_of_batches(fresh):
    topic = fresh()
    topic.append([b"%d" % i for i in range(10)])
    sink = io.BytesIO()
    reader = LineReader(sink)
    (batch,) = topic.batches()
    reader.put_batch(batch[3:5])
    reader.put_batch(batch[8:])
    reader.put_batch(batch[:0])
    reader.flush()
    assert sink.getvalue() == b"3\n4\n8\n9\n"


def test_a_signal_amid_a_batch_repeats_nothing(tmp_path):
    """Lines that a producer has taken one by one are not given to it again by `flush`."""

    class Stop(Exception):
        pass

    def stop(number, frame):
        raise Stop

    text = b"".join(b"k:%d" % i + b"." * 200 + b"\n" for i in range(2000))
    with pystream.open(tmp_path / "s") as store:
        topic = store.topic("t", create=True, key_bytes=1)  # of fixed width: one by one
        life = Life(lives.hold_partition, str(tmp_path / "s"))
        assert life.receive() == "held"
        producer = topic.producer(buffer_bytes="128KiB", batch_bytes="16KiB")
        writer = LineWriter(producer, separator=b":", chunk_bytes=1 << 20)
        writer.feed(text)
        before = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        try:
            with pytest.raises(Stop):
                writer.finish()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        taken = (writer.line, writer.records)
        life.channel.send("let go")
        assert life.receive() == "released"
        assert writer.flush() == 0
        producer.close()
        life.channel.send("end")
        assert life.end() == 0
        assert [record.value for record in topic.records() if record.key == b"k"] == [
            line[2:] for line in lines_of(text)
        ]
        assert taken[0] == taken[1] and 0 < taken[0] < writer.records == 2000
