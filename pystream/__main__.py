"""`pystream` and `python -m pystream`: the command line, which needs the extra [cli]."""

import os
import sys
from importlib.util import find_spec


def main() -> None:
    """Run the command line. Exit codes: `pystream.cli`."""
    _fill_standard_streams()
    missing = [name for name in ("click", "rich") if find_spec(name) is None]
    if missing:
        print(
            f"pystream: the command line needs {' and '.join(missing)}. Install the extra: "
            "pip install 'pystream-log[cli]'",
            file=sys.stderr,
        )
        sys.exit(2)
    try:
        from pystream.cli import run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


def _fill_standard_streams() -> None:
    """Put something in the place of each standard stream that the caller has closed.

    Else the next file opened, a segment perhaps, would bear its number, and output would be written into
    it. What stands in for the input cannot be read, and what stands in for the output cannot be written,
    so that a command fails which needs them; what is said on stderr is lost, as the caller wished.
    """
    for number, name, flags, mode in (
        (0, "stdin", os.O_WRONLY, "r"),
        (1, "stdout", os.O_RDONLY, "w"),
        (2, "stderr", os.O_WRONLY, "w"),
    ):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115


if __name__ == "__main__":
    main()
