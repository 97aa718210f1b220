"""Run in a network namespace of its own, as root: a SUB's machine vanishes without a word.

Prints, as JSON, how many messages were published, how many another SUB got, and the door's counters.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import zmq

import hermes
from hermes_zmq import doors, peers

SECOND_NS = 1_000_000_000
DEADLINE_S = 60.0
SUBSCRIBER = """
import zmq
subscriber = zmq.Context().socket(zmq.SUB)
subscriber.connect("tcp://10.9.0.1:5557")
subscriber.subscribe(b"")
while True:
    subscriber.recv_multipart()
"""


def main() -> None:
    doors.HELD_NS = peers.DEAD_NS = 2 * SECOND_NS
    with subprocess.Popen(["unshare", "-n", "sleep", "infinity"]) as machine:
        try:
            print(json.dumps(run(machine.pid)))
        finally:
            machine.kill()


def run(machine: int) -> dict[str, object]:
    """With another network namespace, that of process ``machine``."""
    there = ["nsenter", "-t", str(machine), "-n"]
    while Path(f"/proc/{machine}/ns/net").stat().st_ino == Path("/proc/self/ns/net").stat().st_ino:
        time.sleep(0.01)
    for command in (
        ["ip", "link", "set", "lo", "up"],
        ["ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", str(machine)],
        ["ip", "addr", "add", "10.9.0.1/24", "dev", "v0"],
        ["ip", "link", "set", "v0", "up"],
        [*there, "ip", "addr", "add", "10.9.0.2/24", "dev", "v1"],
        [*there, "ip", "link", "set", "v1", "up"],
    ):
        subprocess.run(command, check=True)
    url = "zmq+tcp://0.0.0.0:5556?insecure=yes&high_water=100&hold=0"
    subscriber = subprocess.Popen([*there, sys.executable, "-c", SUBSCRIBER])
    context = zmq.Context()
    other = context.socket(zmq.SUB)
    other.set(zmq.RCVHWM, 0)
    other.subscribe(b"")
    other.connect("tcp://127.0.0.1:5557")
    with hermes.Broker(listeners=[url, "tcp://127.0.0.1:0"], storage="memory:") as broker:
        while counters(broker)["sub_peers"] < 2:
            time.sleep(0.01)
        with hermes.connect(broker.urls[1]) as client, client.publisher("a") as publisher:
            publisher.send(b"before")
            assert other.poll(1000 * DEADLINE_S)
            subprocess.run(["ip", "link", "set", "v0", "down"], check=True)
            publisher.send_many([bytes(10_000)] * 3000)
            publisher.flush()
            got = 0
            while got < publisher.sent and other.poll(1000 * DEADLINE_S):
                other.recv_multipart()
                got += 1
        found = {"sent": publisher.sent, "got": got, "let_go": counters(broker)["sub_let_go"]}
    other.close(0)
    context.term()
    subscriber.kill()
    subscriber.wait()
    return found


def counters(broker: hermes.Broker) -> dict[str, int]:
    """The ZeroMQ listener's."""
    found: dict[str, int] = broker.stats()["listeners"][0]
    return found


main()
