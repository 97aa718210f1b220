"""Commands in surroundings that are not as they should be: outputs, files, homes, names, signals."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import stat
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hermes
from hermes.cli.files import OutputFile
from tests import processes
from tests.cli.conftest import DEADLINE_S, RunningBroker, environment

pytestmark = pytest.mark.slow

MakeBroker = Callable[..., RunningBroker]
Wait = Callable[[Callable[[], bool], str], None]
COMMAND = f"exec {shlex.quote(sys.executable)} -m hermes"
SERVE = f"{COMMAND} serve --storage memory --transport tcp://127.0.0.1:0 --ready-file ready"


def shell(line: str, place: Path, **options: Any) -> subprocess.Popen[bytes]:
    """A command of a shell, whose redirections are what is tried."""
    return subprocess.Popen(["bash", "-c", line], cwd=place, env=environment(), **options)


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """A command, to its end."""
    return processes.run(
        *("-m", "hermes", *arguments),
        env={**environment(), **options.pop("variables", {})},
        capture_output=True,
        timeout=DEADLINE_S,
        **options,
    )


# Outputs.


@pytest.mark.parametrize(
    "closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "<&- >/dev/full 2>/dev/full"]
)
def test_a_broker_serves_without_its_streams(tmp_path: Path, wait_for: Wait, closed: str) -> None:
    """A broker whose streams are closed, or take nothing, serves and stops in order; no socket of
    it takes their place."""
    process = shell(f"{SERVE} {closed}", tmp_path, stdout=subprocess.DEVNULL)
    ready = tmp_path / "ready"
    wait_for(lambda: ready.exists() or process.poll() is not None, "the ready file")
    assert process.poll() is None
    found = json.loads(ready.read_text())

    with hermes.connect(found["listeners"][0]["url"]) as client:
        client.ping()
    places = [Path(f"/proc/{found['pid']}/fd/{number}") for number in range(3)]
    streams = [str(place.readlink()) for place in places]
    process.send_signal(signal.SIGTERM)

    assert not [name for name in streams if name.startswith(("socket:", "anon_inode:"))]
    assert process.wait(DEADLINE_S) == 0


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_broker_serves_though_a_pipe_is_full(tmp_path: Path, wait_for: Wait, stream: str) -> None:
    """A broker whose output, or log, goes into a pipe that nobody empties serves all the same."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    while True:
        try:
            os.write(writing, bytes(4096))
        except BlockingIOError:
            break
    os.set_blocking(writing, True)
    process = shell(SERVE, tmp_path, **{stream: writing})
    ready = tmp_path / "ready"
    wait_for(lambda: ready.exists() or process.poll() is not None, "the ready file")

    with hermes.connect(json.loads(ready.read_text())["listeners"][0]["url"]) as client:
        client.ping()
    process.send_signal(signal.SIGTERM)
    code = process.wait(DEADLINE_S)
    os.close(reading)
    os.close(writing)

    assert code == 0


def test_a_broker_outlives_the_reader_of_its_output(tmp_path: Path, wait_for: Wait) -> None:
    """A broker whose output goes into a pipe that is closed at the other end serves."""
    reading, writing = os.pipe()
    os.close(reading)
    process = shell(SERVE, tmp_path, stdout=writing)
    os.close(writing)
    wait_for(lambda: (tmp_path / "ready").exists() or process.poll() is not None, "it")

    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_S) == 0


def test_a_closed_output_is_an_error_of_commands_that_print(
    broker: RunningBroker, tmp_path: Path
) -> None:
    """A command does not swallow what it cannot print: exit code 1, and a sentence."""
    for line in ("streams", "topics", "version"):
        url = "" if line == "version" else f" --url {broker.url}"
        process = shell(f"{COMMAND} {line}{url} >&-", tmp_path, stderr=subprocess.PIPE)
        _, said = process.communicate(timeout=DEADLINE_S)

        assert process.returncode == 1, line
        assert (
            said == b"hermes: standard input or output is closed: redirect it, as in >/dev/null\n"
        )


@pytest.mark.parametrize(
    "variables",
    [
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
    ],
)
def test_any_name_is_shown_in_any_encoding(
    broker: RunningBroker, variables: dict[str, str]
) -> None:
    """A name that the output's encoding does not have is escaped."""
    with hermes.connect(broker.url) as client:
        client.publisher("preis.€.日本").send(b"x")

    done = run("topics", "--url", broker.url, variables=variables)

    assert done.returncode == 0, done.stderr
    assert b"preis." in done.stdout


