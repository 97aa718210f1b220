"""Hooks of a broker: when each is called, what an exception does, and that authentication fails
closed."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hermes.broker import Broker
from hermes.errors import InvalidUrl, PluginFailed, PluginNotFound, UsageError
from hermes.plugins.discovery import Plugins, default_plugins
from hermes.spi.hooks import API_VERSION, Denial, Grant, hookimpl
from hermes.wire import messages as m

Serve = Callable[..., Broker]
Connect = Callable[..., Any]
DEADLINE_S = 60.0


class Options(msgspec.Struct, forbid_unknown_fields=True):
    """Options of the plugins under test."""

    size: int = 1
    """A number."""


class Made:
    """A plugin whose hooks are what the test passes."""

    api_version = API_VERSION
    options = Options

    def __init__(self, make: Callable[[Any], object]) -> None:
        self._make = make

    def probe(self) -> str | None:
        return None

    def activate(self, options: Any) -> object:
        return self._make(options)


class Recorder:
    """Implements every hook that watches, and notes each call."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.threads: set[int] = set()

    def note(self, hook: str, value: Any = None) -> None:
        self.calls.append((hook, value))
        self.threads.add(threading.get_ident())

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    @hookimpl
    def hermes_broker_started(self, broker: Any) -> None:
        self.note("started", broker)

    @hookimpl
    def hermes_broker_stopping(self, broker: Any) -> None:
        self.note("stopping", broker)

    @hookimpl
    def hermes_broker_stopped(self) -> None:
        self.note("stopped")

    @hookimpl
    def hermes_connection_opened(self, connection: Any) -> None:
        self.note("opened", connection)

    @hookimpl
    def hermes_connection_closed(self, connection: Any, error: Any) -> None:
        self.note("closed", (connection, error))

    @hookimpl
    def hermes_metrics(self, metrics: Any) -> None:
        self.note("metrics", metrics)


@pytest.fixture
def registry() -> Plugins:
    """The installed transports and storages, and plugins that the test adds."""

    class Registry(Plugins):
        def transport(self, scheme: str) -> Any:
            return default_plugins().transport(scheme)

        def storage(self, scheme: str) -> Any:
            return default_plugins().storage(scheme)

    return Registry([])


def gate(answer: Callable[..., Any]) -> type:
    """A plugin object that authenticates by ``answer``."""

    class Gate:
        @hookimpl
        def hermes_authenticate(self, peer: Any, identity: Any, credentials: Any) -> Any:
            return answer(identity, dict(credentials))

    return Gate


@pytest.fixture
def guarded(serve: Serve, registry: Plugins) -> Callable[..., Broker]:
    """A broker that asks these answers, in this order, who may come in."""

    numbers = itertools.count()

    def start(*answers: Callable[..., Any], **settings: Any) -> Broker:
        plugins: dict[str, dict[str, Any]] = {}
        for answer in answers:
            made, name = gate(answer), f"gate{next(numbers)}"
            registry.register("plugin", name, lambda made=made: Made(lambda _: made()))
            plugins[name] = {}
        return serve(registry=registry, plugins=plugins, **settings)

    return start


def refusal(connect: Connect, broker: Broker, **hello: Any) -> m.Error:
    """The error that a client with this ``hello`` gets."""
    client = connect(broker, hello=False)
    client.send(client.protocol.hello(client="test", **hello))
    error = client.expect(m.Error)
    client.until_end()
    found: m.Error = error
    return found


def greet(connect: Connect, broker: Broker, **hello: Any) -> Any:
    """A client that was welcomed."""
    client = connect(broker, hello=False)
    client.send(client.protocol.hello(client="test", **hello))
    client.until(lambda: client.protocol.welcome)
    return client


# Lifecycle.


def test_hooks_follow_a_broker_from_start_to_end(
    registry: Plugins, serve: Serve, connect: Connect
) -> None:
    """started, opened, closed, stopping and stopped come once each, in that order."""
    recorder = Recorder()
    registry.register("plugin", "watch", lambda: Made(lambda _: recorder))
    broker = serve(registry=registry, plugins={"watch": {"size": 3}})
    client = connect(broker)
    url = broker.url

    client.goodbye()
    deadline = time.monotonic() + DEADLINE_S
    while "closed" not in recorder.names() and time.monotonic() < deadline:
        time.sleep(0.001)
    broker.close()

    calls = [call for call in recorder.calls if call[0] != "metrics"]
    assert [name for name, _ in calls] == ["started", "opened", "closed", "stopping", "stopped"]
    assert [listener.url for listener in calls[0][1].listeners] == [url]
    assert calls[0][1].streams == ("default",)
    assert calls[1][1].client.startswith("test")
    assert calls[2][1][1] is None


