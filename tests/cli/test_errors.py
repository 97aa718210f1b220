"""Mistakes of a newcomer: each has a sentence that says what to do, and its exit
code.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import processes
from tests.cli.conftest import DEADLINE_S

if TYPE_CHECKING:
    from tests.cli.conftest import RunningBroker

pytestmark = pytest.mark.slow

Hermes = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def nobody() -> Iterator[str]:
    """A URL at which nobody listens, for as long as the test runs."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        yield f"tcp://127.0.0.1:{sock.getsockname()[1]}"


@pytest.mark.parametrize(
    "arguments",
    [
        ("pub", "a", "x"),
        ("sub", "a"),
        ("streams",),
        ("topics",),
        ("stats",),
    ],
    ids=lambda arguments: arguments[0],
)
def test_without_a_broker_the_error_says_how_to_start_one(
    hermes: Hermes, nobody: str, arguments: tuple[str, ...]
) -> None:
    """Nobody answers: exit code 5, the address, and the command that starts a broker."""
    got = hermes(*arguments, url=nobody)

    assert got.returncode == 5
    assert nobody.encode().removeprefix(b"tcp://") in got.stderr
    assert b"hermes serve" in got.stderr
    assert b"Traceback" not in got.stderr


def test_errors_are_json_if_asked(hermes: Hermes, nobody: str) -> None:
    """With --json the error is one JSON object on one line of stderr."""
    got = hermes("pub", "a", "x", "--json", url=nobody)

    error = json.loads(got.stderr)
    assert error["error"] == "ConnectFailed"
    assert error["exit_code"] == got.returncode == 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("pbu", "a", "x"), [b"'pub'"]),
        (("sub", "a", "--cuont", "1"), [b"--count"]),
        (("pub", "a"), [b"--stdin", b"MESSAGE"]),
        (("pub", "a", "x", "--stdin"), [b"MESSAGE and --stdin"]),
        (("pub", "a", "x", "--ack", "sure"), [b"appended", b"durable"]),
        (("pub", "a", "x", "--count", "0"), [b"--count"]),
        (("pub", "a", "x", "--rate", "0"), [b"--rate"]),
        (("pub", "a", "--size", "big"), [b"'big'", b"64KiB"]),
        (("sub", "a", "--from", "yesterday"), [b"ISO 8601", b"earliest"]),
        (("sub", "a", "--duration", "soon"), [b"'soon'"]),
        (("sub", "a", "--intercept", "los=1%"), [b"--intercept", b"did you mean 'loss'"]),
        (("sub", "a", "--intercept", "loss=1%"), [b"tcp carries no datagrams"]),
        (("pub", "a", "x", "--intercept", "loss=1%"), [b"tcp carries no datagrams"]),
        (("serve", "--intercept", "loss=1%"), [b"tcp carries no datagrams", b"hermes plugins"]),
        (("sub", "a", "--json", "--format", "raw"), [b"--format json"]),
        (("sub", "a", "--durable", "me", "--from", "7"), [b"--durable"]),
        (("serve", "--stream", "md"), [b"NAME=PATTERN"]),
        (("serve", "--stream", "md=a", "--stream", "md=b"), [b"twice"]),
        (("serve", "--idle", "lazy"), [b"adaptive"]),
        (("serve", "--retention", "lots"), [b"'--retention': 'lots' is not a size"]),
        (("serve", "--stream", "md=a..b"), [b"'a..b' is not a legal pattern"]),
        (("log", "verify", "/nonexistent"), [b"/nonexistent"]),
        (("log", "vreify", "."), [b"'verify'"]),
        (("demo", "--size", "1"), [b"16 bytes"]),
        (("pub", "a", "x", "--url", "127.0.0.1"), [b"URL"]),
        (("pub", "a", "x", "--url", "carrier-pigeon://roof"), [b"carrier-pigeon", b"tcp"]),
    ],
    ids=lambda value: "-".join(value)[:40].replace("/", "") if isinstance(value, tuple) else "",
)
def test_usage_errors_name_the_cure(
    hermes: Hermes, arguments: tuple[str, ...], words: list[bytes]
) -> None:
    """A command line that cannot work: exit code 2 (8 for a missing plugin) and the way out."""
    got = hermes(*arguments)

    assert got.returncode == (8 if "carrier-pigeon://roof" in arguments else 2), got.stderr
    for word in words:
        assert word in got.stderr
    assert b"Traceback" not in got.stderr


def test_a_command_is_told_that_inproc_is_not_for_it(hermes: Hermes) -> None:
    """No command can reach an inproc broker, whatever is started."""
    got = hermes("pub", "a", "x", "--url", "inproc://orders")

    assert got.returncode == 5
    assert b"--url tcp://HOST:PORT" in got.stderr
    assert b"Start one with" not in got.stderr


@pytest.mark.parametrize(
    "arguments", [("--help",), ("pub", "--help"), ("version",), ("plugins", "list")]
)
def test_output_that_cannot_be_written_is_told(arguments: tuple[str, ...]) -> None:
    """A full disk under the output: exit code 1 and what to do, also where no command runs yet."""
    with Path("/dev/full").open("wb") as full:
        got = processes.run(
            *("-m", "hermes", *arguments), stdout=full, stderr=subprocess.PIPE, timeout=DEADLINE_S
        )

    assert got.returncode == 1
    assert b"the output could not be written: No space left on device" in got.stderr
    assert b"Traceback" not in got.stderr
    assert b"Exception ignored" not in got.stderr


