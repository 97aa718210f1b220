"""What the groups of the transport kit share: the subject, its stage, and the skips.

A test that needs a capability says so with :func:`needs`; it is skipped where the transport does
not claim it, and the reason names it.  Nothing else is ever skipped.
"""

from __future__ import annotations

import inspect
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import pytest

from hermes import plugins
from hermes.testing.kernel import EchoKernel
from hermes.testing.transport.stage import Stage, with_options
from hermes.transport import Transport
from hermes.url import Url, parse_url

Function = TypeVar("Function", bound=Callable[..., Any])


def needs(*capabilities: str) -> Callable[[Function], Function]:
    """Skip the test for a transport that does not claim every one of ``capabilities``; ``!name``:
    for one that claims it."""

    def mark(function: Function) -> Function:
        function.needs = capabilities  # type: ignore[attr-defined]
        return function

    return mark


class Contract:
    """Base of every group; see :mod:`hermes.testing.transport` for the attributes."""

    kit: ClassVar[str] = "transport"
    """Which kit this is, for the report."""
    url: ClassVar[str]
    """A listener's URL that is free each time: with port 0, or with ``{tmp}`` for a new
    directory."""
    client_options: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """What a client's URL has to say besides where the listener is."""
    factory: ClassVar[Any] = None
    """Makes the transport, if it is not an installed plugin: a class or a static method."""
    deadline_s: ClassVar[float] = 30.0
    """Bounds every wait: generous, because the machine may be busy."""
    loss_deadline_s: ClassVar[float] = 60.0
    """How long it may take to notice that a peer was killed."""
    import_max_ms: ClassVar[float] = 100.0
    """What importing the plugin may cost."""

    # Who is tested.

    @classmethod
    def subject(cls) -> dict[str, Any]:
        """Who is tested, for the report."""
        made = cls.make()
        return {
            "name": parse_url(cls.url).scheme,
            "url": cls.url,
            "capabilities": {
                name: getattr(made.capabilities, name)
                for name in made.capabilities.__dataclass_fields__
            },
        }

    @classmethod
    def make(cls) -> Transport:
        """A new transport."""
        factory = inspect.getattr_static(cls, "factory")
        if isinstance(factory, staticmethod):
            factory = factory.__func__
        if factory is None:
            return plugins.default_plugins().transport(parse_url(cls.url).scheme)
        made: Transport = factory()
        return made

    # What tests are given.

    @pytest.fixture
    def transport(self) -> Transport:
        """The transport that is tested."""
        return self.make()

    @pytest.fixture(autouse=True)
    def _claimed(self, request: pytest.FixtureRequest, transport: Transport) -> None:
        """Skip what is not claimed."""
        scheme = parse_url(self.url).scheme
        for name in getattr(request.function, "needs", ()):
            wanted, capability = not name.startswith("!"), name.removeprefix("!")
            if getattr(transport.capabilities, capability) != wanted:
                word = "does not claim" if wanted else "claims"
                pytest.skip(f"{scheme} {word} the capability {capability!r}")

    @pytest.fixture
    def free_url(self) -> Iterator[Callable[..., Url]]:
        """``free_url(option=value)``: the URL of a listener that nobody has yet."""
        with ExitStack() as undo:

            def make(**options: str) -> Url:
                text = self.url
                if "{tmp}" in text:
                    place = tempfile.mkdtemp(prefix="hermes-")
                    undo.callback(shutil.rmtree, place, ignore_errors=True)
                    text = text.replace("{tmp}", place)
                return with_options(parse_url(text), **options)

            yield make

    @pytest.fixture
    def kernel(self) -> EchoKernel:
        """What the transport meets instead of a broker."""
        return EchoKernel()

    @pytest.fixture
    def make_stage(
        self, transport: Transport, free_url: Callable[..., Url], kernel: EchoKernel
    ) -> Iterator[Callable[..., Stage]]:
        """``make_stage(option=value)``: a listener and its clients.  Afterwards everybody is
        closed, and the contract must have been kept."""
        with ExitStack() as undo:

            def make(**options: str) -> Stage:
                stage = Stage(
                    transport, free_url(**options), kernel, self.deadline_s, self.client_options
                )
                undo.callback(stage.check)
                undo.callback(check_told, stage)
                undo.callback(stage.close)
                return stage

            yield make

    @pytest.fixture
    def stage(self, make_stage: Callable[..., Stage]) -> Stage:
        """A listener without options."""
        return make_stage()


def check_told(stage: Stage) -> None:
    """Fail unless every connection of the closed agent has been told."""
    untold = [
        connection.peer.address
        for connection in stage.kernel.connections
        if connection.owner is stage.agent and not connection.lost
    ]
    assert not untold, (
        f"Agent.close: the agent was closed, and connection_lost() was not called for {untold}; it "
        "closes every connection, and each is told once"
    )