def test_a_client_that_never_said_hello_is_no_connection(
    registry: Plugins, serve: Serve, connect: Connect
) -> None:
    """Opened and closed are told of welcomed clients only."""
    recorder = Recorder()
    registry.register("plugin", "watch", lambda: Made(lambda _: recorder))
    with Broker(
        listeners=["inproc:"], storage="memory:", registry=registry, plugins={"watch": {}}
    ) as broker:
        connect(broker, hello=False)

    assert recorder.names() == ["started", "stopping", "stopped"]


def test_metrics_are_handed_out_at_the_interval(
    registry: Plugins, serve: Serve, connect: Connect
) -> None:
    """A plugin that wants the counters gets them again and again, in the loop's thread."""
    recorder = Recorder()
    registry.register("plugin", "watch", lambda: Made(lambda _: recorder))
    broker = serve(registry=registry, plugins={"watch": {}}, metrics="5ms")
    publisher = connect(broker)
    publisher.open()
    publisher.acked(publisher.publish("a", b"x"))

    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        seen = [value for name, value in list(recorder.calls) if name == "metrics"]
        if seen and seen[-1]["streams"]["default"]["topics"] == 1:
            break
        time.sleep(0.001)

    assert seen[-1]["streams"]["default"]["topics"] == 1
    assert "clients" not in seen[-1]