@pytest.mark.parametrize(
    "arguments", [("bridge", "zmq", "--sub", "tcp://127.0.0.1:1"), ("keys", "new", "mine")]
)
def test_a_command_without_its_library_names_what_to_install(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """As in a plain ``pip install``, without pyzmq: exit code 8, and no traceback."""
    program = "import sys, hermes.cli; sys.modules['zmq'] = None; hermes.cli.main()"
    got = processes.run(
        *("-c", program, *arguments), capture_output=True, cwd=tmp_path, timeout=DEADLINE_S
    )

    assert got.returncode == 8
    assert b"pip install 'hermes-broker[zmq]'" in got.stderr
    assert b"Traceback" not in got.stderr


def test_an_interrupt_while_a_command_is_loading_is_quiet() -> None:
    """Ctrl-C before click has been imported: exit code 130, and not a word."""
    program = (
        "import builtins, hermes.cli\n"
        "before = builtins.__import__\n"
        "def interrupted(name, *rest):\n"
        "    if name == 'hermes.cli.app':\n"
        "        raise KeyboardInterrupt\n"
        "    return before(name, *rest)\n"
        "builtins.__import__ = interrupted\n"
        "hermes.cli.main()\n"
    )
    got = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=False, timeout=30
    )

    assert (got.returncode, got.stdout, got.stderr) == (130, b"", b"")


def test_files_that_may_not_grow_are_told_on_both_sides(
    hermes: Hermes, make_broker: Callable[..., RunningBroker]
) -> None:
    """A broker whose files may not grow: its publisher and its operator both read what to do."""
    broker = make_broker("--segment", "1MiB", file_bytes_max=65536)

    got = hermes("pub", "a", "x", url=broker.url)

    assert got.returncode == 7
    assert b"no message was acknowledged" in got.stderr
    assert b"resend()" not in got.stderr
    assert b"make room on the disk of its data directory" in got.stderr
    assert b"--retention" in got.stderr
    assert "RLIMIT_FSIZE (ulimit -f) is 65536 bytes" in broker.complaint()


@pytest.mark.parametrize("arguments", [("pub", "md..a", "x"), ("sub", "md..a")])
def test_an_illegal_topic_is_a_usage_error(
    hermes: Hermes, nobody: str, arguments: tuple[str, ...]
) -> None:
    """A topic or pattern with an empty token is refused before a broker is looked for."""
    got = hermes(*arguments, url=nobody)

    assert got.returncode == 2
    assert b"md..a" in got.stderr


def test_a_taken_port_is_named_with_the_cure(hermes: Hermes, tmp_path: Path) -> None:
    """Another socket listens there: exit code 5, the port, and no ready file."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        got = hermes(
            "serve",
            "--transport",
            f"tcp://127.0.0.1:{port}",
            "--storage",
            "memory",
            "--ready-file",
            tmp_path / "ready",
        )

    assert got.returncode == 5
    assert str(port).encode() in got.stderr
    assert not (tmp_path / "ready").exists()


def test_a_locked_directory_names_its_owner(hermes: Hermes, broker: RunningBroker) -> None:
    """A second broker on one directory is refused, with the first one's pid."""
    got = hermes("serve", "--transport", "tcp://127.0.0.1:0", "--storage", f"mmap:{broker.data}")

    assert got.returncode == 7
    assert str(broker.ready["pid"]).encode() in got.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("retntion = '1GiB'", [b"retntion", b"retention"]),
        ("retention = 'lots'", [b"'lots'"]),
        ("retention = ", [b"TOML"]),
        ("[limits]\nmesage = 1", [b"limits.mesage", b"message"]),
    ],
    ids=["unknown-key", "bad-value", "not-toml", "nested-key"],
)
def test_a_bad_configuration_file_is_explained(
    hermes: Hermes, tmp_path: Path, text: str, words: list[bytes]
) -> None:
    """Exit code 2, the file, the key and what was meant."""
    file = tmp_path / "broker.toml"
    file.write_text(text)

    got = hermes("serve", "--config", file)

    assert got.returncode == 2
    for word in [b"broker.toml", *words]:
        assert word in got.stderr


def test_an_unreadable_configuration_file_is_explained(hermes: Hermes, tmp_path: Path) -> None:
    """A file that is not there: exit code 2 and its name."""
    got = hermes("serve", "--config", tmp_path / "none.toml")

    assert got.returncode == 2
    assert b"none.toml" in got.stderr


def test_a_directory_that_cannot_be_written_is_explained(hermes: Hermes, tmp_path: Path) -> None:
    """A storage path that runs through a file: exit code 7 and the path."""
    (tmp_path / "file").write_text("")

    got = hermes(
        "serve", "--transport", "tcp://127.0.0.1:0", "--storage", f"mmap:{tmp_path}/file/data"
    )

    assert got.returncode == 7
    assert os.fsencode(tmp_path / "file") in got.stderr
    assert b"Traceback" not in got.stderr


def test_durable_acks_of_a_memory_log_are_refused(
    hermes: Hermes,
    started: Callable[..., subprocess.Popen[bytes]],
    tmp_path: Path,
    wait_for: Callable[[Callable[[], bool], str], None],
) -> None:
    """A log in memory cannot promise a disk: refused, with the reason."""
    ready = tmp_path / "ready"
    started(
        "serve", "--transport", "tcp://127.0.0.1:0", "--storage", "memory", "--ready-file", ready
    )
    wait_for(ready.exists, "the ready file")
    url = json.loads(ready.read_text())["listeners"][0]["url"]

    got = hermes("pub", "a", "x", "--ack", "durable", url=url)

    assert got.returncode == 6, got.stderr
    assert b"durable" in got.stderr
