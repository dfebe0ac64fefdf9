"""The limits and codes of the on-disk format, as csrc/ps_format.h states them; what libraries write it; and how the file
system lets it be written."""
import os

from pystream._native.c_api cimport (
    PS_CODEC_LZ4,
    PS_CODEC_NONE,
    PS_DURABILITY_INTERVAL,
    PS_DURABILITY_NONE,
    PS_DURABILITY_SYNC,
    PS_FORMAT_VERSION,
    PS_FRAME_HEADER_BYTES,
    PS_IO_MAP,
    PS_IO_PWRITE,
    PS_IO_REFUSED,
    PS_PARTITIONS_MAX,
    PS_RECORDS_PER_BATCH_MAX,
    PS_SEGMENT_BYTES_MAX,
    PS_SEGMENT_BYTES_MIN,
    PS_TOPIC_NAME_BYTES_MAX,
    ps_os_choose_io,
)


cdef extern from "<lz4.h>" nogil:
    const char *LZ4_versionString()


cdef extern from "<xxhash.h>" nogil:
    const int XXH_VERSION_MAJOR
    const int XXH_VERSION_MINOR
    const int XXH_VERSION_RELEASE


FORMAT_VERSION = <int>PS_FORMAT_VERSION
SEGMENT_BYTES_MIN = <int>PS_SEGMENT_BYTES_MIN
SEGMENT_BYTES_MAX = <int>PS_SEGMENT_BYTES_MAX
PARTITIONS_MAX = <int>PS_PARTITIONS_MAX
TOPIC_NAME_BYTES_MAX = <int>PS_TOPIC_NAME_BYTES_MAX
RECORDS_PER_BATCH_MAX = <int>PS_RECORDS_PER_BATCH_MAX
FRAME_HEADER_BYTES = <int>PS_FRAME_HEADER_BYTES

CODECS = {"none": <int>PS_CODEC_NONE, "lz4": <int>PS_CODEC_LZ4}
DURABILITIES = {
    "none": <int>PS_DURABILITY_NONE,
    "interval": <int>PS_DURABILITY_INTERVAL,
    "sync": <int>PS_DURABILITY_SYNC,
}
IO_VERBS = {"mmap": <int>PS_IO_MAP, "pwrite": <int>PS_IO_PWRITE}


def libraries():
    """The versions of the libraries: LZ4 as it is loaded, xxHash as it was compiled in."""
    return {
        "lz4": LZ4_versionString().decode(),
        "xxhash": f"{XXH_VERSION_MAJOR}.{XXH_VERSION_MINOR}.{XXH_VERSION_RELEASE}",
    }


def choose_io(str path not None):
    """How records may be stored below `path`: ("mmap" | "pwrite" | "refused", name of the file system)."""
    cdef char name[32]
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        io = ps_os_choose_io(fd, name)
    finally:
        os.close(fd)
    verb = {<int>PS_IO_MAP: "mmap", <int>PS_IO_PWRITE: "pwrite", <int>PS_IO_REFUSED: "refused"}[<int>io]
    return verb, name.decode()
