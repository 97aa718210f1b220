"""Base of the transport kit's groups, beside that of all kits: the stage."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from types import MappingProxyType
from typing import ClassVar

import pytest

from hermes.spi.transport import Transport
from hermes.spi.url import Url, parse_url
from hermes.testing.contract import BaseContract
from hermes.testing.kernel import EchoKernel
from hermes.testing.transport.stage import Stage, with_options


class Contract(BaseContract[Transport]):
    """Base of every group; see :mod:`hermes.testing.transport` for the attributes."""

    kit = "transport"
    url: ClassVar[str]
    """A listener's URL that is free each time: with port 0, or with ``{tmp}`` for a new
    directory."""
    client_options: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Options that a client's URL needs besides the listener's address."""
    loss_deadline_s: ClassVar[float] = 60.0
    """How long it may take to notice that a peer was killed."""

    # What tests are given.

    @pytest.fixture
    def transport(self) -> Transport:
        """The transport that is tested."""
        return self.make()

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
        """The kernel that takes the broker's place."""
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
