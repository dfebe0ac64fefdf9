"""The parts of `pystream.verification`: what a look at a partition gives, and what is to be said of it."""
