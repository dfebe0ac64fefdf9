"""Processes that write, read, die, stop and fork at one store, and a check of all that they saw.

    python -m tests.stress --seconds 60 --seed 7

`conductor` starts the processes of `actors` and `members`, kills, stops and resumes them by a seeded plan,
and has each write down what it did (`history`). Afterwards `checker` and `groups` compare those histories
with one another and with the log itself, in linear time, and name what is wrong as Jepsen does for Kafka.
`mutations` breaks the library on purpose, one promise at a time, to show that the check can fail.
"""
