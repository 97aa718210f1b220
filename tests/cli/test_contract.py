"""The promises of the command that scripts rely on, with real processes throughout."""

from __future__ import annotations

import errno
import json
import re
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.conftest import DEADLINE_S

if TYPE_CHECKING:
    from tests.cli.conftest import RunningBroker

pytestmark = pytest.mark.slow

Hermes = Callable[..., "subprocess.CompletedProcess[bytes]"]
Started = Callable[..., "subprocess.Popen[bytes]"]
MakeBroker = Callable[..., "RunningBroker"]
WaitFor = Callable[[Callable[[], bool], str], None]


def objects(output: bytes) -> list[dict[str, Any]]:
    """One JSON object per line."""
    return [json.loads(line) for line in output.splitlines()]


def test_ready_file_names_process_and_listeners_in_the_order_of_the_flags(
    make_broker: MakeBroker,
) -> None:
    """The ready file has the broker's pid and each listener's real URL, url first among
    addresses.
    """
    broker = make_broker("--transport", "tcp://127.0.0.1:0", "--transport", "tcp://[::1]:0")

    assert broker.process is not None
    assert broker.ready["pid"] == broker.process.pid
    first, second = broker.ready["listeners"]
    assert list(first)[:2] == ["transport", "url"]
    assert first["transport"] == second["transport"] == "tcp"
    assert first["url"].startswith("tcp://127.0.0.1:")
    assert second["url"].startswith("tcp://[::1]:")
    assert not first["url"].endswith(":0")


def test_serve_prints_where_it_listens_stores_and_what_it_keeps(broker: RunningBroker) -> None:
    """The bound URL, the data directory and the retention are on stdout."""
    assert broker.end() == 0

    output = (broker.place / "serve.out").read_text()
    assert broker.url in output
    assert str(broker.data) in output
    assert "10GiB" in output.replace(" ", "")


def test_a_storage_that_keeps_less_says_so(
    started: Started, wait_for: WaitFor, tmp_path: Path
) -> None:
    """The retention that is printed is what the storage keeps, not what it was asked for."""
    ready = tmp_path / "ready.json"
    broker = started(
        "serve",
        "--transport",
        "tcp://127.0.0.1:0",
        "--storage",
        "memory:?limit=33554432",
        "--ready-file",
        ready,
    )
    wait_for(ready.exists, "the ready file")
    broker.send_signal(signal.SIGTERM)
    output, _ = broker.communicate(timeout=DEADLINE_S)

    assert b"default keeps 32MiB" in output


def test_messages_cross_processes_with_every_field(hermes: Hermes, broker: RunningBroker) -> None:
    """`sub --json` shows what `pub` sends: topic, stream, sequence, timestamp and payload."""
    assert hermes("pub", "md.a", "x", url=broker.url).returncode == 0
    assert hermes("pub", "md.b", "--stdin", stdin=b"one\n\xfftwo", url=broker.url).returncode == 0

    got = hermes("sub", "md.>", "--from", "earliest", "--count", "3", "--json", url=broker.url)

    assert got.returncode == 0, got.stderr
    found = objects(got.stdout)
    assert [m["sequence"] for m in found] == [1, 2, 3]
    assert [m["topic"] for m in found] == ["md.a", "md.b", "md.b"]
    assert {m["stream"] for m in found} == {"default"}
    assert all(m["timestamp_ns"] > 1_600_000_000 * 10**9 for m in found)
    assert [m.get("payload") for m in found] == ["x", "one", None]
    assert found[2]["payload_base64"] == "/3R3bw=="
    assert list(found[0]) == ["topic", "stream", "sequence", "timestamp_ns", "payload"]