# Strangers' names.


def test_no_name_gives_orders_to_a_terminal(broker: RunningBroker) -> None:
    """With any names of topics, durable names and clients, tables, lines and errors have no
    control character of theirs, and no row more."""
    evil = "e\x1b[31m\x07\x9b2J\u202e\x7f"
    with hermes.connect(broker.url, name=f"nice\n{evil}") as client:
        client.publisher(f"a.{evil}").send(b"x")
        subscription = client.subscribe("a.>", durable=f"job\nrow {evil}", start="earliest")
        subscription.receive(timeout=DEADLINE_S)
        subscription.commit()
        told = [
            run(*command, "--url", broker.url)
            for command in (
                ["topics"],
                ["durables", "list"],
                ["durables", "forget", f"job\nrow {evil}"],
                ["durables", "forget", f"no\n{evil}"],
                ["stats"],
                ["stats", "--all"],
                ["streams"],
                ["sub", ">", "--from", "earliest", "--count", "1", "--format", "text"],
                ["sub", f"b.{evil}..", "--count", "1"],
            )
        ]
        durables = json.loads(run("durables", "--json", "--url", broker.url).stdout)

    for done in told:
        for text in (done.stdout.decode(), done.stderr.decode()):
            left = set(text) - {"\n"}
            assert not [c for c in left if unicodedata.category(c) in ("Cc", "Cs")], done.args
            assert "\u202e" not in text
    assert "\nrow" not in told[1].stdout.decode()
    assert durables[0]["name"] == f"job\nrow {evil}"


def test_a_log_line_is_one_line(tmp_path: Path) -> None:
    """A log record about a stranger stays on one line, without secrets and control characters."""
    program = (
        "import logging, sys\n"
        "from hermes.cli.loglines import log_to_stderr\n"
        "log_to_stderr()\n"
        "log = logging.getLogger('hermes.x')\n"
        "log.warning('client %s at %s', 'a\\x1b[2J\\nhermes: all is well', 'tcp://al:pw@h:1')\n"
        "try:\n    raise ValueError('tcp://al:pw@h')\n"
        "except ValueError:\n    log.exception('it\\nfailed')\n"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)

    lines = done.stderr.decode().splitlines()
    assert lines[0] == "client a\\x1b[2J\\nhermes: all is well at tcp://al:***@h:1"
    assert lines[1] == "it\\nfailed"
    assert lines[-1] == "ValueError: tcp://al:***@h"


def test_no_error_repeats_a_password() -> None:
    """When anything is wrong with a URL, wherever it stands, neither the sentence nor the JSON has
    its password."""
    secret = "s3cr3t-token"
    urls = [f"tcp{slashes}alice:{secret}@127.0.0.1:1" for slashes in (":", ":/", "//", "://", "")]
    for url in urls:
        for arguments, variables in (
            (["stats", "--json", "--timeout", "1s"], {"HERMES_URL": url}),
            (["stats", "--timeout", "1s", "--url", url], {}),
            (["serve", "--transport", url, "--storage", "memory"], {}),
            (["serve", "--storage", f"{url}?x=1"], {}),
            (["serve", "--storage", "memory", "--plugin", url], {}),
            (["serve", "--storage", "memory", "--plugin", f"tokens?secret={secret}"], {}),
            ([url], {}),
            (["pub", "a", "x", url], {}),
        ):
            done = run(*arguments, variables=variables)

            assert done.returncode not in (0, 1), done
            assert secret.encode() not in done.stdout + done.stderr, arguments


# Files.


INTERRUPTED = """
import signal
from hermes.cli import files, main
write = files.OutputFile.write
def interrupted(file, text):
    write(file, text)
    signal.raise_signal(signal.SIGTERM)
files.OutputFile.write = interrupted
main()
"""


def test_a_signal_just_after_the_announcement_stops_in_order(tmp_path: Path) -> None:
    """A broker's place is told before its loop runs: a program may stop it at once."""
    ready = tmp_path / "ready"
    arguments = ("serve", "--storage", "memory", "--transport", "tcp://127.0.0.1:0")

    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, *arguments, "--ready-file", str(ready)],
        env=environment(),
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert b"tcp://127.0.0.1:" in done.stdout
    assert not ready.exists()


