"""`pystream` and `python -m pystream`: the command line, which needs the extra [cli]."""

import sys
from importlib.util import find_spec


def main() -> None:
    """Run the command line. Exit codes: `pystream.cli`."""
    missing = [name for name in ("click", "rich") if find_spec(name) is None]
    if missing:
        print(
            f"pystream: the command line needs {' and '.join(missing)}. Install the extra: "
            "pip install 'pystream-log[cli]'",
            file=sys.stderr,
        )
        sys.exit(2)
    from pystream.cli import run

    run()


if __name__ == "__main__":
    main()