def test_kill_and_restart_keep_messages_and_sequences(
    hermes: Hermes, broker: RunningBroker
) -> None:
    """After `kill -9` and a restart on the same directory, everything is there under its
    sequence.
    """
    hermes("pub", "md.a", "--stdin", stdin=b"1\n2\n3\n", url=broker.url)
    sub = ("sub", "md.>", "--from", "earliest", "--json", "--count")
    before = hermes(*sub, "3", url=broker.url)

    broker.end(signal.SIGKILL)
    broker.start()
    after = hermes(*sub, "3", url=broker.url)
    hermes("pub", "md.a", "4", url=broker.url)
    more = hermes(*sub, "4", url=broker.url)

    assert before.returncode == after.returncode == more.returncode == 0
    assert after.stdout == before.stdout
    assert [m["sequence"] for m in objects(more.stdout)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "lines",
    [
        b"",
        b"\n",
        b"\n\n\nx",
        b"no newline at the end",
        b"windows\r\nlines\r\n",
        b"\0\xff\xfe\n\x80binary\n",
        b"x" * 5_000_000 + b"\nshort\n",
        bytes(range(256)) * 4096,
        b"".join(b"%d\n" % n * (n % 3) for n in range(200_000)),
    ],
    ids=[
        "empty",
        "newline",
        "empty-lines",
        "unterminated",
        "crlf",
        "binary",
        "long-line",
        "all-bytes",
        "many-lines",
    ],
)
def test_stdin_comes_back_byte_for_byte(
    hermes: Hermes, broker: RunningBroker, lines: bytes
) -> None:
    """Lines that go in by `pub --stdin` come out of `sub --format raw`, each line a message."""
    count = lines.count(b"\n") + (1 if lines and not lines.endswith(b"\n") else 0)

    put = hermes("pub", "log", "--stdin", "--json", stdin=lines, url=broker.url)

    assert put.returncode == 0, put.stderr
    assert json.loads(put.stdout)["messages"] == count
    if count:
        sub = ("sub", "log", "--from", "earliest", "--count", str(count), "--format", "raw")
        got = hermes(*sub, url=broker.url)
        assert got.returncode == 0, got.stderr
        assert got.stdout == lines + (b"" if lines.endswith(b"\n") else b"\n")


def test_stdin_lines_go_out_as_they_are_written(
    started: Started, hermes: Hermes, broker: RunningBroker
) -> None:
    """A line reaches subscribers while `pub --stdin` still waits for the next one."""
    publisher = started("pub", "log", "--stdin", url=broker.url, stdin=subprocess.PIPE)
    assert publisher.stdin is not None
    publisher.stdin.write(b"first\n")
    publisher.stdin.flush()

    got = hermes("sub", "log", "--from", "earliest", "--count", "1", url=broker.url)

    assert got.stdout == b"first\n"
    assert publisher.poll() is None


@pytest.mark.parametrize("ack", ["none", "appended", "durable"])
def test_every_ack_level_ends_with_success(hermes: Hermes, broker: RunningBroker, ack: str) -> None:
    """`pub` ends with 0 at each level, and the messages are there."""
    put = hermes("pub", "a", "--size", "100", "--count", "1000", "--ack", ack, url=broker.url)
    got = hermes("sub", "a", "--from", "earliest", "--count", "1000", url=broker.url)

    assert (put.returncode, got.returncode) == (0, 0), put.stderr
    assert len(got.stdout) == 101 * 1000


def test_rate_spaces_messages(hermes: Hermes, broker: RunningBroker) -> None:
    """`--rate 20` takes at least the time between the first and the fifth message."""
    put = hermes("pub", "a", "x", "--count", "5", "--rate", "20", "--json", url=broker.url)

    assert put.returncode == 0, put.stderr
    assert json.loads(put.stdout)["seconds"] >= 4 / 20


