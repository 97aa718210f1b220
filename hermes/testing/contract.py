"""Base of every kit's groups: the subject, and the skips.

A test that needs a capability says so with :func:`needs`; it is skipped where the subject does not
claim it, and the reason names it.  Else a test is skipped only where the system cannot show what it
looks for: the reason says what is missing.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Generic, TypeVar

import pytest

from hermes.plugins.discovery import default_plugins
from hermes.spi.url import parse_url

Function = TypeVar("Function", bound=Callable[..., Any])
Subject = TypeVar("Subject")
"""A Transport or a StorageBackend."""


def needs(*capabilities: str) -> Callable[[Function], Function]:
    """Skip the test for a subject that does not claim every one of ``capabilities``; ``!name``: for
    one that claims it."""

    def mark(function: Function) -> Function:
        function.needs = capabilities  # type: ignore[attr-defined]
        return function

    return mark


@contextmanager
def raises(kind: type[Exception], sentence: str, *, match: str = "") -> Iterator[None]:
    """Fail unless the block raises ``kind`` with a text that the regular expression ``match`` finds.

    ``sentence`` is what the contract says; the failure begins with it.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, kind):
            raise AssertionError(f"{sentence}; raised was {error!r}") from error
        if not re.search(match, str(error)):
            raise AssertionError(
                f"{sentence}, with {match!r} in its text; raised was {error!r}"
            ) from error
        return
    raise AssertionError(f"{sentence}; nothing was raised")


class BaseContract(Generic[Subject]):
    """Base of every group of every kit."""

    kit: ClassVar[str]
    """Which kit this is, for the report; and the kind of plugin."""
    url: ClassVar[str]
    factory: ClassVar[Any] = None
    """Makes the subject, if it is not an installed plugin: a class or a static method."""
    deadline_s: ClassVar[float] = 30.0
    """Bounds every wait: generous, because the machine may be busy."""
    import_max_ms: ClassVar[float] = 100.0
    """Milliseconds that importing the plugin may take."""

    # Who is tested.

    @classmethod
    def subject(cls) -> dict[str, Any]:
        """Description of the tested plugin, for the report."""
        capabilities = cls.claims()
        return {
            "name": parse_url(cls.url).scheme,
            "url": cls.url,
            "capabilities": {
                name: getattr(capabilities, name) for name in capabilities.__dataclass_fields__
            },
        }

    @classmethod
    def make(cls) -> Subject:
        """A new instance of the plugin."""
        factory = inspect.getattr_static(cls, "factory")
        if isinstance(factory, staticmethod):
            factory = factory.__func__
        if factory is None:
            made: Subject = getattr(default_plugins(), cls.kit)(parse_url(cls.url).scheme)
        else:
            made = factory()
        return made

    @classmethod
    def claims(cls) -> Any:
        """Its capabilities."""
        made: Any = cls.make()
        return made.capabilities

    @classmethod
    def where(cls) -> list[str]:
        """For a process of its own: the subject's file and class; empty if it is installed."""
        if cls.factory is None:
            return []
        kind = type(cls.make())
        return [inspect.getfile(kind), kind.__qualname__]

    # What is skipped.

    @pytest.fixture(autouse=True)
    def _claimed(self, request: pytest.FixtureRequest) -> None:
        """Skip what is not claimed."""
        for name in getattr(request.function, "needs", ()):
            wanted, capability = not name.startswith("!"), name.removeprefix("!")
            if getattr(self.claims(), capability) != wanted:
                word = "does not claim" if wanted else "claims"
                scheme = parse_url(self.url).scheme
                pytest.skip(f"{scheme} {word} the capability {capability!r}")
