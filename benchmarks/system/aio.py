"""The cost of an event loop: the same work by ``hermes``, and by ``hermes.aio`` on asyncio and uvloop.

    python -m benchmarks.system.aio [--messages 200000] [--trips 5000] [--rounds 7] [--url tcp://127.0.0.1:0]

Control: ``hermes``, whose calls block.  Each contestant is a process of its own with one client and one
thread; the broker is another process.  All contestants alternate round by round; a figure is the median of
its rounds.

Work: *round trip*: publish 256 B, receive it by one's own subscription, us at the median; *batches*:
messages a second from a log that is there already, with ``batches()``; *objects*: the same, with one
:class:`hermes.Message` each; *sends*: one ``send`` a message, until all are acknowledged.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hermes
from hermes import aio

SIZE = 256
"""Bytes of a payload."""
WAIT_S = 60.0
CONTESTANTS = ("hermes", "asyncio", "uvloop")
FIGURES = ("round trip, us", "batches/s", "objects/s", "sends/s")

Clock = Callable[[], float]
clock: Clock = time.perf_counter


def blocking(url: str, messages: int, trips: int) -> dict[str, float]:
    """The work by ``hermes``."""
    with hermes.connect(url, timeout=WAIT_S) as client:
        with client.subscribe("trip") as own, client.publisher("trip") as publisher:
            taken = []
            for _ in range(trips):
                begun = clock()
                publisher.send(bytes(SIZE))
                own.receive()
                taken.append(clock() - begun)
        with client.publisher("many") as publisher:
            begun = clock()
            for _ in range(messages):
                publisher.send(bytes(SIZE))
            publisher.flush()
            sends = messages / (clock() - begun)
        with client.subscribe("many", start="earliest") as log:
            begun, count = clock(), 0
            for batch in log.batches():
                count += len(batch)
                if count >= messages:
                    break
            batches = count / (clock() - begun)
        with client.subscribe("many", start="earliest") as log:
            begun, count = clock(), 0
            for _ in log:
                count += 1
                if count == messages:
                    break
            objects = count / (clock() - begun)
    return figures(taken, batches, objects, sends)


async def awaiting(url: str, messages: int, trips: int) -> dict[str, float]:
    """The work by ``hermes.aio``: the same lines, awaited."""
    async with aio.connect(url, timeout=WAIT_S) as client:
        async with client.subscribe("trip") as own, client.publisher("trip") as publisher:
            taken = []
            for _ in range(trips):
                begun = clock()
                await publisher.send(bytes(SIZE))
                await own.receive()
                taken.append(clock() - begun)
        async with client.publisher("many") as publisher:
            begun = clock()
            for _ in range(messages):
                await publisher.send(bytes(SIZE))
            await publisher.flush()
            sends = messages / (clock() - begun)
        async with client.subscribe("many", start="earliest") as log:
            begun, count = clock(), 0
            async for batch in log.batches():
                count += len(batch)
                if count >= messages:
                    break
            batches = count / (clock() - begun)
        async with client.subscribe("many", start="earliest") as log:
            begun, count = clock(), 0
            async for _ in log:
                count += 1
                if count == messages:
                    break
            objects = count / (clock() - begun)
    return figures(taken, batches, objects, sends)


def figures(trips: list[float], batches: float, objects: float, sends: float) -> dict[str, float]:
    """One round's, by name."""
    return dict(
        zip(FIGURES, (statistics.median(trips) * 1e6, batches, objects, sends), strict=True)
    )


def work(name: str, url: str, messages: int, trips: int) -> dict[str, float]:
    """One round of a contestant, in this process."""
    if name == "hermes":
        return blocking(url, messages, trips)
    make: Any = asyncio.new_event_loop
    if name == "uvloop":
        import uvloop

        make = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=make) as runner:
        return runner.run(awaiting(url, messages, trips))


def round_of(name: str, options: argparse.Namespace) -> dict[str, float] | None:
    """One round: a broker with an empty log, and a contestant; None if it cannot play."""
    if name == "uvloop":
        try:
            import uvloop  # noqa: F401
        except ImportError:
            return None
    with tempfile.TemporaryDirectory() as place:
        ready = Path(place) / "ready.json"
        serve = [sys.executable, "-m", "hermes", "serve", "--transport", options.url]
        serve += ["--storage", "memory:", "--ready-file", str(ready)]
        broker = subprocess.Popen(serve, stdout=subprocess.DEVNULL)
        try:
            while not ready.exists():
                time.sleep(0.01)
                assert broker.poll() is None
            url = json.loads(ready.read_text())["listeners"][0]["url"]
            job = [name, url, str(options.messages), str(options.trips)]
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.system.aio", "--work", *job],
                capture_output=True,
                text=True,
                check=True,
            )
        finally:
            broker.terminate()
            broker.wait()
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Play all rounds and print a row for each contestant: medians, and beside them what the control has."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.system.aio", description=__doc__)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--trips", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--url", default="tcp://127.0.0.1:0", help="where the broker listens")
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        name, url, messages, trips = options.work
        print(json.dumps(work(name, url, int(messages), int(trips))))
        return
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in CONTESTANTS}
    for _ in range(options.rounds):
        for name in CONTESTANTS:
            found = round_of(name, options)
            if found is not None:
                rounds[name].append(found)
    print(f"{'':10}" + "".join(f"{figure:>18}{'':>8}" for figure in FIGURES))
    control = {one: median(rounds["hermes"], one) for one in FIGURES}
    for name, all_found in rounds.items():
        if all_found:
            cells = [
                (median(all_found, one), median(all_found, one) / control[one]) for one in FIGURES
            ]
            print(f"{name:10}" + "".join(f"{value:18,.0f}{ratio:7.2f}x" for value, ratio in cells))


def median(rounds: list[dict[str, float]], figure: str) -> float:
    """The middle of all rounds."""
    return statistics.median(found[figure] for found in rounds)


if __name__ == "__main__":
    main()
