"""Fuzzing of every decoder in csrc/: libFuzzer makes inputs, AddressSanitizer and UBSan judge what comes of
them.

`run` fuzzes for a while; `python -m tests.fuzz --help` does so from a terminal. What a target is for stands
at the head of its fuzz_NAME.c; corpus/NAME holds the inputs kept for it.
"""

from __future__ import annotations

from .build import TARGETS, clang
from .runner import Outcome, run

__all__ = ["TARGETS", "Outcome", "clang", "run"]