def test_a_pause_on_stdin_is_no_credit_for_a_burst(
    started: Started, hermes: Hermes, broker: RunningBroker
) -> None:
    """After a pause of the writer, `--rate` still spaces the messages that follow."""
    publisher = started(
        "pub", "a", "--stdin", "--rate", "20", "--json", url=broker.url, stdin=subprocess.PIPE
    )
    assert publisher.stdin is not None
    publisher.stdin.write(b"1\n")
    publisher.stdin.flush()
    hermes("sub", "a", "--from", "earliest", "--count", "1", url=broker.url)
    hermes("sub", "a", "--duration", "1", url=broker.url)  # the pause
    publisher.stdin.write(b"2\n" * 10)
    publisher.stdin.close()
    publisher.stdin = None
    sub = ("sub", "a", "--from", "earliest", "--count", "11", "--json")

    times = [m["timestamp_ns"] for m in objects(hermes(*sub, url=broker.url).stdout)]

    # Nine intervals, less what the first is late by on a busy machine; with credit there are none.
    assert times[-1] - times[1] >= 4 * 50_000_000


def test_sub_times_out_with_3(hermes: Hermes, broker: RunningBroker) -> None:
    """With a count that is not reached in time: exit code 3, and what came is out."""
    hermes("pub", "a", "x", url=broker.url)

    got = hermes(
        "sub", "a", "--from", "earliest", "--count", "2", "--duration", "0.5", url=broker.url
    )

    assert got.returncode == 3
    assert got.stdout == b"x\n"


def test_duration_without_count_ends_with_0(hermes: Hermes, broker: RunningBroker) -> None:
    """The end of the time is what was asked for; a pattern that matches nothing is fine."""
    got = hermes("sub", "nobody.>", "--duration", "0.2", url=broker.url)

    assert (got.returncode, got.stdout, got.stderr) == (0, b"", b"")


def test_gap_ends_with_4_and_names_what_is_missing(hermes: Hermes, make_broker: MakeBroker) -> None:
    """A subscription that retention has passed by ends with 4, and says which sequences are
    gone.
    """
    broker = make_broker("--segment", "1MiB", "--retention", "2MiB")
    hermes("pub", "a", "--size", "64KiB", "--count", "100", url=broker.url)

    got = hermes("sub", "a", "--from", "1", "--count", "100", url=broker.url)

    assert got.returncode == 4, got.stderr
    assert b"1" in got.stderr


def test_sub_from_a_sequence_and_a_time(hermes: Hermes, broker: RunningBroker) -> None:
    """`--from N` begins with that sequence; a time in the past begins with the oldest message."""
    hermes("pub", "a", "--stdin", stdin=b"1\n2\n3\n", url=broker.url)

    by_sequence = hermes("sub", "a", "--from", "3", "--count", "1", url=broker.url)
    by_time = hermes("sub", "a", "--from", "2001-01-01T00:00", "--count", "3", url=broker.url)
    by_epoch = hermes("sub", "a", "--from", "@1000000000.5", "--count", "3", url=broker.url)

    assert by_sequence.stdout == b"3\n"
    assert by_time.stdout == by_epoch.stdout == b"1\n2\n3\n"


def test_last_gives_the_newest_of_each_topic(hermes: Hermes, broker: RunningBroker) -> None:
    """`--from last` shows one message per topic, the newest."""
    hermes("pub", "a.x", "--stdin", stdin=b"1\n2\n", url=broker.url)
    hermes("pub", "a.y", "--stdin", stdin=b"3\n4\n", url=broker.url)

    got = hermes("sub", "a.*", "--from", "last", "--count", "2", url=broker.url)

    assert sorted(got.stdout.split()) == [b"2", b"4"]


def test_durable_goes_on_where_it_stopped(hermes: Hermes, broker: RunningBroker) -> None:
    """A second run under the same name gets what the first has not written."""
    hermes("pub", "a", "--stdin", stdin=b"1\n2\n3\n4\n", url=broker.url)
    sub = ("sub", "a", "--durable", "me", "--from", "earliest", "--count", "2")

    first, second = hermes(*sub, url=broker.url), hermes(*sub, url=broker.url)

    assert (first.stdout, second.stdout) == (b"1\n2\n", b"3\n4\n"), first.stderr + second.stderr


