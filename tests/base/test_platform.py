"""Calls that not every system has: Hermes does the same where the system has them and where not."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hermes.base import platform
from hermes.base.platform import EventDescriptor

ROOT = Path(__file__).parents[2]
LINUX = re.compile(
    r"\bos\.(eventfd|EFD_|sched_|memfd_create|O_DIRECT\b)|\bselect\.epoll|\.prctl\("
    r"|\bsocket\.TCP_(INFO|USER_TIMEOUT|KEEPIDLE)|F_SETPIPE_SZ|TIOCOUTQ|[\"(]/(proc|sys)/"
)
"""Names and files that not every system has."""
EXCEPTIONS = (
    "hermes/base/platform.py",
    "hermes/cli/files.py",  # a comparison of names
    "hermes/bench/",  # these three measure a machine that runs Linux
    "hermes/tuning/",
    "hermes/testing/resources.py",
    "transports/hermes_udp/",  # and these are made of Linux's calls
    "transports/hermes_uring/",
)


def test_one_file_knows_linux() -> None:
    """No module but the platform's makes a call that not every system has, the exceptions apart."""
    found = [
        f"{name}: {match[0]}"
        for place in ("hermes", "transports", "plugins")
        for path in sorted((ROOT / place).rglob("*.py"))
        if not (name := path.relative_to(ROOT).as_posix()).startswith(EXCEPTIONS)
        for match in LINUX.finditer(path.read_text())
    ]

    assert found == []


@pytest.fixture(params=["eventfd", "pipe"])
def event(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[EventDescriptor]:
    """An event, over each thing that can be one."""
    if request.param == "pipe":
        monkeypatch.delattr(os, "eventfd")
    with closing(EventDescriptor()) as made:
        yield made


def readable(descriptor: int) -> bool:
    """Whether a descriptor can be read."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(0))


def test_an_event_is_readable_from_set_to_clear(event: EventDescriptor) -> None:
    """An event is readable once it was set, as often as it was, and no more once it is cleared; clearing
    one that is not set does nothing."""
    assert not readable(event.fileno())
    event.clear()

    for _ in range(1000):
        event.set()
    assert readable(event.fileno())
    event.clear()
    assert not readable(event.fileno())
    event.set()
    assert readable(event.fileno())


def test_setting_a_full_event_does_not_wait(event: EventDescriptor) -> None:
    """An event that holds as much as it can is set again without waiting, and cleared by one call."""
    with_room = 1 << 14  # 128 KiB of a pipe, which holds 64
    for _ in range(with_room):
        event.set()

    assert readable(event.fileno())
    event.clear()
    assert not readable(event.fileno())


def test_another_thread_sets_an_event(event: EventDescriptor) -> None:
    """A thread that waits for an event is woken by another one."""
    poller = select.poll()
    poller.register(event.fileno(), select.POLLIN)
    setting = threading.Thread(target=event.set)
    setting.start()

    assert poller.poll(60_000)
    setting.join()


def test_an_event_closes_all_it_has_once(event: EventDescriptor) -> None:
    """Closing gives every descriptor back, and closing again none that is another's by then."""
    had = set(event.descriptors())
    assert had <= platform.open_descriptors()
    assert not any(os.get_inheritable(descriptor) for descriptor in had)

    event.close()
    assert not had & platform.open_descriptors()
    again = os.open(os.devnull, os.O_RDONLY)
    event.close()
    os.fstat(again)
    os.close(again)
    assert event.fileno() == -1


def test_a_descriptor_is_named_by_its_file() -> None:
    """A descriptor is called by what it was opened as, and by its number when it is closed."""
    descriptor = os.open(os.devnull, os.O_RDONLY)
    assert platform.opened_as(descriptor) == os.devnull
    os.close(descriptor)

    assert platform.opened_as(descriptor) == f"descriptor {descriptor}"


def test_open_descriptors_are_all_there() -> None:
    """A descriptor is listed while it is open, and what the listing itself opens is not."""
    reader, writer = os.pipe()
    found = platform.open_descriptors()

    assert {reader, writer} <= found
    os.close(reader)
    os.close(writer)
    assert found - platform.open_descriptors() == {reader, writer}


def test_cores_can_be_chosen() -> None:
    """A thread that is pinned to a core may use that one alone."""
    before = platform.usable_cores()
    assert before == sorted(os.sched_getaffinity(0))
    platform.pin(0, before[-1:])
    try:
        assert platform.usable_cores() == before[-1:]
    finally:
        platform.pin(0, before)


def test_without_affinities_all_cores_are_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where threads cannot be pinned, all cores count, and pinning does nothing."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.delattr(os, "sched_setaffinity")

    platform.pin(0, [0])
    assert platform.usable_cores() == list(range(os.cpu_count() or 1))


def test_a_pipe_is_widened_and_nothing_else_is() -> None:
    """A pipe takes the size that it is given; a file is left as it is."""
    reader, writer = os.pipe()
    platform.widen_pipe(reader, 1 << 17)
    assert fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ) == 1 << 17
    os.close(reader)
    os.close(writer)

    with open(os.devnull) as file:  # noqa: PTH123
        platform.widen_pipe(file.fileno(), 1 << 17)


