"""Export: records of a topic as Parquet, CSV, JSON lines or Arrow files. Needs the extra [arrow].

from pystream.export import export

export(topic, "clicks.parquet", start=yesterday)
export(topic, "clicks.csv.gz", columns="timestamp,key,value", value="json")
export(topic, "clicks/", format="parquet", by="day")
"""

from pystream.export.engine import ExportResult, Progress, export
from pystream.export.errors import BadRecordError, OutputExistsError
from pystream.export.output import WrittenFile

__all__ = [
    "BadRecordError",
    "ExportResult",
    "OutputExistsError",
    "Progress",
    "WrittenFile",
    "export",
]
