"""The processes of ``hermes demo``: ``broker``, ``subscriber`` and ``injector``.

The broker is ``hermes serve``.  The other two are ordinary users of the client: first one ``send``
per message and one Message object per delivery, on a schedule; then a burst, batches at both ends.
They report in JSON lines on stdout, and begin the burst when their stdin says so.
"""

from __future__ import annotations

import gc
import json
import struct
import sys
import time
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hermes.client import Publisher, Subscription

PACED = "demo.paced"
BURST = "demo.burst"
STAMP = struct.Struct("<qq")
"""What a payload begins with: due time (CLOCK_MONOTONIC, ns) and number."""
LEAD_NS = 300_000_000
"""Between the injector's report and its first message: everybody is waiting by then."""
REPORT_NS = 200_000_000
SPIN_NS = 60_000
"""Sleep no closer to the due time than this: what a sleep may overshoot on a virtual machine."""
BATCH_BYTES = 256 << 10
"""Bytes of payload per call in the burst."""
BATCH_COUNT = 4096
"""Messages per call in the burst."""
EXTRA_S = 0.1
"""How long the subscriber looks for messages beyond the last: they would be duplicates."""


def report(**what: Any) -> None:
    """One line for the parent."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def inject(url: str, messages: int, rate: float, size: int, burst: int) -> None:
    """Send on schedule, then in a burst."""
    import hermes

    with hermes.connect(url, name="demo injector") as client:
        with client.publisher(PACED) as publisher:
            inject_paced(publisher, messages, rate, size)
        report(sent=messages)
        if burst:
            with client.publisher(BURST) as publisher:
                sys.stdin.readline()
                start_ns = time.monotonic_ns()
                inject_burst(publisher, burst, size)
            report(sent=burst, start_ns=start_ns)


def inject_paced(publisher: Publisher, messages: int, rate: float, size: int) -> None:
    """Send on schedule; a message that is late goes out at once and keeps its due time."""
    clock = time.monotonic_ns
    filler = bytes(size - STAMP.size)
    interval = 1e9 / rate
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
    gc.enable()


def inject_burst(publisher: Publisher, messages: int, size: int) -> None:
    """Send as fast as the broker takes them."""
    batch = max(1, min(messages, BATCH_COUNT, BATCH_BYTES // size))
    joined, lengths = bytes(size * batch), array("I", [size]) * batch
    for _ in range(messages // batch):
        publisher.send_many(joined, lengths)
    rest = messages % batch
    if rest:
        publisher.send_many(joined[: size * rest], lengths[:rest])


def subscribe(url: str, messages: int, idle_s: float, burst: int, latencies_path: Path) -> None:
    """Receive until everything is there, or nothing comes any more."""
    import hermes

    with hermes.connect(url, name="demo subscriber") as client:
        paced, bulk = client.subscribe(PACED), client.subscribe(BURST)
        report(ready=True)
        receive_paced(paced, messages, idle_s, latencies_path)
        if burst:
            receive_burst(bulk, burst, idle_s)


def receive_paced(
    subscription: Subscription, messages: int, idle_s: float, latencies_path: Path
) -> None:
    """One message object at a time; writes each one's latency to a file."""
    from hermes.errors import Timeout

    clock = time.monotonic_ns
    unpack = STAMP.unpack_from
    latencies = array("q", bytes(8 * messages))
    seen = bytearray(messages)
    delivered = duplicates = disordered = expected = 0
    now_ns = last_ns = next_ns = 0
    gc.disable()
    try:
        while True:
            message = subscription.receive(idle_s if delivered < messages else EXTRA_S)
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
            last_ns = now_ns
            if now_ns > next_ns:
                report(delivered=delivered)
                next_ns = now_ns + REPORT_NS
    except Timeout:
        pass  # the end; what is missing shows in the numbers
    gc.enable()
    latencies_path.write_bytes(latencies[:delivered].tobytes())
    report(
        done=True,
        delivered=delivered,
        duplicates=duplicates,
        disordered=disordered,
        last_ns=last_ns,
    )


def receive_burst(subscription: Subscription, messages: int, idle_s: float) -> None:
    """Whole batches; the client proves that each begins where the one before ended."""
    from hermes.errors import Timeout

    delivered = last_ns = 0
    try:
        while True:
            wait_s = idle_s if delivered < messages else EXTRA_S
            delivered += len(next(subscription.batches(wait_s)))
            last_ns = time.monotonic_ns()
    except Timeout:
        pass  # as above
    report(done=True, delivered=delivered, last_ns=last_ns)


def main(arguments: list[str]) -> None:
    """Play the role that the first argument names."""
    from hermes.base.platform import follow_parent

    follow_parent()
    role, *rest = arguments
    if role == "broker":
        from hermes.cli.app import app

        app(["serve", *rest], prog_name="hermes")
    elif role == "injector":
        url, messages, rate, size, burst = rest
        inject(url, int(messages), float(rate), int(size), int(burst))
    else:
        url, messages, idle_s, burst, path = rest
        subscribe(url, int(messages), float(idle_s), int(burst), Path(path))


if __name__ == "__main__":
    main(sys.argv[1:])