@pytest.fixture
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    with ours, theirs:
        yield ours, theirs


def test_the_state_of_a_connection(connected: tuple[socket.socket, socket.socket]) -> None:
    """Bytes that the peer's machine has acknowledged are counted, those it has no room for are held."""
    ours, theirs = connected
    ours.sendall(b"hello")
    theirs.recv(5)
    state = platform.tcp_state(ours)
    assert state is not None
    assert state.bytes_acknowledged >= 5
    assert (state.retransmits, state.probes) == (0, 0)
    assert platform.unsent_bytes(ours) == 0

    ours.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            ours.send(bytes(1 << 20))
    assert platform.unsent_bytes(ours) > 0


def test_other_systems_tell_nothing_of_connections(
    connected: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the kernel has no such figures, a connection's state is not known, and none is made up."""
    monkeypatch.setattr(platform, "LINUX", False)

    assert platform.tcp_state(connected[0]) is None
    assert platform.unsent_bytes(connected[0]) == 0


def test_a_closed_socket_has_no_state() -> None:
    """The state of what is no connection any more is not known."""
    sock = socket.socket()
    sock.close()

    assert platform.tcp_state(sock) is None


def test_keepalive_is_set(connected: tuple[socket.socket, socket.socket]) -> None:
    """A connection is probed as often as it is told to be, and given up after as long."""
    ours, _ = connected
    platform.keep_alive(ours, idle_s=7, interval_s=3, probes=2)
    platform.bound_silence(ours, bound_ms=5000)
    platform.bound_resending(ours, pause_ms=2000)

    options = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
    found = [ours.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in options]
    assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert found == [7, 3, 2, 5000]


def test_locks_are_listed(tmp_path: object) -> None:
    """A file that this process has locked is in the kernel's list, with the process."""
    path = os.path.join(str(tmp_path), "locked")  # noqa: PTH118
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    status = os.fstat(descriptor)
    name = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    found = list(platform.file_locks())
    os.close(descriptor)

    if not found:
        pytest.skip("this kernel lists no locks")
    assert ("FLOCK", str(os.getpid()), name) in found


@pytest.mark.parametrize(
    ("limits", "kinds", "expected"),
    [
        ({}, "", 8 << 30),
        ({"a/b/memory.max": "max", "a/memory.max": "268435456"}, "", 256 << 20),
        ({"a/b/memory.max": "1073741824", "memory.max": "max"}, "", 1 << 30),
        ({"a/memory.max": "99999999999999"}, "", 8 << 30),
        ({"memory/a/b/memory.limit_in_bytes": "536870912"}, "memory", 512 << 20),
    ],
)
def test_memory_is_what_the_control_groups_leave(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    limits: dict[str, str],
    kinds: str,
    expected: int,
) -> None:
    """The smallest limit of a group around this process counts, if it is less than the machine has."""
    (tmp_path / "meminfo").write_text("MemTotal:        8388608 kB\nMemFree: 1 kB\n")
    (tmp_path / "cgroup").write_text(f"3:cpu:/elsewhere\n0:{kinds}:/a/b\n")
    for name, text in limits.items():
        place = tmp_path / "groups" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text + "\n")
    monkeypatch.setattr(platform, "MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(platform, "GROUP", tmp_path / "cgroup")
    monkeypatch.setattr(platform, "GROUPS", tmp_path / "groups")

    assert platform.usable_memory() == expected


def test_memory_that_the_system_does_not_tell_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A system without such files has no figure, and no error."""
    monkeypatch.setattr(platform, "MEMORY", tmp_path / "no such file")

    assert platform.usable_memory() == 0