def test_a_ready_file_may_be_a_fifo(tmp_path: Path, wait_for: Wait) -> None:
    """A FIFO is written to once it is read, and stays one."""
    fifo = tmp_path / "ready"
    os.mkfifo(fifo)
    process = shell(SERVE, tmp_path, stdout=subprocess.DEVNULL)

    found = json.loads(fifo.read_text())
    process.send_signal(signal.SIGTERM)

    assert process.wait(DEADLINE_S) == 0
    assert found["pid"] == process.pid
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_an_output_file_keeps_what_is_special(tmp_path: Path) -> None:
    """A device is written to, a link's target is replaced, a directory, a socket and a place where
    nothing can be are refused."""
    OutputFile(Path("/dev/null"), "--x").write("x")
    OutputFile(Path("/dev/null"), "--x").remove()
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to("target")
    OutputFile(link, "--x").write("one")
    OutputFile(link, "--x").write("two")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        refused = [tmp_path, tmp_path / "socket", tmp_path / "no" / "x", target / "x"]
        loop = tmp_path / "loop"
        loop.symlink_to("loop")
        for path in (*refused, loop):
            with pytest.raises(Exception, match="cannot be written"):
                OutputFile(path, "--x")

    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert (link.is_symlink(), target.read_text()) == (True, "two")
    OutputFile(link, "--x").remove()
    assert (link.is_symlink(), target.exists()) == (True, False)


def test_a_stale_ready_file_goes_first(tmp_path: Path) -> None:
    """A ready file of an earlier run is gone even where the broker does not start."""
    ready = tmp_path / "ready"
    ready.write_text('{"pid": 1}')

    done = run("serve", "--storage", "nothing:x", "--ready-file", str(ready))

    assert done.returncode == 8
    assert not ready.exists()


@pytest.mark.parametrize("storage", ["mmap:~no-such-user/x", "sqlite:~no-such-user/x"])
def test_an_unknown_home_is_said(tmp_path: Path, storage: str) -> None:
    """A path of a user that there is not, or of a working directory that has gone, is an error of
    the command line."""
    unknown = run("serve", "--storage", storage, "--transport", "tcp://127.0.0.1:0")
    gone = shell(
        f"mkdir gone; cd gone; rmdir ../gone; {COMMAND} serve --storage {storage[:4]}x "
        "--transport tcp://127.0.0.1:0",
        tmp_path,
        stderr=subprocess.PIPE,
    )
    _, said = gone.communicate(timeout=DEADLINE_S)

    assert unknown.returncode == 2
    assert b"no home directory of a user 'no-such-user'" in unknown.stderr
    assert b"Traceback" not in unknown.stderr + said
    assert gone.returncode in (2, 8)


# Signals.


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT])
def test_signals_that_end_a_terminal_stop_a_broker_in_order(
    broker: RunningBroker, number: int
) -> None:
    """SIGHUP, twice as a terminal sends it, and SIGQUIT stop as SIGTERM does; the user's signals
    before it do nothing."""
    assert broker.process is not None
    with hermes.connect(broker.url) as client:
        broker.process.send_signal(signal.SIGUSR1)
        broker.process.send_signal(signal.SIGUSR2)
        client.ping()
    if number == signal.SIGHUP:
        broker.process.send_signal(number)

    assert broker.end(number) == 0
    assert not (broker.place / "ready.json").exists()


def test_nohup_stays_in_force(tmp_path: Path, wait_for: Wait) -> None:
    """A broker that was started with SIGHUP ignored goes on ignoring it."""
    process = shell(f"trap '' HUP; {SERVE}", tmp_path, stdout=subprocess.DEVNULL)
    ready = tmp_path / "ready"
    wait_for(ready.exists, "the ready file")

    process.send_signal(signal.SIGHUP)
    with hermes.connect(json.loads(ready.read_text())["listeners"][0]["url"]) as client:
        client.ping()
    process.send_signal(signal.SIGTERM)

    assert process.wait(DEADLINE_S) == 0


def test_inproc_is_refused_where_it_reaches_nobody() -> None:
    """A command is a process of its own, so a listener for its own process is a mistake."""
    done = run("serve", "--storage", "memory", "--transport", "inproc://x")

    assert done.returncode == 2
    assert b"inproc reaches clients in the broker's own process" in done.stderr


def test_commands_of_shipped_packages_say_what_they_do() -> None:
    """`hermes --help` has a line of their own for bridge and keys."""
    text = run("--help").stdout

    assert b"Pass messages between a broker and ZeroMQ programs." in text
    assert b"Brought by the package hermes_zmq" not in text
