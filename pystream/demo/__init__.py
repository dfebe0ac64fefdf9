"""The demonstration: every flight that left New York in 2013, through a log and accounted for.

`flights` reads the data set for the log; `counting` reads it again by other code, as the measure of
what comes out; `run` does the work; `report` and `plot` show it.
"""


class DemoError(Exception):
    """The demonstration cannot start: the message says why and what to do."""
