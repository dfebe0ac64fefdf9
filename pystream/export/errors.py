"""What an export raises beside the errors of the library."""

from pystream.errors import PystreamError


class BadRecordError(PystreamError, ValueError):
    """A key or a value is not what the export was told it is; carries topic, partition and offset."""


class OutputExistsError(PystreamError, FileExistsError):
    """There is something at the output already, and it was not to be replaced."""