def test_a_hook_that_fails_is_reported_without_its_text(
    registry: Plugins, serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception of a watching hook harms no client, is counted, and its text is not logged."""

    class Failing:
        @hookimpl
        def hermes_connection_opened(self, connection: Any) -> None:
            raise RuntimeError("s3cret")

    registry.register("plugin", "failing", lambda: Made(lambda _: Failing()))
    broker = serve(registry=registry, plugins={"failing": {}})

    client = connect(broker)
    client.settle()

    assert broker.stats()["plugins"] == {"active": ["failing"], "failures": 1}
    assert "hermes_connection_opened raised RuntimeError" in caplog.text
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize("stage", ["activate", "started"])
def test_a_plugin_that_cannot_start_keeps_the_broker_from_starting(
    registry: Plugins, stage: str
) -> None:
    """An exception at the start is PluginFailed with the plugin's name; those before it are told
    that the broker ends."""
    recorder = Recorder()

    class Failing:
        @hookimpl
        def hermes_broker_started(self, broker: Any) -> None:
            raise RuntimeError("not today")

    def make(options: Any) -> object:
        if stage == "activate":
            raise RuntimeError("not today")
        return Failing()

    registry.register("plugin", "watch", lambda: Made(lambda _: recorder))
    registry.register("plugin", "failing", lambda: Made(make))
    broker = Broker(
        listeners=["inproc:"],
        storage="memory:",
        registry=registry,
        plugins={"watch": {}, "failing": {}},
    )

    with pytest.raises(PluginFailed, match=r"'failing'.*not today"):
        broker.open()

    assert recorder.names() == (["stopped"] if stage == "activate" else ["started", "stopped"])


def test_an_unknown_plugin_or_option_is_refused_with_a_suggestion(registry: Plugins) -> None:
    """A misspelt plugin, and a misspelt option of one, name what was meant."""
    registry.register("plugin", "watch", lambda: Made(lambda _: Recorder()))
    settings: dict[str, Any] = {"listeners": ["inproc:"], "storage": "memory:"}

    with pytest.raises(PluginNotFound, match="did you mean 'watch'"):
        Broker(**settings, registry=registry, plugins={"wath": {}}).open()
    with pytest.raises(InvalidUrl, match="did you mean 'size'"):
        Broker(**settings, registry=registry, plugins={"watch": {"sise": 1}}).open()


def test_a_misspelt_hook_is_refused(registry: Plugins) -> None:
    """A hook that does not exist is an error, not one that is silently never called."""

    class Misspelt:
        @hookimpl
        def hermes_authenticat(self, peer: Any) -> None: ...

    registry.register("plugin", "typo", lambda: Made(lambda _: Misspelt()))

    with pytest.raises(PluginFailed, match="hermes_authenticat"):
        Broker(
            listeners=["inproc:"], storage="memory:", registry=registry, plugins={"typo": {}}
        ).open()


# Authentication.


def test_without_a_plugin_everybody_comes_in(serve: Serve, connect: Connect) -> None:
    """Nobody is asked who they are where no plugin authenticates."""
    broker = serve()

    client = connect(broker)
    client.open()
    client.acked(client.publish("a", b"x"))

    assert broker.stats()["denials"] == 0


def test_identity_and_credentials_reach_the_plugin(
    guarded: Callable[..., Broker], connect: Connect
) -> None:
    """The plugin is asked about what Hello says; the identity granted is what counts."""
    seen: list[Any] = []

    def answer(identity: Any, credentials: Any) -> Grant:
        seen.append((identity, credentials))
        return Grant("alice", inspect=True)

    broker = guarded(answer)

    client = greet(connect, broker, identity="al", credentials={"password": "x"})

    assert seen == [("al", {"password": "x"})]
    (stats,) = client.query("stats")
    assert [row["identity"] for row in stats["clients"]] == ["alice"]


def raises(identity: Any, credentials: Any) -> None:
    """A plugin that fails."""
    raise RuntimeError(f"cannot look up {credentials}")


@pytest.mark.parametrize(
    "answer",
    [lambda *_: None, lambda *_: Denial(), lambda *_: True, lambda *_: {"publish": ">"}, raises],
    ids=["no-opinion", "denial", "true", "dict", "raises"],
)
def test_whatever_is_not_a_grant_refuses(
    guarded: Callable[..., Broker],
    connect: Connect,
    answer: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No answer, a denial, an answer of another type and an exception all keep the peer out."""
    caplog.set_level(logging.DEBUG)
    broker = guarded(answer)

    error = refusal(connect, broker, identity="alice", credentials={"password": "s3cret"})

    assert (error.code, error.fatal) == ("authentication_failed", True)
    assert broker.stats()["denials"] == 1
    assert "s3cret" not in caplog.text


def test_plugins_are_asked_in_order_until_one_answers(
    guarded: Callable[..., Broker], connect: Connect
) -> None:
    """The first that has an opinion decides; one behind it is not asked."""
    asked: list[str] = []

    def note(name: str, answer: Any) -> Callable[..., Any]:
        def call(*_: Any) -> Any:
            asked.append(name)
            return answer

        return call

    broker = guarded(note("first", None), note("second", Grant("bob")), note("third", Denial()))

    greet(connect, broker)

    assert asked == ["first", "second"]


def test_an_exception_is_not_passed_over(guarded: Callable[..., Broker], connect: Connect) -> None:
    """Where one plugin fails, the next is not asked: it might admit whom the first would not."""
    broker = guarded(raises, lambda *_: Grant("bob"))

    assert refusal(connect, broker).code == "authentication_failed"


# Authorization.


def test_publishing_outside_the_grant_is_refused_and_the_rest_goes_on(
    guarded: Callable[..., Broker], connect: Connect
) -> None:
    """The message and those behind it are not taken, its topic is not created; opened again, the
    publisher goes on within its grant."""
    broker = guarded(lambda *_: Grant("alice", publish=("md.*", "orders.>"), subscribe=(">",)))
    client = greet(connect, broker)
    publisher_id = b"alice's 16 bytes"
    client.subscribe(">")
    client.open(id=publisher_id)

    client.publish("md.a", b"1", b"2")
    client.publish("md.a.b", b"no")
    error = client.expect(m.Error)
    client.open(id=publisher_id)
    client.publish("orders.x.y", b"3", first=3)

    assert (error.code, error.fatal, error.publisher, error.sequence) == (
        "not_allowed",
        False,
        1,
        3,
    )
    assert error.message == "'alice' may not publish to 'md.a.b'"
    assert client.payloads(3) == [b"1", b"2", b"3"]
    topics = [row["topic"] for page in client.query("topics") for row in page]
    assert sorted(topics) == ["md.a", "orders.x.y"]


def test_a_grant_without_patterns_allows_nothing(
    guarded: Callable[..., Broker], connect: Connect
) -> None:
    """Everything that is not granted is refused: publishing, subscribing, counters, configuration and durable
    names."""
    client = greet(connect, guarded(lambda *_: Grant("nobody")))
    client.open()

    client.publish("a", b"x")
    client.subscribe("a")

    refused = [event for event in client.events if isinstance(event, m.Error)]
    assert {error.code for error in refused} == {"not_allowed"}
    assert {(error.publisher, error.subscription) for error in refused} == {(1, None), (None, 1)}
    assert client.query("stats").code == "not_allowed"
    assert client.query("config").code == "not_allowed"
    assert client.query("durables").code == "not_allowed"
    assert client.query("forget", durable="job").code == "not_allowed"
    assert client.query("topics") == [[]]


def test_who_may_look_may_not_forget(guarded: Callable[..., Broker], connect: Connect) -> None:
    """Listing durable names and having them forgotten are two rights; neither brings the other."""
    grants = {
        "alice": Grant("alice", publish=(">",), subscribe=(">",)),
        "monitor": Grant("monitor", inspect=True),
        "admin": Grant("admin", forget=True),
    }
    broker = guarded(lambda identity, _: grants[identity])
    alice, monitor, admin = (greet(connect, broker, identity=name) for name in grants)
    alice.open()
    alice.acked(alice.publish("a", b"x"))
    alice.subscribe(">", durable="job", start="earliest")
    alice.send(alice.protocol.commit(1, {"default": 1}))
    alice.expect(m.Commit)
    alice.send(alice.protocol.unsubscribe(1))
    alice.expect(m.Unsubscribe)

    refused = [
        alice.query("forget", durable="job"),
        monitor.query("forget", durable="job"),
        admin.query("durables"),
    ]
    kept = [row["name"] for page in monitor.query("durables") for row in page]
    forgotten = admin.query("forget", durable="job")

    assert [error.code for error in refused] == ["not_allowed"] * 3
    assert kept == ["job"]
    assert forgotten == [True]
    assert not any(monitor.query("durables"))


@pytest.mark.parametrize(
    ("filter", "kind", "allowed"),
    [
        ("md.>", "pattern", True),
        ("md.a.*", "pattern", True),
        ("md.a", "pattern", True),
        ("x.one", "pattern", True),
        ("x.*", "pattern", True),
        (">", "pattern", False),
        ("md", "pattern", False),
        ("*.a", "pattern", False),
        ("x.>", "pattern", False),
        ("x.one.two", "pattern", False),
        ("md.", "prefix", True),
        ("md.a", "prefix", True),
        ("md", "prefix", False),
        ("", "prefix", False),
        ("x.one", "prefix", False),
    ],
)
def test_subscribing_is_bounded_by_the_grant(
    guarded: Callable[..., Broker], connect: Connect, filter: str, kind: str, allowed: bool
) -> None:
    """A filter passes if everything it can match is granted, and only then."""
    broker = guarded(lambda *_: Grant("alice", subscribe=("md.>", "x.*")))
    client = greet(connect, broker)

    client.subscribe(filter, kind=kind)

    codes = [event.code for event in client.events if isinstance(event, m.Error)]
    assert codes == ([] if allowed else ["not_allowed"])


STORAGES = ["memory:", "mmap:{}", "sqlite:{}/hermes.db"]


def everybody(identity: str, _: Any) -> Grant:
    """A grant of everything, to whatever identity a client claims."""
    return Grant(identity, publish=(">",), subscribe=(">",), inspect=True, forget=True)


def durables(client: Any) -> dict[tuple[str | None, str], Any]:
    """Positions that the broker has stored under durable names."""
    rows = [row for page in client.query("durables") for row in page]
    return {(row["identity"], row["name"]): row["positions"] for row in rows}


@pytest.mark.parametrize("storage", STORAGES)
def test_a_publisher_id_exists_once_per_identity(
    guarded: Callable[..., Broker], connect: Connect, tmp_path: Path, storage: str
) -> None:
    """Messages under a foreign publisher id are appended as another publisher's, open or not, and
    the owner's are never taken for repetitions of them; a restart changes nothing."""
    storage, id = storage.format(tmp_path), b"alice's 16 bytes"
    broker = guarded(everybody, storage=storage)
    alice = greet(connect, broker, identity="alice")
    alice.open(id=id)
    alice.acked(alice.publish("a", b"alice 1"))
    mallory = greet(connect, broker, identity="mallory")

    assert mallory.open(id=id) == 0
    mallory.acked(mallory.publish("a", b"m 1", b"m 2", b"m 3"))
    alice.acked(alice.publish("a", b"alice 2"))
    assert not [event for event in alice.events if isinstance(event, m.Error)]
    if not storage.startswith("memory"):
        alice.close()
        mallory.close()
        broker.close()
        broker = guarded(everybody, storage=storage)
        alice, mallory = (greet(connect, broker, identity=name) for name in ("alice", "mallory"))
        assert alice.open(id=id) == 2
        assert mallory.open(id=id) == 3
    alice.acked(alice.publish("a", b"alice 3"))
    alice.subscribe("a", start="earliest")

    assert alice.payloads(6) == [b"alice 1", b"m 1", b"m 2", b"m 3", b"alice 2", b"alice 3"]


def test_an_identity_takes_its_own_names_over(
    guarded: Callable[..., Broker], connect: Connect
) -> None:
    """The same identity takes a publisher id and a durable name from its older connection; another
    takes neither."""
    broker = guarded(everybody)
    first = greet(connect, broker, identity="alice")
    first.open(id=b"alice's 16 bytes")
    first.subscribe(">", durable="job")

    stranger = greet(connect, broker, identity="mallory")
    stranger.open(id=b"alice's 16 bytes")
    stranger.subscribe(">", durable="job")
    first.settle()
    undisturbed = not [event for event in first.events if isinstance(event, m.Error)]
    again = greet(connect, broker, identity="alice")
    again.open(id=b"alice's 16 bytes")
    again.subscribe(">", durable="job")
    first.until(lambda: len([e for e in first.events if isinstance(e, m.Error)]) == 2)

    assert undisturbed
    codes = {event.code for event in first.events if isinstance(event, m.Error)}
    assert codes == {"publisher_taken", "durable_in_use"}


@pytest.mark.parametrize("storage", STORAGES)
def test_a_durable_name_exists_once_per_identity(
    guarded: Callable[..., Broker], connect: Connect, tmp_path: Path, storage: str
) -> None:
    """A commit of one identity under a name moves no other's position, across a restart too."""
    storage = storage.format(tmp_path)
    broker = guarded(everybody, storage=storage)
    alice, mallory = (greet(connect, broker, identity=name) for name in ("alice", "mallory"))
    alice.open()
    alice.acked(alice.publish("a", b"1", b"2", b"3"))
    for client, position in ((alice, 1), (mallory, 3)):
        client.subscribe(">", durable="job", start="earliest")
        client.send(client.protocol.commit(1, {"default": position}))
        client.expect(m.Commit)
        client.close()
    if not storage.startswith("memory"):
        broker.close()
        broker = guarded(everybody, storage=storage)
    again = greet(connect, broker, identity="alice")

    assert durables(again) == {("alice", "job"): {"default": 1}, ("mallory", "job"): {"default": 3}}
    again.subscribe(">", durable="job", start="durable")
    assert again.payloads(2) == [b"2", b"3"]


def test_what_has_no_owner_is_inherited_and_stays(
    serve: Serve, guarded: Callable[..., Broker], connect: Connect, tmp_path: Path
) -> None:
    """Positions and publisher ids stored before a broker authenticated are where every identity
    begins; none of them takes them from another."""
    storage, id = f"mmap:{tmp_path}", b"sixteen bytes id"
    with Broker(listeners=["inproc:"], storage=storage) as broker:
        before = connect(broker)
        before.open(id=id)
        before.acked(before.publish("a", b"1", b"2"))
        before.subscribe(">", durable="job", start="earliest")
        before.send(before.protocol.commit(1, {"default": 1}))
        before.expect(m.Commit)
        before.close()
    broker = guarded(everybody, storage=storage)
    mallory, alice = (greet(connect, broker, identity=name) for name in ("mallory", "alice"))

    assert mallory.open(id=id) == 2
    mallory.acked(mallory.publish("a", b"m 3", b"m 4"))
    mallory.subscribe(">", durable="job", start="durable")
    mallory.send(mallory.protocol.commit(1, {"default": 4}))
    mallory.expect(m.Commit)
    assert alice.open(id=id) == 2
    alice.acked(alice.publish("a", b"a 3"))
    alice.subscribe(">", durable="job", start="durable")

    assert alice.payloads(4) == [b"2", b"m 3", b"m 4", b"a 3"]
    assert durables(alice) == {(None, "job"): {"default": 1}, ("mallory", "job"): {"default": 4}}


def test_forgetting_says_whose_name_is_meant(
    guarded: Callable[..., Broker], connect: Connect
) -> None:
    """A name that several identities have is forgotten only with the identity, and nothing else of
    that name with it."""
    broker = guarded(everybody)
    for name in ("alice", "bob"):
        client = greet(connect, broker, identity=name)
        client.open()
        client.acked(client.publish("a", b"x"))
        client.subscribe(">", durable="job", start="earliest")
        client.send(client.protocol.commit(1, {"default": 1}))
        client.expect(m.Commit)
        client.close()
    admin = greet(connect, broker, identity="admin")
    admin.until(lambda: not any(row["in_use"] for page in admin.query("durables") for row in page))

    assert admin.query("forget", durable="job").code == "durable_ambiguous"
    assert admin.query("forget", durable="job", identity="") == [False]
    assert admin.query("forget", durable="job", identity="alice") == [True]
    assert set(durables(admin)) == {("bob", "job")}
    assert admin.query("forget", durable="job") == [True]


def test_a_commit_names_streams_that_are_read(
    guarded: Callable[..., Broker], connect: Connect
) -> None:
    """An identity commits no position in a stream that its subscription does not read, and is not
    told where that ends."""
    broker = guarded(
        lambda identity, _: Grant(identity, subscribe=("md.>",)),
        streams=[{"name": "md", "patterns": ["md.>"]}, {"name": "other", "patterns": ["x.>"]}],
    )
    client = greet(connect, broker, identity="alice")
    client.subscribe("md.>", durable="job")

    client.send(client.protocol.commit(1, {"other": 1}))

    error = client.expect(m.Error)
    assert (error.code, "ends at" in error.message) == ("commit_refused", False)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Grant("alice", publish="ab"),  # type: ignore[arg-type]
        lambda: Grant("alice", subscribe="md.>"),  # type: ignore[arg-type]
        lambda: Grant("alice", publish=(b"a",)),  # type: ignore[arg-type]
        lambda: Grant("alice", publish=None),  # type: ignore[arg-type]
        lambda: Grant("alice", inspect="no"),  # type: ignore[arg-type]
        lambda: Grant(""),
        lambda: Grant(None),  # type: ignore[arg-type]
        lambda: Denial(None),  # type: ignore[arg-type]
    ],
)
def test_an_answer_of_the_wrong_type_is_refused(make: Callable[[], object]) -> None:
    """A str where patterns are meant, or any other wrong type, is refused where it is passed."""
    with pytest.raises(UsageError, match=r"^(Grant|Denial): (publish|subscribe|in|id|reason)"):
        make()


