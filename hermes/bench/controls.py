"""The controls: what the machine gives to programs that only move bytes.  All in C, so that they
are the floor of every table; without broker, topics, log, acknowledgements or checks.

    C relay, TCP       copies one connection's bytes to others: the floor of a broker on a stream
    C echo, UDP        sends datagrams back, 64 under way at most: the floor of one on datagrams
    C ring, memory     slots in shared memory, spinning: no kernel at all between two processes
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hermes.base.platform import follow_parent, usable_cores
from hermes.bench import raw
from hermes.bench.actors import BROKER_CORE, ActorCast
from hermes.bench.contestant import Conditions, Job, Kind, Measure
from hermes.bench.histogram import encoded, histogram_of
from hermes.bench.stage import Process, Stage
from hermes.errors import SystemFault

SPIN_NS = {"block": 0, "adaptive": 50_000, "spin": -1}
"""How long the controls try before they sleep: as the broker does."""
WINDOW = 64
"""Datagrams under way: few enough that no socket buffer overflows with the usual sizes."""
SHARED_MEMORY = Path("/dev/shm")
ORDER = struct.Struct("<II")
"""An order to the echo: copies, and bytes of a datagram."""
START_S = 10.0
"""How long the echo may take to answer an order."""
FOR_EVER_S = 86_400.0
"""Patience of the processes between: who started them ends them."""

RELAY, ECHO, RING = "C relay, TCP", "C echo, UDP", "C ring, memory"

Report = dict[str, Any]
Task = dict[str, Any]


def _told(tally: raw.Tally, **more: Any) -> Report:
    """The report of a part about what came."""
    latencies = tally.latencies
    measured = {"histogram": encoded(histogram_of(latencies))} if latencies else {}
    return {"delivered": tally.delivered, "last_ns": tally.last_ns} | measured | more


class RelayPart:
    """An end of the relay."""

    def __init__(self, where: Task, part: Task) -> None:
        self._part = part
        self._spin_ns = where["spin_ns"]
        self._write_bytes = where.get("write_bytes", raw.READ_BYTES)
        role = {"receive": b"k", "hear": b"k"}.get(part["role"], b"s")
        connected = socket.create_connection(("127.0.0.1", where["port"]))
        connected.sendall(role)
        connected.recv(1)  # it is in its place
        self._end = raw.Stream(connected)

    def play(self, task: Task) -> Report:
        """One pass."""
        size, count = self._part["size"], task["messages"]
        patience = raw.Patience(self._spin_ns, task["idle_s"])
        role = self._part["role"]
        if role == "publish":
            start_ns = self._end.load(size, count, patience, self._write_bytes)
            return {"sent": count, "start_ns": start_ns}
        if role == "receive":
            return _told(self._end.drain(size, count, patience))
        if role == "hear":
            return _told(self._end.hear(size, count, patience))
        if role == "pace":
            rate, start_ns = self._part["rate"], task["start_ns"]
            late_ns = self._end.pace(size, count, start_ns, rate, patience)
            return {"sent": count, "late_ns": late_ns}
        start_ns = time.monotonic_ns()
        return _told(self._end.pingpong(size, count, patience), sent=count, start_ns=start_ns)

    def close(self) -> None:
        """Hang up."""
        self._end.socket.close()


class EchoPart:
    """The one client of the echo: it sends and receives."""

    def __init__(self, where: Task, part: Task) -> None:
        self._part = part
        self._spin_ns = where["spin_ns"]
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.connect(("127.0.0.1", where["port"]))
        made.settimeout(START_S)
        made.send(b"")  # whatever it was told last is over
        made.send(ORDER.pack(part["copies"], part["size"]))
        made.recv(ORDER.size)
        self._end = raw.Datagrams(made)

    def play(self, task: Task) -> Report:
        """One pass."""
        size, count, copies = self._part["size"], task["messages"], self._part["copies"]
        patience = raw.Patience(self._spin_ns, task["idle_s"])
        role = self._part["role"]
        if role == "flood":
            window = max(1, WINDOW // copies)
            start_ns, tally = self._end.flood(size, count, window, copies, patience)
            return _told(tally, sent=count, start_ns=start_ns)
        if role == "pace":
            rate, start_ns = self._part["rate"], task["start_ns"]
            late_ns, tally = self._end.pace(size, count, start_ns, rate, patience)
            return _told(tally, sent=count, late_ns=late_ns)
        start_ns = time.monotonic_ns()
        return _told(self._end.pingpong(size, count, patience), sent=count, start_ns=start_ns)

    def close(self) -> None:
        """Let the echo wait for the next."""
        self._end.socket.send(b"")
        self._end.socket.close()


class RingPart:
    """An end of a ring, or of several."""

    def __init__(self, where: Task, part: Task) -> None:
        self._part = part
        place, topic, size = Path(where["place"]), part["topic"], part["size"]
        numbers = range(part["rings"]) if part["role"] == "publish" else [part["ring"]]
        self._rings = [raw.Ring(place / f"{topic}-{number}", size) for number in numbers]
        self._back = raw.Ring(place / f"{topic}-back", size) if "back" in part else None

    def play(self, task: Task) -> Report:
        """One pass."""
        count, role = task["messages"], self._part["role"]
        patience = raw.Patience(-1, task["idle_s"])
        ring = self._rings[0]
        if role == "publish":
            start_ns = raw.load(self._rings, self._part["size"], count, patience)
            return {"sent": count, "start_ns": start_ns}
        if role == "receive":
            return _told(ring.drain(count, patience))
        if role == "hear":
            return _told(ring.hear(count, patience))
        if role == "pace":
            late_ns = ring.pace(count, task["start_ns"], self._part["rate"], patience)
            return {"sent": count, "late_ns": late_ns}
        assert self._back is not None
        if role == "pingpong":
            start_ns = time.monotonic_ns()
            tally = ring.pingpong(self._back, count, patience)
            return _told(tally, sent=count, start_ns=start_ns)
        ring.answer(self._back, count, patience)
        return {}

    def close(self) -> None:
        """Unmap."""
        for ring in [*self._rings, *([self._back] if self._back else [])]:
            ring.close()


class Parts:
    """The ends that an actor makes."""

    def __init__(self, make: Any) -> None:
        self.part = make


RELAY_PARTS, ECHO_PARTS, RING_PARTS = Parts(RelayPart), Parts(EchoPart), Parts(RingPart)
"""Named on the command line of the controls' actors."""
RELAY_REFERENCE = "hermes.bench.controls:RELAY_PARTS"


