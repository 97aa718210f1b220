"""The plugin ``tokens``: users from a file, as a broker and its clients see them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import zmq

import hermes
from hermes.broker import Broker
from hermes.errors import AuthenticationFailed, InvalidConfig, InvalidUrl, Refused
from hermes.plugins.discovery import default_plugins
from hermes.spi.hooks import Denial, Grant
from hermes.spi.transport import Peer
from hermes_tokens.engine import Gate, Tokens
from hermes_tokens.users import SETTLED_NS
from hermes_zmq import doors

ALICE, BOB = "alice-has-a-long-token", "bob-has-another-token"
FILE = f"""
[users.alice]
token = "{ALICE}"
publish = ["md.>"]
subscribe = ["md.>", "orders.alice.*"]
inspect = true

[users.bob]
token_sha256 = "{hashlib.sha256(BOB.encode()).hexdigest()}"
subscribe = ["md.*"]
forget = true

[users.carol]
proven = true
publish = [">"]
"""
COMMAND = [sys.executable, "-m", "hermes"]
DEADLINE_S = 60
STRANGER = Peer("tcp", "127.0.0.1:1", local=False)


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    """A file of users."""
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.fixture
def users(tmp_path: Path) -> Path:
    """A file with three users."""
    return write(tmp_path / "users.toml", FILE)


@pytest.fixture
def serve(users: Path) -> Iterator[Broker]:
    """A broker that asks for tokens."""
    with Broker(
        listeners=["tcp://127.0.0.1:0"], storage="memory:", plugins={"tokens": {"file": str(users)}}
    ) as broker:
        yield broker


def connect(stack: ExitStack, broker: Broker, user: str, token: str) -> Any:
    """A client of ours."""
    url = broker.url.replace("://", f"://{user}:{token}@")
    return stack.enter_context(hermes.connect(url))


def test_users_do_what_they_may(serve: Broker) -> None:
    """A client that shows the token is welcome, by URL or by argument, and bound to the patterns granted."""
    with ExitStack() as stack:
        alice = connect(stack, serve, "alice", ALICE)
        bob = stack.enter_context(
            hermes.connect(serve.url, identity="bob", credentials={"token": BOB})
        )
        feed = bob.subscribe("md.*")

        with alice.publisher("md.a") as publisher:
            publisher.send(b"x")

        assert next(iter(feed)).payload == b"x"
        with pytest.raises(Refused, match=r"'bob' may not subscribe to all of 'md.>'"):
            bob.subscribe("md.>")
        with pytest.raises(Refused, match="not_allowed"):
            bob.stats()
        assert alice.durables() == []
        assert not bob.forget_durable("job")
        with pytest.raises(Refused, match="'alice' may not ask for 'forget'"):
            alice.forget_durable("job")
        with pytest.raises(Refused, match="not_allowed"):
            publish(bob, "md.a")


def publish(client: Any, topic: str) -> None:
    """Publish one message and wait for its acknowledgement."""
    with client.publisher(topic) as publisher:
        publisher.send(b"y")
        publisher.flush()


@pytest.mark.parametrize(
    ("user", "token"),
    [("alice", BOB), ("alice", ""), ("mallory", ALICE), ("carol", ""), ("bob", BOB + "x")],
)
def test_others_are_refused(serve: Broker, user: str, token: str) -> None:
    """A wrong token, none, another user's, and a user who has none: all are told the same."""
    with pytest.raises(AuthenticationFailed, match="not believed"), ExitStack() as stack:
        connect(stack, serve, user, token)


def test_whoever_says_nothing_is_refused(serve: Broker) -> None:
    """A client without identity and credentials does not come in."""
    with pytest.raises(AuthenticationFailed):
        hermes.connect(serve.url)


def test_a_broker_with_tokens_may_listen_anywhere(users: Path) -> None:
    """An address that other machines reach needs no insecure=yes."""
    with Broker(
        listeners=["tcp://0.0.0.0:0"], storage="memory:", plugins={"tokens": {"file": str(users)}}
    ) as broker:
        assert broker.url.startswith("tcp://0.0.0.0:")