def test_durable_goes_on_behind_a_gap_it_was_told_of(
    hermes: Hermes, make_broker: MakeBroker
) -> None:
    """Retention passes a durable subscription by: one run ends with 4, the next goes on."""
    broker = make_broker("--segment", "1MiB", "--retention", "2MiB")
    sub = ("sub", "a", "--durable", "me", "--from", "earliest", "--count", "1", "--json")
    hermes("pub", "a", "--size", "64KiB", url=broker.url)
    hermes(*sub, url=broker.url)
    hermes("pub", "a", "--size", "64KiB", "--count", "100", url=broker.url)

    told, after = hermes(*sub, url=broker.url), hermes(*sub, url=broker.url)

    assert (told.returncode, told.stdout) == (4, b"")
    assert after.returncode == 0, after.stderr
    oldest = hermes("sub", "a", "--from", "earliest", "--count", "1", "--json", url=broker.url)
    assert after.stdout == oldest.stdout


def test_a_durable_replay_of_much_is_whole(hermes: Hermes, broker: RunningBroker) -> None:
    """Positions are committed in the midst of a long replay, and nothing is missing or doubled."""
    hermes("pub", "a", "--size", "1000", "--count", "60000", url=broker.url)

    got = hermes(
        *("sub", "a", "--durable", "me", "--from", "earliest", "--count", "60000", "--json"),
        url=broker.url,
    )

    assert got.returncode == 0, got.stderr
    assert [m["sequence"] for m in objects(got.stdout)] == list(range(1, 60001))


def test_text_shows_topic_sequence_and_payload(hermes: Hermes, broker: RunningBroker) -> None:
    """`--format text` has all three on a line."""
    hermes("pub", "md.a", "hello", url=broker.url)

    got = hermes(
        "sub", "md.>", "--from", "earliest", "--count", "1", "--format", "text", url=broker.url
    )

    assert got.stdout.split() == [b"md.a", b"1", b"hello"]


def test_a_second_stream_has_sequences_of_its_own(hermes: Hermes, make_broker: MakeBroker) -> None:
    """`--stream md='md.>'` gives the family its own log; the rest goes to default."""
    broker = make_broker("--stream", "md=md.>")
    hermes("pub", "md.a", "x", url=broker.url)
    hermes("pub", "other", "y", url=broker.url)

    got = hermes("sub", ">", "--from", "earliest", "--count", "2", "--json", url=broker.url)

    assert {(m["stream"], m["sequence"]) for m in objects(got.stdout)} == {
        ("md", 1),
        ("default", 1),
    }


def test_a_closed_pipe_is_noticed_without_a_message(
    started: Started, hermes: Hermes, broker: RunningBroker
) -> None:
    """`hermes sub ... | head -1` ends although nothing more is published."""
    hermes("pub", "a", "x", url=broker.url)
    subscriber = started("sub", "a", "--from", "earliest", url=broker.url)
    assert subscriber.stdout is not None
    assert subscriber.stdout.readline() == b"x\n"

    subscriber.stdout.close()

    assert subscriber.wait(DEADLINE_S) == 141


def test_ctrl_c_ends_a_subscriber_with_130(
    started: Started, hermes: Hermes, broker: RunningBroker
) -> None:
    """SIGINT while waiting: exit code 130, no traceback, and what came before is out."""
    hermes("pub", "a", "x", url=broker.url)
    subscriber = started("sub", "a", "--from", "earliest", url=broker.url)
    assert subscriber.stdout is not None
    assert subscriber.stdout.readline() == b"x\n"

    subscriber.send_signal(signal.SIGINT)
    _, errors = subscriber.communicate(timeout=DEADLINE_S)

    assert subscriber.returncode == 130
    assert b"Traceback" not in errors


def test_a_closed_pipe_ends_a_subscriber_quietly(
    started: Started, hermes: Hermes, broker: RunningBroker
) -> None:
    """When the reader of its output goes away, it ends with 141 and says nothing."""
    hermes("pub", "a", "--size", "1KiB", "--count", "2000", url=broker.url)
    subscriber = started("sub", "a", "--from", "earliest", url=broker.url)
    assert subscriber.stdout is not None
    assert subscriber.stdout.readline()

    subscriber.stdout.close()

    assert subscriber.wait(DEADLINE_S) == 141
    assert subscriber.stderr is not None
    assert subscriber.stderr.read() == b""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_stops_in_order_on_a_signal(broker: RunningBroker, number: int) -> None:
    """SIGTERM and SIGINT end the broker with 0, without a traceback."""
    assert broker.end(number) == 0
    assert "Traceback" not in broker.complaint()


