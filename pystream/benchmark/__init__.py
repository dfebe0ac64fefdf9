"""Measuring a machine and a disk with pystream: what `pystream bench` runs (the extra [bench]).

Every run makes a scratch store in a directory, does its work in processes of its own, and removes the store.
The clock is the same in all of them, Linux's CLOCK_MONOTONIC.
"""


class BenchmarkError(Exception):
    """A run that cannot start, or that cannot be believed: why, and what to do."""
