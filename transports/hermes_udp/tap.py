"""A detour of a socket's datagrams for when faults are wanted: through an interceptor.

The engine writes them into one end of a socket pair, each behind its address, and knows no
difference; what the interceptor lets through goes to the real socket.  Knows nothing of what the
datagrams mean.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from typing import Any

from hermes.base.rlimits import start_thread
from hermes.net.interception import Interception, Interceptor
from hermes_udp.native import lib

PREFIX: int = lib.HU_TAP_PREFIX
LARGEST = PREFIX + lib.HU_DATAGRAM_MAX
NS_PER_MS = 1_000_000


class Tap:
    """One socket's way out."""

    def __init__(self, sock: socket.socket, spec: Interception, *, seed_salt: int) -> None:
        self._sock = sock
        self._interceptor = Interceptor(spec, seed_salt=seed_salt)
        # Its packets are bounded by bytes, unlike a datagram pair's, and keep their borders.
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        self._theirs.setblocking(False)
        self.counters = self._interceptor.counters
        self.deadline_ns = self._interceptor.deadline_ns

    @property
    def fd(self) -> int:
        """Descriptor that the engine writes to."""
        return self._theirs.fileno()

    def fileno(self) -> int:
        """Readable when it has."""
        return self._ours.fileno()

    def pump(self) -> None:
        """Take what was written, and hand on what is due."""
        interceptor = self._interceptor
        now = time.monotonic_ns()
        with contextlib.suppress(BlockingIOError):
            while True:
                packet = self._ours.recv(LARGEST)
                if not packet:
                    break
                interceptor.admit(packet[PREFIX:], address_of(packet), now)
        for datagram, address in interceptor.take(now):
            with contextlib.suppress(OSError):  # as good as lost
                if address is None:
                    self._sock.send(datagram)
                else:
                    self._sock.sendto(datagram, address)

    def close(self) -> None:
        """Close; what is under way is lost.  The real socket is its owner's to close."""
        self._ours.close()
        self._theirs.close()


class TapThread:
    """Pumps a client's tap, whose engine also writes while Python does something else."""

    def __init__(self, tap: Tap) -> None:
        self._tap = tap
        try:
            self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError:
            tap.close()
            raise
        self._thread = threading.Thread(target=self._run, name="hermes-udp-tap", daemon=True)
        start_thread(self._thread)

    @property
    def fd(self) -> int:
        """Descriptor that the engine writes to."""
        return self._tap.fd

    def _run(self) -> None:
        poller = select.poll()
        poller.register(self._wake_fd, select.POLLIN)
        poller.register(self._tap.fileno(), select.POLLIN)
        while not any(fd == self._wake_fd for fd, _ in poller.poll(self._wait_ms())):
            self._tap.pump()

    def _wait_ms(self) -> float | None:
        due = self._tap.deadline_ns()
        return None if due is None else max(0, due - time.monotonic_ns()) / NS_PER_MS

    def close(self) -> None:
        """Stop."""
        os.eventfd_write(self._wake_fd, 1)
        self._thread.join()
        os.close(self._wake_fd)
        self._tap.close()


def address_of(packet: bytes) -> Any:
    """The address before a datagram, as a socket wants it; None: it is for the connected peer."""
    (family,) = struct.unpack_from("=H", packet)
    (port,) = struct.unpack_from("!H", packet, 2)
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, packet[4:8]), port
    if family == socket.AF_INET6:
        return socket.inet_ntop(socket.AF_INET6, packet[4:20]), port
    return None