@pytest.mark.parametrize("command", ["streams", "topics", "stats"])
def test_queries_answer_in_json(hermes: Hermes, broker: RunningBroker, command: str) -> None:
    """`streams`, `topics` and `stats` print one JSON document, and a table without --json."""
    hermes("pub", "md.a", "x", url=broker.url)

    answer = hermes(command, "--json", url=broker.url)
    table = hermes(command, url=broker.url)

    assert answer.returncode == table.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)
    assert table.stdout


def test_durable_names_are_listed_and_forgotten(hermes: Hermes, broker: RunningBroker) -> None:
    """`durables` lists a name that `sub --durable` has left, `forget` takes it away, and says so if
    there is none."""
    hermes("pub", "md.a", "x", url=broker.url)
    hermes("sub", ">", "--durable", "job", "--from", "earliest", "--count", "1", url=broker.url)

    listed = hermes("durables", "--json", url=broker.url)
    table = hermes("durables", "list", url=broker.url)
    forgotten = hermes("durables", "forget", "job", url=broker.url)
    again = hermes("durables", "forget", "job", url=broker.url)

    assert json.loads(listed.stdout) == [
        {"name": "job", "identity": None, "positions": {"default": 1}, "in_use": False}
    ]
    assert b"default 1" in table.stdout
    assert (forgotten.returncode, forgotten.stdout) == (0, b"forgot job\n")
    assert again.returncode == 6
    assert json.loads(hermes("durables", "--json", url=broker.url).stdout) == []


def test_counters_are_shown_without_what_is_0(hermes: Hermes, make_broker: MakeBroker) -> None:
    """The tables have the connections and whatever is not 0, and say how much they leave out; --all
    leaves out nothing."""
    broker = make_broker("--transport", "udp://127.0.0.1:0")

    table = hermes("stats", url=broker.url).stdout.decode()
    whole = hermes("stats", "--all", url=broker.url).stdout.decode()
    answer = json.loads(hermes("stats", "--json", url=broker.url).stdout)
    (counters,) = answer["listeners"]

    assert re.search(r"^connections +1$", table, re.M)
    assert re.search(r"^connections lost +0$", table, re.M)
    assert counters["turned_away"] == 0
    assert "turned away" not in table
    assert re.search(r"^and \d+ counters at 0: --all shows them$", table, re.M)
    assert "violations" not in table
    assert "recycled" not in table
    assert re.search(r"^uptime +\d", table, re.M)
    for name in (*counters, *answer["streams"]["default"], "violations"):
        assert name == "url" or re.search(rf"^{name.replace('_', ' ')} ", whole, re.M), name
    assert "at 0" not in whole


def test_config_file_and_flags_fill_the_same_configuration(
    hermes: Hermes, make_broker: MakeBroker, tmp_path: Path
) -> None:
    """A stream from the file exists beside one from the flags."""
    file = tmp_path / "broker.toml"
    file.write_text('[[streams]]\nname = "md"\npatterns = ["md.>"]\n')
    broker = make_broker("--config", str(file), "--stream", "log=log.>")

    names = {
        stream["name"] for stream in json.loads(hermes("streams", "--json", url=broker.url).stdout)
    }

    assert names == {"default", "md", "log"}


