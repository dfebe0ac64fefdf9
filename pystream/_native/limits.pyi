from typing import Final

FORMAT_VERSION: Final[int]
SEGMENT_BYTES_MIN: Final[int]
SEGMENT_BYTES_MAX: Final[int]
PARTITIONS_MAX: Final[int]
TOPIC_NAME_BYTES_MAX: Final[int]
RECORDS_PER_BATCH_MAX: Final[int]
FRAME_HEADER_BYTES: Final[int]

CODECS: Final[dict[str, int]]
DURABILITIES: Final[dict[str, int]]
IO_VERBS: Final[dict[str, int]]

def libraries() -> dict[str, str]: ...
def choose_io(path: str) -> tuple[str, str]: ...
