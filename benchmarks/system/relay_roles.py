"""The raw C relay and its peers: what TCP over loopback gives a program that only moves bytes.

The loops are those of ``hermes.bench``, in C; Python connects, and reports.

relay WAIT READ_BYTES SINKS        copies one source's bytes to SINKS sinks (0: back to the source)
pingpong PORT WAIT SIZE COUNT      sends SIZE bytes and waits for all of them, COUNT times
load PORT WRITE_BYTES BYTES        writes BYTES, WRITE_BYTES per system call
sink PORT BYTES                    reads BYTES

WAIT is ``poll`` (non-blocking calls in a loop) or ``block``.  The relay prints its port; first the
sinks connect, then the source.
"""

from __future__ import annotations

import socket
import sys

from benchmarks.system.harness import report, role_body
from hermes.bench.raw import Patience, Stream

IDLE_S = 600.0
"""Who starts these ends them; nobody gives up on his own."""
SPIN_NS = {"poll": -1, "block": 0}


def connected(port: str) -> Stream:
    """A connection to the relay."""
    return Stream(socket.create_connection(("127.0.0.1", int(port))))


def relay(wait: str, read_bytes: str, sinks: str) -> None:
    """Until the source ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    ends = [Stream(listener.accept()[0]) for _ in range(int(sinks) + 1)]
    source = ends.pop()
    source.relay(ends or [source], Patience(SPIN_NS[wait], IDLE_S), int(read_bytes))


def pingpong(port: str, wait: str, size: str, count: str) -> None:
    """A tenth more first, to warm up."""
    end, patience = connected(port), Patience(SPIN_NS[wait], IDLE_S)
    with role_body():
        end.pingpong(int(size), int(count) // 10, patience)
        tally = end.pingpong(int(size), int(count), patience)
    report(round_trips_ns=tally.latencies.tolist())


def load(port: str, write_bytes: str, size: str) -> None:
    """As fast as it goes; stays until the relay has passed everything on."""
    end = connected(port)
    with role_body():
        start_ns = end.load(1, int(size), Patience(0, IDLE_S), int(write_bytes))
    end.socket.shutdown(socket.SHUT_WR)
    report(start_ns=start_ns)
    end.socket.setblocking(True)
    end.socket.recv(1)


def sink(port: str, size: str) -> None:
    """Until everything is there."""
    end = connected(port)
    with role_body():
        tally = end.drain(1, int(size), Patience(0, IDLE_S))
    report(end_ns=tally.last_ns)


ROLES = {"relay": relay, "pingpong": pingpong, "load": load, "sink": sink}

if __name__ == "__main__":
    ROLES[sys.argv[1]](*sys.argv[2:])
