"""Behaviour that ``inproc://`` adds to the shared stream-socket code: names within one process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from hermes.errors import AddressInUse, ConnectFailed, InvalidUrl
from hermes.plugins.discovery import default_plugins
from hermes.spi.url import parse_url

Drive = Callable[[Any, Callable[[], object]], None]


def listen(url: str, kernel: Any) -> Any:
    """An agent at ``url``."""
    return default_plugins().transport("inproc").listen(parse_url(url), kernel)


def dial(url: str) -> Any:
    """A client of ``url``."""
    return default_plugins().transport("inproc").dial(parse_url(url), 5_000_000_000)


def test_name_in_use_is_refused_until_it_is_given_back(kernel: Any) -> None:
    """A name has one listener at a time."""
    with (
        closing(listen("inproc://orders", kernel)),
        pytest.raises(AddressInUse, match="choose another"),
    ):
        listen("inproc://orders", kernel)

    listen("inproc://orders", kernel).close()


def test_a_number_is_a_name_like_any_other(kernel: Any) -> None:
    """A number that is asked for is taken or refused; one of our choice is free."""
    with closing(listen("inproc:", kernel)) as chosen:
        with pytest.raises(AddressInUse):
            listen(chosen.url, kernel)
        following = int(parse_url(chosen.url).host) + 1
        with (
            closing(listen(f"inproc://{following}", kernel)) as asked,
            closing(listen("inproc:", kernel)) as another,
        ):
            assert len({chosen.url, asked.url, another.url}) == 3


def test_unknown_name_lists_those_in_use(kernel: Any) -> None:
    """Dialling a name nobody has says which there are."""
    with (
        closing(listen("inproc://orders", kernel)),
        pytest.raises(ConnectFailed, match=r"in use: .*orders"),
    ):
        dial("inproc://order")


def test_name_is_case_sensitive_and_has_no_port(kernel: Any) -> None:
    """Names are taken as written; a port has no meaning."""
    with closing(listen("inproc://Orders", kernel)) as agent:
        assert agent.url == "inproc://Orders"
    with pytest.raises(InvalidUrl, match="without port"):
        listen("inproc://orders:1", kernel)


def test_the_peer_is_named_by_its_process(kernel: Any, drive: Drive) -> None:
    """Its address is the process it runs in: ours."""
    with closing(listen("inproc:", kernel)) as agent, closing(dial(agent.url)):
        drive(agent, lambda: kernel.connections)

        assert kernel.connections[0].peer.address == f"pid {os.getpid()}"


def test_dialling_from_many_threads(kernel: Any, drive: Drive) -> None:
    """Connections made by several threads at once are all accepted."""
    channels: list[Any] = []
    with closing(listen("inproc:", kernel)) as agent:
        threads = [
            threading.Thread(target=lambda: channels.extend(dial(agent.url) for _ in range(50)))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        drive(agent, lambda: len(kernel.connections) == 200)
        for thread in threads:
            thread.join()
        for channel in channels:
            channel.close()


def test_who_waits_when_the_listener_closes_is_told(kernel: Any) -> None:
    """A peer that was never accepted sees the end of input."""
    agent = listen("inproc:", kernel)
    with closing(dial(agent.url)) as channel:
        agent.close()

        assert channel.wait(readable=True, writable=False, timeout_ns=5_000_000_000)
        assert channel.receive_into(memoryview(bytearray(1))) == 0
