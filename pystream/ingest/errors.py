"""What goes wrong with sources, rows and jobs."""

from __future__ import annotations

import re
from typing import NamedTuple

from pystream.errors import OptionError, PystreamError

TEXT_SHOWN_MAX = 120


class BadRow(NamedTuple):
    """A row that cannot become a record."""

    source: str
    """The source as it was named."""
    number: int
    """Of its first line (`unit` "line"), or of the row (`unit` "row"), from 1."""
    unit: str
    """"line" for CSV and JSON lines, "row" for Parquet and Arrow."""
    reason: str
    """What is wrong with it."""
    text: bytes
    """The row as it stands in the source, b"" where it is not text."""

    def __str__(self) -> str:
        where = f"{self.source}:{self.number}" if self.unit == "line" else f"{self.source}: row {self.number}"
        if not self.text:
            return f"{where}: {self.reason}"
        start = self.text[: 4 * TEXT_SHOWN_MAX]
        try:
            shown = start.decode()
        except UnicodeDecodeError as error:  # of a character that was cut in two, nothing need be said
            is_cut = error.end == len(start) < len(self.text) and error.reason == "unexpected end of data"
            shown = start[: error.start].decode() if is_cut else start.decode("utf-8", "surrogateescape")
        rest = "..." if len(shown) > TEXT_SHOWN_MAX else ""
        # Bytes that are no UTF-8 have one backslash, as in a bytes literal.
        text = re.sub(r"\\udc([89a-f][0-9a-f])", r"\\x\1", repr(shown[:TEXT_SHOWN_MAX] + rest))
        return f"{where}: {self.reason}: {text}"


class IngestError(PystreamError, RuntimeError):
    """Rows could not be taken in."""


class SourceError(IngestError):
    """A source cannot be read as what it should be, or is not what it was when the job began."""


class BadRowError(IngestError, ValueError):
    """A row cannot become a record, and bad rows are to stop the job. `row` says which and why."""

    def __init__(self, row: BadRow) -> None:
        super().__init__(str(row))
        self.row = row


class JobExistsError(OptionError):
    """These sources are, or were, taken into this topic already; say whether to go on or to begin anew."""


class JobBusyError(IngestError):
    """Another process is at the same job."""
