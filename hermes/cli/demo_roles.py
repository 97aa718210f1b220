"""The two client processes of ``hermes demo``: ``subscriber`` and ``injector``.  Each reports in
JSON lines on stdout.

Both are ordinary users of the client: one ``send`` per message, one Message object per delivery.
"""

from __future__ import annotations

import gc
import json
import struct
import sys
import time
from array import array
from pathlib import Path
from typing import Any

TOPIC = "demo.battle"
STAMP = struct.Struct("<qq")
"""What a payload begins with: due time (CLOCK_MONOTONIC, ns) and number."""
LEAD_NS = 300_000_000
"""Between the injector's report and its first message: everybody is waiting by then."""
REPORT_NS = 200_000_000
SPIN_NS = 150_000
"""Sleep no closer to the due time than this: what a sleep may overshoot on a virtual machine."""
IDLE_S = 15.0
"""The subscriber gives up after so long without a message."""


def report(**what: Any) -> None:
    """One line for the parent."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def inject(url: str, messages: int, rate: float, size: int) -> None:
    """Send on schedule; a message that is late goes out at once and keeps its due time."""
    import hermes

    clock = time.monotonic_ns
    filler = bytes(size - STAMP.size)
    interval = 1e9 / rate
    with hermes.connect(url) as client:
        publisher = client.publisher(TOPIC)
        start_ns = clock() + LEAD_NS
        report(start_ns=start_ns)
        gc.disable()  # a pause of ours would be charged to the broker
        for number in range(messages):
            due_ns = start_ns + int(number * interval)
            ahead_ns = due_ns - clock()
            if ahead_ns > SPIN_NS:
                time.sleep((ahead_ns - SPIN_NS) / 1e9)
            while clock() < due_ns:
                pass
            publisher.send(STAMP.pack(due_ns, number) + filler)
        publisher.flush()
        publisher.close()
    report(sent=messages)


def subscribe(url: str, messages: int, latencies_path: Path) -> None:
    """Receive, one message object at a time, until all are there."""
    import hermes
    from hermes.errors import Timeout

    clock = time.monotonic_ns
    unpack = STAMP.unpack_from
    latencies = array("q", bytes(8 * messages))
    seen = bytearray(messages)
    delivered = duplicates = disordered = 0
    expected = 0
    now_ns = 0
    with hermes.connect(url) as client:
        subscription = client.subscribe(TOPIC, start="latest")
        report(ready=True)
        gc.disable()
        next_ns = clock() + REPORT_NS
        try:
            for message in subscription.messages(timeout=IDLE_S):
                now_ns = clock()
                due_ns, number = unpack(message.payload)
                if seen[number]:
                    duplicates += 1
                    continue
                seen[number] = 1
                latencies[delivered] = now_ns - due_ns
                delivered += 1
                disordered += number < expected
                expected = number + 1
                if delivered == messages:
                    break
                if now_ns > next_ns:
                    report(delivered=delivered)
                    next_ns = now_ns + REPORT_NS
        except Timeout:
            pass  # what is missing shows in the numbers
    latencies_path.write_bytes(latencies[:delivered].tobytes())
    report(
        done=True, delivered=delivered, duplicates=duplicates, disordered=disordered, last_ns=now_ns
    )


def main(arguments: list[str]) -> None:
    """Play the role that the first argument names."""
    role, url, messages = arguments[0], arguments[1], int(arguments[2])
    if role == "injector":
        inject(url, messages, float(arguments[3]), int(arguments[4]))
    else:
        subscribe(url, messages, Path(arguments[3]))


if __name__ == "__main__":
    main(sys.argv[1:])
