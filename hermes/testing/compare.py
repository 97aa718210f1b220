"""Comparison of much data, for assertions of the kits."""

from __future__ import annotations


def same(found: object, expected: object) -> bool:
    """Whether both are equal.

    An assertion of ``found == expected`` has pytest show where they differ.  For a hundred kilobytes
    that takes it minutes, where the environment has the variable ``CI``.
    """
    return found == expected