@pytest.mark.parametrize("at", ["zmq+tcp://{}127.0.0.1:0", "zmq+ipc://{}{}/door"])
def test_zeromq_programs_are_a_user_that_the_listener_names(
    users: Path, tmp_path: Path, at: str
) -> None:
    """Their messages are bound to that user's patterns; nobody is shown the token."""
    with Broker(
        listeners=[at.format(f"alice:{ALICE}@", tmp_path), "inproc://named-user"],
        storage="memory:",
        plugins={"tokens": {"file": str(users)}},
    ) as broker:
        with ExitStack() as stack:
            alice = stack.enter_context(
                hermes.connect(
                    "inproc://named-user", identity="alice", credentials={"token": ALICE}
                )
            )
            feed = alice.subscribe("md.>", start="earliest")
            door = broker.listeners[0].doors["push"]
            program = stack.enter_context(stack.enter_context(zmq.Context()).socket(zmq.PUSH))
            program.connect(door)

            program.send_multipart([b"orders.alice.1", b"not hers"])
            program.send_multipart([b"md.a", b"hers"])

            message = feed.receive(timeout=DEADLINE_S)
            assert (message.topic, message.payload) == ("md.a", b"hers")

        assert ALICE not in str(broker.listeners)


def until(condition: Any) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Warnings of the doors."""
    return [found.getMessage() for found in caplog.records if found.name == "hermes.zmq"]


@pytest.mark.parametrize(
    ("role", "kind", "subscribes"), [("push", zmq.PUSH, False), ("sub", zmq.SUB, True)]
)
def test_a_door_with_a_wrong_token_backs_off(
    users: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    role: str,
    kind: int,
    subscribes: bool,
) -> None:
    """A door says once why it was refused, waits twice as long each time, and is accepted, to begin
    again, when the users' file has been mended."""
    monkeypatch.setattr("hermes_zmq.doors.KNOCK_MAX_NS", 8 * doors.KNOCK_MIN_NS // 100)
    monkeypatch.setattr("hermes_zmq.doors.KNOCK_MIN_NS", doors.KNOCK_MIN_NS // 100)
    write(users, FILE.replace(ALICE, "another-token-of-hers"))
    with (
        Broker(
            listeners=[
                f"zmq+tcp://alice:{ALICE}@127.0.0.1:0?doors={role}&pattern=md.>",
                "tcp://127.0.0.1:0",
            ],
            storage="memory:",
            plugins={"tokens": {"file": str(users)}},
        ) as broker,
        ExitStack() as stack,
    ):
        listener = broker.listeners[0]
        program = stack.enter_context(stack.enter_context(zmq.Context()).socket(kind))
        program.linger = 0
        program.connect(listener.doors[role])
        if subscribes:
            program.subscribe(b"md.")
        else:
            program.send_multipart([b"md.a", b"x"])

        def turned_away() -> int:
            return int(broker.stats()["listeners"][0][f"{role}_turned_away"])

        begun = time.monotonic()
        until(lambda: turned_away() >= 6)
        took = time.monotonic() - begun
        write(users, FILE)
        url = broker.listeners[1].url.replace("://", f"://alice:{ALICE}@")
        alice = stack.enter_context(hermes.connect(url))
        if subscribes:

            def arrives() -> bool:
                publish(alice, "md.a")
                return bool(program.poll(10))

            until(arrives)
            assert program.recv_multipart() == [b"md.a", b"y"]
        else:
            feed = alice.subscribe("md.>", start="earliest")
            assert feed.receive(timeout=DEADLINE_S).payload == b"x"

        assert took > (10 + 20 + 40 + 80 + 80) / 1000 * 0.9
        assert len([said for said in warnings_of(caplog) if "tries again" in said]) == 1
        assert ALICE not in caplog.text


@pytest.mark.parametrize("at", ["zmq+tcp://127.0.0.1:0", "zmq+ipc:///somewhere/door"])
def test_doors_for_zeromq_programs_need_a_user(users: Path, at: str) -> None:
    """A broker does not start with doors it would never let anybody through."""
    plugins = {"tokens": {"file": str(users)}}

    with pytest.raises(InvalidUrl, match=r"USER:TOKEN@\.\.\..*doors=router"):
        Broker(listeners=[at], storage="memory:", plugins=plugins).open()


def test_a_door_for_hermes_clients_only_needs_no_user(users: Path) -> None:
    """Hermes clients say themselves who they are."""
    with (
        Broker(
            listeners=["zmq+tcp://127.0.0.1:0?doors=router"],
            storage="memory:",
            plugins={"tokens": {"file": str(users)}},
        ) as broker,
        ExitStack() as stack,
    ):
        assert connect(stack, broker, "alice", ALICE).limits


CASTER = "udp://{}239.254.0.1:0?interface=127.0.0.1&pattern={}"


def test_who_casts_to_a_group_is_a_user_that_the_listener_names(users: Path) -> None:
    """The caster may cast what that user may subscribe to; nobody is shown the token."""
    plugins = {"tokens": {"file": str(users)}}

    with Broker(
        listeners=[CASTER.format(f"alice:{ALICE}@", "md.>")], storage="memory:", plugins=plugins
    ) as broker:
        assert ALICE not in str(broker.listeners)


@pytest.mark.parametrize(
    ("user", "pattern"),
    [("", "md.>"), ("alice:wrong@", "md.>"), ("bob:{BOB}@", ">")],
    ids=["nobody", "a wrong token", "not all topics"],
)
def test_who_may_not_subscribe_may_not_cast(users: Path, user: str, pattern: str) -> None:
    """A broker does not start with a group to which nothing would ever be cast."""
    plugins = {"tokens": {"file": str(users)}}
    listener = CASTER.format(user.format(BOB=BOB), pattern)

    with pytest.raises(InvalidUrl, match=r"does not admit who casts.*USER:TOKEN@") as raised:
        Broker(listeners=[listener], storage="memory:", plugins=plugins).open()
    assert BOB not in str(raised.value)


def test_a_transport_that_has_proven_the_peer_is_believed_where_the_file_says_so(
    users: Path,
) -> None:
    """``proven`` users need no token if the transport proved who they are; others still do."""
    gate = Gate(users)

    def ask(proven: str | None, claimed: str | None = None) -> Grant | Denial:
        peer = Peer("zmq+tcp", "somewhere", local=False, identity=proven)
        return gate.hermes_authenticate(peer, claimed, {})

    assert ask("carol") == Grant("carol", publish=(">",))
    assert isinstance(ask("alice"), Denial)
    assert isinstance(ask("carol", "alice"), Denial)
    assert isinstance(ask(None, "carol"), Denial)


def test_users_come_and_go_without_a_restart(users: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A changed file counts from the next connection on; while it is broken nobody comes in."""
    gate = Gate(users)
    shown = {"token": ALICE}

    write(users, FILE.replace("users.alice", "users.alicia"))
    after_rename = [gate.hermes_authenticate(STRANGER, who, shown) for who in ("alice", "alicia")]
    write(users, FILE + "\nnonsense = ")
    broken = gate.hermes_authenticate(STRANGER, "alicia", shown)
    write(users, FILE)
    mended = gate.hermes_authenticate(STRANGER, "alice", shown)

    assert isinstance(after_rename[0], Denial)
    assert isinstance(after_rename[1], Grant)
    assert isinstance(broken, Denial)
    assert "is not TOML" in caplog.text
    assert ALICE not in caplog.text
    assert isinstance(mended, Grant)


def test_a_rewrite_of_the_same_size_and_time_is_noticed(users: Path) -> None:
    """A program that keeps a file's size and sets its time back has changed it all the same."""
    before = users.stat()
    while abs(time.time_ns() - before.st_ctime_ns) <= SETTLED_NS:  # the change is news for so long
        time.sleep(0.01)
    gate = Gate(users)
    shown = {"token": ALICE}

    assert isinstance(gate.hermes_authenticate(STRANGER, "alice", shown), Grant)
    with users.open("r+") as file:
        file.write(FILE.replace("users.alice", "users.felix"))
    os.utime(users, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert users.stat().st_size == before.st_size
    assert isinstance(gate.hermes_authenticate(STRANGER, "alice", shown), Denial)
    assert isinstance(gate.hermes_authenticate(STRANGER, "felix", shown), Grant)


def test_changes_in_quick_succession_are_noticed(
    users: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rewrites within the grain of a file system's times, which tell nothing then, are two."""
    monkeypatch.setattr("hermes_tokens.users._stamp_of", lambda status: (status.st_ino,))
    monkeypatch.setattr("hermes_tokens.users.SETTLED_NS", DEADLINE_S * 10**9)
    gate = Gate(users)
    shown = {"token": ALICE}
    for name in ("felix", "alice"):
        with users.open("r+") as file:
            file.write(FILE.replace("users.alice", f"users.{name}"))

        assert isinstance(gate.hermes_authenticate(STRANGER, name, shown), Grant)


def test_a_pipe_is_refused_at_once(users: Path) -> None:
    """Nobody writes to it, and the broker does not wait for that: neither at the start nor later."""
    gate = Gate(users)
    users.unlink()
    os.mkfifo(users, 0o600)

    with pytest.raises(InvalidConfig, match="no regular file"):
        Gate(users)
    assert isinstance(gate.hermes_authenticate(STRANGER, "alice", {"token": ALICE}), Denial)


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        (FILE, 0o640, "chmod 600"),
        (FILE, 0o604, "chmod 600"),
        ("users = 3", 0o600, "users"),
        ("[users.a]\ntoken = 'short'", 0o600, "length >= 16"),
        ("[users.a]\npublish = ['>']", 0o600, "proven = true"),
        (f"[users.a]\ntoken = '{ALICE}'\npublish = ['a..b']", 0o600, "not a legal pattern"),
        (f"[users.a]\ntoken = '{ALICE}'\npublihs = ['a']", 0o600, "publihs"),
        (f"[users.a]\ntoken = '{ALICE}'\ntoken_sha256 = '{'0' * 64}'", 0o600, "not both"),
        ("[users.a]\ntoken_sha256 = 'xyz'", 0o600, "regex"),
        (f"[users.a]\ntoken = {ALICE}", 0o600, r"not TOML \(at line 2"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_at_the_start(
    tmp_path: Path, text: str, mode: int, words: str
) -> None:
    """The message says what is wrong, and never shows a token."""
    path = write(tmp_path / "users.toml", text, mode)

    with pytest.raises(InvalidConfig, match=words) as caught:
        Tokens().activate(Tokens.options(file=str(path)))

    assert ALICE not in str(caught.value)


def test_a_missing_file_is_refused_at_the_start(tmp_path: Path) -> None:
    """No file, or none named, keeps the broker from starting."""
    for options in ({}, {"file": str(tmp_path / "none.toml")}):
        with pytest.raises(InvalidConfig, match=r"users\.toml|cannot be read"):
            Broker(listeners=["inproc:"], storage="memory:", plugins={"tokens": options}).open()


def test_the_built_in_plugin_is_installed() -> None:
    """The plugin is found by its entry point, and works here."""
    assert default_plugins().plugin("tokens").probe() is None


def test_no_token_is_ever_logged(serve: Broker, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a right nor a wrong token shows up in the log, whatever its level."""
    caplog.set_level(logging.DEBUG)

    with ExitStack() as stack:
        connect(stack, serve, "alice", ALICE)
        with pytest.raises(AuthenticationFailed):
            connect(stack, serve, "alice", "a-wrong-token-of-hers")

    assert "was refused" in caplog.text
    assert ALICE not in caplog.text
    assert "a-wrong-token" not in caplog.text


def test_the_command_line_serves_users(users: Path, tmp_path: Path) -> None:
    """`hermes serve` with the plugin in its configuration, and users by HERMES_URL."""
    ready, config = tmp_path / "ready.json", tmp_path / "broker.toml"
    config.write_text(f"[plugins.tokens]\nfile = '{users}'\n")
    options = ["--config", config, "--storage", "memory", "--ready-file", ready]
    broker = subprocess.Popen(
        [*COMMAND, "serve", "--transport", "tcp://127.0.0.1:0", *options], stdout=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not ready.exists():
            assert broker.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        url = json.loads(ready.read_text())["listeners"][0]["url"]
        alice = run(url.replace("//", f"//alice:{ALICE}@"), "pub", "md.a", "x")
        bob = run(url.replace("//", f"//bob:{BOB}@"), "pub", "md.a", "x")
        mallory = run(url.replace("//", "//mallory:a-guess-at-a-token@"), "streams")
        broker.terminate()
        output, _ = broker.communicate(timeout=DEADLINE_S)
    finally:
        broker.kill()
        broker.wait()

    assert "tokens" in output.decode()
    assert [alice.returncode, bob.returncode, mallory.returncode] == [0, 6, 6]
    assert "not_allowed" in bob.stderr
    assert "not believed" in mallory.stderr
    assert "a-guess" not in mallory.stderr


def run(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command that talks to the broker at ``url``."""
    return subprocess.run(
        [*COMMAND, *arguments],
        env=os.environ | {"HERMES_URL": url},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