class EchoCast(ActorCast):
    """One client."""

    def parts(self, job: Job) -> list[tuple[str, int, dict[str, Any]]]:
        """The client sends, and receives, all."""
        role = {"latency": "pace", "round_trip": "pingpong"}.get(job.measure, "flood")
        copies = job.subscribers if job.measure == "fanout" else 1
        return [("client", 0, {"role": role, "copies": copies})]


class RingCast(ActorCast):
    """No broker: a ring to each subscriber."""

    def parts(self, job: Job) -> list[tuple[str, int, dict[str, Any]]]:
        """As usual, but round trips need somebody who answers."""
        if job.measure == "round_trip":
            return [
                ("answerer", 0, {"role": "answer", "ring": 0, "back": True}),
                ("client", 0, {"role": "pingpong", "ring": 0, "back": True}),
            ]
        rings = {"rings": job.subscribers}
        return [
            (kind, number, part | rings | {"ring": number})
            for kind, number, part in super().parts(job)
        ]


class Control:
    """A contestant of this file."""

    kind: Kind = "control"

    def __init__(self, name: str, note: str, apis: Mapping[Measure, str]) -> None:
        self.name = name
        self.note = note
        self._apis = apis

    def obstacle(self) -> str | None:
        """None, on a machine that can have it."""
        cores = len(usable_cores())
        if self.name == RING and cores < 2:
            return "two processes that spin need two cores, and there is one"
        return None

    def api(self, job: Job) -> str | None:
        """The calls with which the control does a job."""
        too_large = self.name == ECHO and job.size > raw.DATAGRAM_MAX
        too_many = job.subscribers > raw.SINKS_MAX or job.publishers > 1
        return None if too_large or too_many else self._apis[job.measure]

    def enter(self, stage: Stage, conditions: Conditions) -> ActorCast:
        """Start it."""
        spin_ns = SPIN_NS[conditions.idle]
        if self.name == RING:
            place = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else stage.place
            return RingCast(stage, "hermes.bench.controls:RING_PARTS", _rings_in(stage, place))
        if self.name == ECHO:
            return EchoCast(
                stage, "hermes.bench.controls:ECHO_PARTS", *_between(stage, ECHO, spin_ns)
            )
        return relay(stage, spin_ns)


