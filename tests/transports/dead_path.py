"""A broker in a network namespace, its clients in another, and a cable between that goes dead.

dead_path.py TRANSPORT URL-OPTIONS DIRECTORY        (in a namespace of its own)
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import hermes

DEADLINE_S = 40.0
"""For what takes seconds: far below the quarter of an hour after which the system gives up."""
HERE, THERE = "10.77.0.2", "10.77.0.1"

WATCHER = """
import sys, time, hermes
client = hermes.connect(sys.argv[1], timeout=60)
publisher = client.publisher("down")
def others():
    return sum(one["subscriptions"] for one in client.stats()["clients"])
print("watching", flush=True)
sys.stdin.readline()
publisher.send(b"to nobody")
publisher.flush()
deadline = time.monotonic() + float(sys.argv[2])
while others():
    if time.monotonic() > deadline:
        sys.exit("the subscriber is still there: %r" % client.stats()["clients"])
    time.sleep(0.1)
print("the broker noticed", flush=True)
"""


def run(*command: str) -> None:
    """Run a command that must not fail."""
    subprocess.run(command, check=True, capture_output=True)


def main(transport: str, options: str, place: Path, stack: ExitStack) -> None:
    """Set the network up, cut it, and say what is noticed."""
    other = subprocess.Popen(["unshare", "-n", "sleep", "600"])
    stack.callback(other.wait)
    stack.callback(other.kill)
    inside = ("nsenter", "-t", str(other.pid), "-n")
    until(lambda: Path(f"/proc/{other.pid}/ns/net").readlink() != own_network())
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", str(other.pid))
    for end, address, enter in (("v0", HERE, ()), ("v1", THERE, inside)):
        run(*enter, "ip", "addr", "add", f"{address}/24", "dev", end)
        run(*enter, "ip", "link", "set", end, "up")
    run(*inside, "ip", "link", "set", "lo", "up")
    ready = place / "ready.json"
    url = f"{transport}://{THERE}:7700"
    broker = subprocess.Popen(
        [
            *(*inside, sys.executable, "-m", "hermes", "serve", "--storage", "memory:"),
            *("--transport", f"{url}?insecure=yes{options}", "--ready-file", str(ready)),
        ],
        stdout=subprocess.DEVNULL,
    )
    stack.callback(broker.wait)
    stack.callback(broker.kill)
    until(ready.exists)
    watcher = subprocess.Popen(
        [*inside, sys.executable, "-c", WATCHER, url, str(DEADLINE_S)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    stack.callback(watcher.wait)
    stack.callback(watcher.kill)
    assert watcher.stdin is not None
    assert watcher.stdout is not None
    assert watcher.stdout.readline() == "watching\n"
    client = hermes.connect(f"{url}?{options[1:]}" if options else url, reconnect=600, timeout=20)
    client.subscribe("down")
    publisher = client.publisher("up")
    publisher.send(b"1")
    publisher.flush()
    strangers = ("lladdr", "02:00:00:00:00:99", "nud", "permanent")
    run("ip", "neigh", "replace", THERE, "dev", "v0", *strangers)
    run(*inside, "ip", "neigh", "replace", HERE, "dev", "v1", *strangers)
    publisher.send(b"2")
    watcher.stdin.write("go\n")
    watcher.stdin.flush()
    until(lambda: not client.connected)
    print("the client noticed", flush=True)
    print(watcher.stdout.readline().strip(), flush=True)


def own_network() -> Path:
    """Names this process's network."""
    return Path("/proc/self/ns/net").readlink()


def until(condition: object) -> None:
    """Wait for ``condition``."""
    assert callable(condition)
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


if __name__ == "__main__":
    with ExitStack() as stack:
        main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), stack)
    os._exit(0)  # not to wait for the acknowledgement that cannot come
