"""Selectors: whatever waits, the same descriptors are ready; and over epoll at epoll's own price."""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.base.selector import (
    BROKEN,
    READABLE,
    WRITABLE,
    descriptor_of,
    ready_of,
    rewatch,
    unwatch,
)
from tests.selecting import PLAIN, DescribedSelector

PAIRS = 4
BUFFER = 4096
"""Bytes that a socket is asked to hold: it is full soon."""
DEADLINE_S = 60.0
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
ALL = [selectors.DefaultSelector, *PLAIN]

Step = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["watch", "unwatch", "reopen", "send", "take", "fill", "drain"]),
        st.integers(0, PAIRS - 1),
        st.integers(0, READ | WRITE),
    ),
    max_size=40,
)


class World:
    """Pairs of sockets of which our ends are watched, by the selector under test and by select(2)."""

    def __init__(self, kind: type[selectors.BaseSelector]) -> None:
        self.selector = kind()
        self.ready = ready_of(self.selector)
        self.pairs = [self.pair() for _ in range(PAIRS)]
        self.watched: dict[int, int] = {}

    def pair(self) -> tuple[socket.socket, socket.socket]:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        return ours, theirs

    def step(self, what: str, at: int, wanted: int) -> None:
        ours, theirs = self.pairs[at]
        fd = ours.fileno()
        if what == "watch":
            before = self.watched.get(fd)
            if before is not None:
                rewatch(self.selector, fd, before, wanted)
                self.watched[fd] = wanted
            elif wanted:
                self.selector.register(fd, wanted)
                self.watched[fd] = wanted
        elif what in ("unwatch", "reopen"):
            unwatch(self.selector, fd)
            self.watched.pop(fd, None)
            if what == "reopen":  # the number may be given again
                ours.close()
                theirs.close()
                self.pairs[at] = self.pair()
        elif what == "send":
            theirs.send(b"x")
        elif what == "fill":
            with contextlib.suppress(BlockingIOError):
                while True:
                    ours.send(bytes(BUFFER))
        else:
            with contextlib.suppress(BlockingIOError):
                while True:
                    (ours if what == "take" else theirs).recv(1 << 16)

    def expected(self) -> dict[int, int]:
        """Return what select(2) says of all that is watched."""
        with selectors.SelectSelector() as judge:
            for fd, wanted in self.watched.items():
                if wanted:
                    judge.register(fd, wanted)
            found = {key.fd: events for key, events in judge.select(0)}
        return {
            fd: (READABLE if events & READ else 0) | (WRITABLE if events & WRITE else 0)
            for fd, events in found.items()
        }

    def found(self) -> dict[int, int]:
        """Return what the selector says, which may tell of reading and of writing one after the other."""
        found: dict[int, int] = {}
        for fd, bits in self.ready(0):
            assert not bits & found.get(fd, 0), "one thing is told once"
            found[fd] = found.get(fd, 0) | bits
        return found

    def close(self) -> None:
        self.selector.close()
        for pair in self.pairs:
            for sock in pair:
                sock.close()


@pytest.mark.parametrize("kind", ALL)
@given(steps=STEPS)
def test_every_selector_finds_what_select_finds(
    kind: type[selectors.BaseSelector], steps: list[Step]
) -> None:
    """After any registrations, changes of mind and closed sockets, what is ready is what select(2)
    says, with nothing missing, stale or told twice."""
    with closing(World(kind)) as world:
        for step in steps:
            world.step(*step)

            assert world.found() == world.expected()


def test_epoll_is_asked_itself() -> None:
    """Where the selector is epoll's, its wait is epoll's own method, with no Python around it."""
    with selectors.EpollSelector() as selector:
        wait = ready_of(selector)

        assert isinstance(getattr(wait, "__self__", None), select.epoll)
        assert getattr(wait, "__self__").fileno() == selector.fileno()  # noqa: B009


def test_without_its_epoll_a_selector_still_waits() -> None:
    """Should a future standard library hide the epoll object, events come by the public method."""
    reader, writer = os.pipe()
    with selectors.EpollSelector() as selector:
        selector.register(reader, READ)
        hidden = vars(selector).pop("_selector")
        try:
            selector.select = lambda timeout=None: [(selector.get_key(reader), READ)]  # type: ignore[method-assign]

            assert ready_of(selector)(0) == [(reader, READABLE)]
        finally:
            vars(selector)["_selector"] = hidden
    os.close(reader)
    os.close(writer)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected sockets."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize("kind", ALL)
def test_a_resting_descriptor_wakes_nobody_but_by_its_end(
    kind: type[selectors.BaseSelector], pair: tuple[socket.socket, socket.socket]
) -> None:
    """A descriptor that is watched for nothing is not reported, whatever it could do; over epoll it is
    once its peer has gone, and elsewhere once it is watched again."""
    ours, theirs = pair
    fd = ours.fileno()
    with kind() as selector:
        wait = ready_of(selector)
        selector.register(fd, READ)
        rewatch(selector, fd, READ, 0)
        theirs.send(b"x")

        assert wait(0) == []
        theirs.close()
        if isinstance(selector, selectors.EpollSelector):
            assert [bits & BROKEN != 0 for _, bits in wait(0)] == [True]
        else:
            assert wait(0) == []
        rewatch(selector, fd, 0, READ)
        assert [at for at, _ in wait(0)] == [fd]
        unwatch(selector, fd)
        unwatch(selector, fd)
        assert wait(0) == []


@pytest.mark.parametrize("kind", ALL)
def test_a_selector_with_a_descriptor_can_be_waited_for(
    kind: type[selectors.BaseSelector], pair: tuple[socket.socket, socket.socket]
) -> None:
    """The descriptor of a selector is readable while one that it watches is ready; a selector of
    poll(2) or select(2) has none."""
    ours, theirs = pair
    with kind() as selector:
        descriptor = descriptor_of(selector)
        if kind in (selectors.PollSelector, selectors.SelectSelector):
            assert descriptor == -1
            return
        selector.register(ours.fileno(), READ)
        with selectors.PollSelector() as outer:
            outer.register(descriptor, READ)

            assert not outer.select(0)
            theirs.send(b"x")
            assert outer.select(DEADLINE_S)
            ours.recv(1)
            assert not outer.select(0)


@pytest.mark.parametrize("kind", ALL)
def test_a_wait_ends_in_time_and_at_once(
    kind: type[selectors.BaseSelector], pair: tuple[socket.socket, socket.socket]
) -> None:
    """A wait of a moment returns nothing, and one without an end returns what is ready."""
    ours, theirs = pair
    with kind() as selector:
        selector.register(ours.fileno(), READ)
        wait = ready_of(selector)

        assert wait(0.01) == []
        theirs.send(b"x")
        assert wait(-1) == [(ours.fileno(), READABLE)]
        assert wait(DEADLINE_S, 1) == [(ours.fileno(), READABLE)]


def test_the_played_selector_is_strict() -> None:
    """The selector that plays kqueue's is not epoll's, and refuses a watch for nothing."""
    reader, writer = os.pipe()
    with DescribedSelector() as selector:
        assert not isinstance(selector, selectors.EpollSelector)
        selector.register(reader, READ)
        with pytest.raises(ValueError, match="events"):
            selector.modify(reader, 0)
    os.close(reader)
    os.close(writer)
