"""docs/zeromq.md does what it says: its programs run, its doors are those of a listener."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import hermes

pytest.importorskip("zmq")

from hermes_zmq.options import DEFAULT_PORT, ROLES

PAGE = (Path(__file__).parents[2] / "docs" / "zeromq.md").read_text()
DEADLINE_S = 60


def test_the_programs_run() -> None:
    """The two programs of the first section, one after the other, against a broker."""
    with hermes.Broker(listeners=["zmq+tcp://127.0.0.1:0"], storage="memory:") as broker:
        ports = {
            role: address.rpartition(":")[2] for role, address in broker.listeners[0].doors.items()
        }
        url = broker.url
        said = []
        for program in re.findall(r"```python\n(.*?)```", PAGE, re.S):
            text = re.sub("^   ", "", program, flags=re.M)
            text = text.replace("zmq+tcp://127.0.0.1:5556", url)
            text = text.replace(":5556", f":{ports['pub']}").replace(":5557", f":{ports['sub']}")
            done = subprocess.run(
                [sys.executable, "-c", text], capture_output=True, text=True, timeout=DEADLINE_S
            )
            assert done.returncode == 0, done.stderr
            said.append(done.stdout)

    assert said == ["[b'md.AAPL', b'190.5']\n", "md.AAPL 1 b'190.5'\n"]


def test_the_doors_have_the_ports_that_the_page_shows() -> None:
    """Consecutive from the default port on, in the order of the roles."""
    shown = re.findall(r"tcp://127\.0\.0\.1:(\d+) \((\w+)\)", PAGE)

    assert shown == [(str(DEFAULT_PORT + i), role) for i, role in enumerate(ROLES)]