def test_an_interrupted_publisher_says_how_far_it_got(
    started: Started, hermes: Hermes, broker: RunningBroker
) -> None:
    """SIGINT while `pub --stdin` waits for a line: 130, and the lines before it are in the log."""
    publisher = started("pub", "log", "--stdin", url=broker.url, stdin=subprocess.PIPE)
    assert publisher.stdin is not None
    publisher.stdin.write(b"first\nsecond\n")
    publisher.stdin.flush()
    got = hermes("sub", "log", "--from", "earliest", "--count", "2", url=broker.url)
    assert got.stdout == b"first\nsecond\n"

    publisher.send_signal(signal.SIGINT)
    _, errors = publisher.communicate(timeout=DEADLINE_S)

    assert publisher.returncode == 130
    assert b"interrupted after 2 messages" in errors
    assert b"2 of them are acknowledged" in errors
    assert b"Traceback" not in errors


def test_a_second_signal_forces_the_end(
    started: Started, hermes: Hermes, make_broker: MakeBroker, tmp_path: Path, wait_for: WaitFor
) -> None:
    """With a subscriber that does not read, the first signal waits for it, the second does not."""
    file = tmp_path / "broker.toml"
    file.write_text('[limits]\nstop = "10m"\n')
    broker = make_broker("--config", str(file))
    hermes("pub", "a", "--size", "64KiB", "--count", "500", url=broker.url)
    subscriber = started("sub", "a", "--from", "earliest", url=broker.url)
    assert subscriber.stdout is not None
    assert subscriber.stdout.read(1)  # and no more: its pipe fills, then its socket
    assert broker.process is not None

    address = ("127.0.0.1", int(broker.url.rpartition(":")[2]))

    def closed() -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(address) == errno.ECONNREFUSED

    broker.process.send_signal(signal.SIGTERM)
    wait_for(closed, "a closed door")
    assert broker.process.poll() is None
    broker.process.send_signal(signal.SIGTERM)

    assert broker.process.wait(DEADLINE_S) == 130
    assert "Traceback" not in broker.complaint()


def test_the_ready_file_goes_with_the_broker(broker: RunningBroker) -> None:
    """After an orderly end nobody is told of a broker that is not there."""
    assert (broker.place / "ready.json").exists()

    broker.end()

    assert not (broker.place / "ready.json").exists()


def test_text_shows_what_a_terminal_would_obey(hermes: Hermes, broker: RunningBroker) -> None:
    """Control characters and bytes that are not UTF-8 are escaped in text, and only there."""
    payload = b"a\x1b[31mb\tc\r\xffd"
    hermes("pub", "a", "--stdin", stdin=payload, url=broker.url)
    sub = ("sub", "a", "--from", "earliest", "--count", "1", "--format")

    text, raw = hermes(*sub, "text", url=broker.url), hermes(*sub, "raw", url=broker.url)

    assert text.stdout == b"a 1 a\\x1b[31mb\tc\\r\\xffd\n"
    assert raw.stdout == payload + b"\n"


def test_a_line_over_the_limit_is_named_and_those_before_it_are_published(
    hermes: Hermes, make_broker: MakeBroker, tmp_path: Path
) -> None:
    """Exit code 2 and the line's number; every line before it is in the log, none after it."""
    file = tmp_path / "broker.toml"
    file.write_text('[limits]\nmessage = "1KiB"\n')
    broker = make_broker("--config", str(file))

    put = hermes("pub", "a", "--stdin", stdin=b"1\n2\n" + b"x" * 1025 + b"\n4\n", url=broker.url)
    got = hermes(
        "sub", "a", "--from", "earliest", "--count", "3", "--duration", "1", url=broker.url
    )

    assert put.returncode == 2
    assert b"line 3 " in put.stderr
    assert got.returncode == 3
    assert got.stdout == b"1\n2\n"


@pytest.mark.parametrize("count", [1, 2, 4, 9])
def test_count_bounds_the_lines_of_stdin(hermes: Hermes, broker: RunningBroker, count: int) -> None:
    """`--stdin --count N` publishes the first N lines, or all if there are fewer."""
    put = hermes(
        "pub", "a", "--stdin", "--count", str(count), "--json", stdin=b"1\n\n3\n4", url=broker.url
    )

    assert put.returncode == 0
    assert json.loads(put.stdout)["messages"] == min(count, 4)
