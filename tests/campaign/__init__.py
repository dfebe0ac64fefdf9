"""Campaigns: the tests of what is promised to last, run for as long as one likes, and a ledger of it all.

    python -m tests.campaign power --time 1h
    python -m tests.campaign all --time 8h
    python -m tests.campaign --table

Each run goes on at the seed behind the highest one of its test in `ledger.jsonl`, which is kept in the
repository, and adds a line to it: counts of many runs add up. `docs/durability.md` shows the table that is
made of the ledger. `kinds` lists the tests, `runs` runs them, `ledger` and `table` keep count.
"""