def test_topics_show_what_may_be_subscribed_to(
    guarded: Callable[..., Broker], connect: Connect
) -> None:
    """A list of topics has no name in it that its reader could not subscribe to."""
    broker = guarded(lambda identity, _: Grant(identity, publish=(">",), subscribe=("md.>",)))
    client = greet(connect, broker, identity="alice")
    client.open()
    client.publish("secret.plan", b"x")
    client.acked(client.publish("md.a", b"y"))

    topics = [row["topic"] for page in client.query("topics") for row in page]

    assert topics == ["md.a"]


def test_the_configuration_does_not_tell_plugins_options(
    serve: Serve, registry: Plugins, connect: Connect
) -> None:
    """Options' names are shown, their values, which may be secrets, are not."""
    registry.register("plugin", "watch", lambda: Made(lambda _: Recorder()))
    broker = serve(registry=registry, plugins={"watch": {"size": 77}})

    (config,) = connect(broker).query("config")

    assert config["plugins"] == {"watch": ["size"]}


def test_an_error_of_a_hook_holds_no_credentials(
    guarded: Callable[..., Broker], connect: Connect
) -> None:
    """An exception of a hook is cut off from the frames it went through, with all errors behind it: a
    plugin that keeps it keeps no stack of ours."""
    kept: list[BaseException] = []

    def answer(identity: Any, credentials: Any) -> None:
        try:
            raise KeyError("first")
        except KeyError as error:
            kept.append(error)
            kept.append(ValueError("second"))
            raise kept[1] from error

    refusal(connect, guarded(answer), credentials={"password": "s3cret"})

    assert [type(error) for error in kept] == [KeyError, ValueError]
    assert [error.__traceback__ for error in kept] == [None, None]


def test_clients_that_are_left_at_a_forced_end_are_told_of(
    registry: Plugins, connect: Connect
) -> None:
    """A broker that is forced to end closes its clients before the last call of all; it does not
    pretend to stop in order."""
    recorder = Recorder()
    registry.register("plugin", "watch", lambda: Made(lambda _: recorder))
    broker = Broker(
        listeners=["inproc:"], storage="memory:", registry=registry, plugins={"watch": {}}
    )
    with broker:
        connect(broker)
        broker._ask(broker.abort)

    assert recorder.names() == ["started", "opened", "closed", "stopped"]