def relay(
    stage: Stage,
    spin_ns: int,
    *,
    read_bytes: int = raw.READ_BYTES,
    reference: str = RELAY_REFERENCE,
) -> ActorCast:
    """Start the relay, which reads so many bytes a call; ``reference``: its users."""
    return ActorCast(stage, reference, *_between(stage, RELAY, spin_ns, read_bytes))


def _between(stage: Stage, *arguments: str | int) -> tuple[dict[str, Any], list[Process]]:
    command = (sys.executable, "-m", "hermes.bench.controls", *map(str, arguments))
    process = stage.start("relay", *command, core=BROKER_CORE, mercy_s=0)
    return process.hear(), [process]


def _rings_in(stage: Stage, place: Path) -> dict[str, Any]:
    """A directory for rings that goes when the stage does."""
    made = tempfile.mkdtemp(prefix="hermes-bench-", dir=place)
    stage.at_end(lambda: shutil.rmtree(made, ignore_errors=True))
    return {"place": made}


CALLS = "256 KiB a call"
CONTROLS = (
    Control(
        RELAY,
        "the floor of a broker on a byte stream",
        {
            "throughput": CALLS,
            "fanout": CALLS,
            "latency": "a call each",
            "round_trip": "a call each",
        },
    ),
    Control(
        ECHO,
        f"the floor of one on datagrams; {WINDOW} under way; one client sends and receives",
        {
            "throughput": "32 datagrams a call",
            "fanout": "32 datagrams a call",
            "latency": "a call each",
            "round_trip": "a call each",
        },
    ),
    Control(
        RING,
        "shared memory from process to process, spinning; no broker between them",
        dict.fromkeys(("throughput", "fanout", "latency", "round_trip"), "a copy each"),
    ),
)


# ---- the processes of the first two ----


def serve_relay(spin_ns: int, read_bytes: int) -> None:
    """Sinks come first, then a source; without sinks, its bytes go back to it.  Then again."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=raw.SINKS_MAX)
    _say(port=listener.getsockname()[1], spin_ns=spin_ns)
    sinks: list[raw.Stream] = []
    while True:
        connected, _ = listener.accept()
        role = connected.recv(1)
        if not role:
            connected.close()
            continue
        connected.sendall(b".")
        end = raw.Stream(connected)
        if role == b"k":
            sinks.append(end)
            continue
        with contextlib.suppress(SystemFault):  # a sink that left early: its job is over
            end.relay(sinks or [end], raw.Patience(spin_ns, FOR_EVER_S), read_bytes)
        for each in [*sinks, end]:
            each.socket.close()
        sinks = []


def serve_echo(spin_ns: int) -> None:
    """An order says how often and how much; then datagrams go back, until an empty one."""
    door = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    door.bind(("127.0.0.1", 0))
    _say(port=door.getsockname()[1], spin_ns=spin_ns)
    patience = raw.Patience(spin_ns, FOR_EVER_S)
    while True:
        door.setblocking(True)
        order, peer = door.recvfrom(raw.DATAGRAM_MAX)
        if len(order) != ORDER.size:
            continue  # the end of an earlier one
        door.sendto(order, peer)
        copies, size = ORDER.unpack(order)
        raw.Datagrams(door).echo(size, copies, patience)


def _say(**what: Any) -> None:
    from hermes.bench.actor import say

    say(what)


def main(name: str, *numbers: str) -> None:
    """Be the process between."""
    follow_parent()
    serve: Callable[..., None] = serve_relay if name == RELAY else serve_echo
    serve(*map(int, numbers))


if __name__ == "__main__":
    main(*sys.argv[1:])
