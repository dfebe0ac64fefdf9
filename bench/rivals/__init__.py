"""pystream, the floors and what else there is to take, behind one interface: see rivals/base.py."""

from rivals.base import Contestant
from rivals.chronicle import Chronicle
from rivals.disk_cache import DiskCache
from rivals.floor import Floor, FloorPopulate
from rivals.jetstream import JetStream
from rivals.kafka import Kafka
from rivals.kafka_java import KafkaJava
from rivals.lightning import Lmdb
from rivals.ours import Pystream, PystreamColumns
from rivals.redis_streams import RedisStreams
from rivals.rocks import RocksDb
from rivals.sqlite import Sqlite

ALL: dict[str, type[Contestant]] = {
    contestant.key: contestant
    for contestant in (
        Floor,
        FloorPopulate,
        Pystream,
        PystreamColumns,
        RocksDb,
        Lmdb,
        Sqlite,
        DiskCache,
        RedisStreams,
        JetStream,
        Kafka,
        KafkaJava,
        Chronicle,
    )
}
