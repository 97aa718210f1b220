"""docs/zeromq.md does what it says: its programs run, its doors are those of a listener."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

import hermes

zmq = pytest.importorskip("zmq")

from hermes_zmq.options import DEFAULT_PORT, ROLES  # noqa: E402

pytestmark = pytest.mark.slow

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


def test_the_token_of_the_doors_stands_in_the_configuration_file(tmp_path: Path) -> None:
    """The example serves ZeroMQ programs as its user, and nothing that the broker shows or writes,
    its command line included, has the token."""
    token = "the-token-of-feed"
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, re.S)
    users, config, ready = (tmp_path / name for name in ("users.toml", "broker.toml", "ready"))
    example = example.replace("/etc/hermes/users.toml", str(users)).replace(":5556", ":0")
    config.write_text(example.replace("/var/lib/hermes", str(tmp_path / "data")))
    users.write_text(
        f'[users.feed]\ntoken = "{token}"\npublish = ["md.>"]\nsubscribe = [">"]\ninspect = true\n'
    )
    users.chmod(0o600)
    command = [sys.executable, "-m", "hermes", "serve", "--config", config, "--ready-file", ready]
    broker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not ready.exists():
            assert broker.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        told = ready.read_text()
        listener = json.loads(told)["listeners"][0]
        with ExitStack() as stack:
            program = stack.enter_context(stack.enter_context(zmq.Context()).socket(zmq.PUSH))
            program.connect(listener["doors"]["push"])
            program.send_multipart([b"md.a", b"x"])
            client = stack.enter_context(
                hermes.connect(listener["url"], identity="feed", credentials={"token": token})
            )
            message = client.subscribe("md.>", start="earliest").receive(timeout=DEADLINE_S)
            shown = str(client.stats()) + str(client.query("config"))
        line = Path(f"/proc/{broker.pid}/cmdline").read_text()
        broker.terminate()
        output, _ = broker.communicate(timeout=DEADLINE_S)
    finally:
        broker.kill()
        broker.wait()

    assert (message.topic, message.payload) == ("md.a", b"x")
    for text in (shown, line, output.decode(), told):
        assert token not in text


def test_the_doors_have_the_ports_that_the_page_shows() -> None:
    """Consecutive from the default port on, in the order of the roles."""
    shown = re.findall(r"tcp://127\.0\.0\.1:(\d+) \((\w+)\)", PAGE)

    assert shown == [(str(DEFAULT_PORT + i), role) for i, role in enumerate(ROLES)]
