"""A Python client of the raw C relay: what Python alone adds to a round trip, without any broker.

pingpong PORT WAIT COUNT SIZE      WAIT: ``poll`` or ``block``
"""

from __future__ import annotations

import socket
import sys
import time

from benchmarks.system.harness import report, role_body


def pingpong(port: int, wait: str, count: int, size: int) -> None:
    """Send ``size`` bytes and receive them again, ``count`` times."""
    payload = bytes(size)
    buffer = bytearray(size)
    took = []
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(wait == "block")
        with role_body():
            for _ in range(count // 10 + count):
                start = time.perf_counter_ns()
                connection.send(payload)
                got = 0
                while got < size:
                    try:
                        got += connection.recv_into(buffer)
                    except BlockingIOError:
                        continue
                took.append(time.perf_counter_ns() - start)
    report(round_trips_ns=took[-count:])


if __name__ == "__main__":
    pingpong(int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
