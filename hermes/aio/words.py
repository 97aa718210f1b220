"""The words of the synchronous client, for the calls that mean the same here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Kind = TypeVar("Kind", bound=type)


def same_words(other: type) -> Callable[[Kind], Kind]:
    """Give the methods of a class that have no docstring those of ``other``'s methods of their name."""

    def apply(kind: Kind) -> Kind:
        for name, member in vars(kind).items():
            twin = getattr(other, name, None)
            if callable(member) and not member.__doc__ and twin is not None:
                member.__doc__ = twin.__doc__
        return kind

    return apply
