"""Keeping a store in order: retention, compaction, and what dead processes have left.

`Store.maintain` does all that is due, now (`passes`). In a process that writes, a thread does it every now
and then (`maintainer`, `shift`). Which segments go is for the native floor to decide, under a partition's
locks: what is here finds out, cheaply, where to ask it (`places`, `rules`), and shares the time out
(`caretaker`, `jobs`). Importing the package brings none of that: a process that is gone in a moment does
without.
"""
