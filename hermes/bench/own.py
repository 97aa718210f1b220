"""Transports of Hermes as contestants: any that is installed, by name or URL.

A broker, publishers and subscribers are processes of their own, as in real life; a transport that
cannot leave its process has all of them in one, each with a thread, and its rows say so.
"""

from __future__ import annotations

import json
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hermes.base.shown import redacted
from hermes.bench.actors import BROKER_CORE, ActorCast
from hermes.bench.contestant import Conditions, Job, Kind, Measure, Pass
from hermes.bench.stage import READY_S, Failed, Process, Stage
from hermes.errors import HermesError, PluginFailed, Timeout
from hermes.plugins.discovery import Plugins, default_plugins
from hermes.spi.url import Url, parse_url

BATCH_COUNT = 4096
"""Messages per call of a burst."""
BATCH_BYTES = 256 << 10
"""Bytes of payload per call of a burst."""
FRAME_BYTES = 64
"""Bytes of a message beside its payload, about: header, topic, padding."""
SEGMENT = 64 << 20
"""Bytes: several in what is kept, so that retention is exact enough."""
FILL_SIZE = 16_384
"""Bytes of a message that only fills the log."""
SPIN_S = 1.0
"""How long a client polls that does not want to sleep: longer than anything it waits for."""
CLIENT_TIMEOUT_S = 20.0

APIS: dict[Measure, str] = {
    "throughput": "send_many, ack appended; batches",
    "fanout": "send_many, ack appended; batches",
    "latency": "send, ack appended; receive",
    "round_trip": "send, ack appended; receive",
}


class HermesPublisher:
    """A user of the public client, who sends."""

    def __init__(self, where: Mapping[str, Any], topic: str, client: Any = None) -> None:
        self._client = client or _connect(where)
        self._publisher = self._client.publisher(
            topic, ack=where.get("ack", "appended"), linger=where.get("linger")
        )
        self.send = self._publisher.send

    def burst(self, payload: bytes, count: int) -> None:
        """Joined payloads and their lengths: a call for many."""
        batch = max(1, min(BATCH_COUNT, BATCH_BYTES // max(1, len(payload))))
        joined, lengths = payload * batch, array("I", [len(payload)]) * batch
        send_many = self._publisher.send_many
        for _ in range(count // batch):
            send_many(joined, lengths)
        rest = count % batch
        if rest:
            send_many(joined[: len(payload) * rest], lengths[:rest])

    def flush(self) -> None:
        """Everything is acknowledged."""
        self._publisher.flush()

    def close(self) -> None:
        """Disconnect."""
        self._client.close()


class HermesSubscriber:
    """A user of the public client, who receives."""

    def __init__(self, where: Mapping[str, Any], topic: str, client: Any = None) -> None:
        self._client = client or _connect(where)
        self._subscription = self._client.subscribe(
            topic, on_gap="skip"
        )  # a gap shows in the count
        self._batches: Any = None
        self._batches_s = 0.0

    def receive(self, timeout_s: float) -> bytes | memoryview | None:
        """One message object at a time."""
        try:
            payload: bytes | memoryview = self._subscription.receive(timeout_s).payload
        except Timeout:
            return None
        return payload

    def drain(self, timeout_s: float) -> int:
        """A whole batch: every message in it has been checked and described, by C."""
        if self._batches is None or self._batches_s != timeout_s:
            self._batches, self._batches_s = self._subscription.batches(timeout_s), timeout_s
        try:
            return len(next(self._batches))
        except Timeout:
            self._batches = None
            return 0

    def close(self) -> None:
        """Disconnect."""
        self._client.close()


def _connect(where: Mapping[str, Any]) -> Any:
    import hermes

    return hermes.connect(
        where["url"], name="bench", timeout=CLIENT_TIMEOUT_S, spin=where.get("spin_s", 0.0)
    )


class Users:
    """The users that an actor makes; see :class:`hermes.bench.contestant.Driver`."""

    def __init__(self) -> None:
        self._broker: Any = None

    def publisher(self, where: dict[str, Any], topic: str) -> HermesPublisher:
        """A user who sends."""
        return HermesPublisher(where, topic)

    def subscriber(self, where: dict[str, Any], topic: str) -> HermesSubscriber:
        """A user who receives."""
        return HermesSubscriber(where, topic)

    def pair(self, where: dict[str, Any], topic: str) -> tuple[HermesPublisher, HermesSubscriber]:
        """A user who does both, over one connection."""
        client = _connect(where)
        subscriber = HermesSubscriber(where, topic, client)
        return HermesPublisher(where, topic, client), subscriber

    def serve_here(self, config: dict[str, Any]) -> dict[str, Any]:
        """A broker in this process, in a thread of its own."""
        import atexit

        from hermes.broker import Broker

        self._broker = Broker(**config).start()
        atexit.register(self._broker.close)
        return {"url": self._broker.url, "storage": self._broker.storage_url}


USERS = Users()
"""Named on the command line of every actor that uses Hermes."""
REFERENCE = "hermes.bench.own:USERS"


def start_broker(stage: Stage, config: Mapping[str, Any]) -> tuple[Process, dict[str, Any]]:
    """Start a broker in a process of its own; returns that, and where users find the broker."""
    command = (sys.executable, "-m", "hermes.bench.broker", json.dumps(config))
    broker = stage.start("broker", *command, core=BROKER_CORE, mercy_s=0)
    return broker, broker.hear(READY_S)["where"]


def start_embedded(stage: Stage, reference: str, **what: Any) -> tuple[Process, dict[str, Any]]:
    """Start a broker in a process that also has users; returns as :func:`start_broker`."""
    process = stage.start(
        "process", sys.executable, "-m", "hermes.bench.actor", reference, mercy_s=0
    )
    process.tell({"do": "serve", **what})
    return process, process.hear(READY_S)["where"]


class HermesCast(ActorCast):
    """A broker and its users."""

    def __init__(
        self,
        stage: Stage,
        where: dict[str, Any],
        broker: Sequence[Process],
        *,
        kept: int,
        fill: bool,
        together: Process | None = None,
        reference: str = REFERENCE,
    ) -> None:
        super().__init__(stage, reference, where, broker)
        self._kept = kept
        self._together = together
        self._fill = fill

    def parts(self, job: Job) -> list[tuple[str, int, dict[str, Any]]]:
        """As usual; those that share a process are all in the one there is."""
        usual = super().parts(job)
        return usual if self._together is None else [("all in one", 0, part) for *_, part in usual]

    def actor(self, kind: str, number: int) -> Process:
        """The process that has the broker, if it has the users too."""
        return super().actor(kind, number) if self._together is None else self._together

    def most(self, job: Job) -> int | None:
        """Half of what the log keeps, since retention removes whole segments."""
        return max(1, self._kept // 2 // (job.size + FRAME_BYTES))

    def warm(self, job: Job) -> None:
        """Fill the log past its retention, so that what follows uses memory again."""
        if not self._fill:
            return
        self._fill = False
        fill = Job("throughput", FILL_SIZE)
        self.prepare(fill)
        self.play(fill, Pass(self._kept // FILL_SIZE + 1, 0, READY_S, 3 * READY_S))
        self.finish()


@dataclass(frozen=True, slots=True)
class TransportContestant:
    """One transport."""

    name: str
    """As the user wrote it."""
    url: Url
    plugins: Plugins
    kind: Kind = "hermes"

    @property
    def note(self) -> str:
        """Nothing, or that all is in one process."""
        return "" if self._processes() else "broker and users are threads of one process"

    def obstacle(self) -> str | None:
        """Why the plugin cannot work here."""
        try:
            self.plugins.transport(self.url.scheme)
        except PluginFailed as error:
            return str(error)
        return None

    def api(self, job: Job) -> str | None:
        """The public client's."""
        return APIS[job.measure]

    def enter(self, stage: Stage, conditions: Conditions) -> HermesCast:
        """Start a broker on a free address."""
        errors = []
        for url in self._addresses(stage):
            try:
                return self._serve(stage, conditions, url)
            except HermesError as error:
                errors.append(error)
        raise Failed(
            f"{errors[0]}; give {self.name} as a URL if it needs an address: hermes bench compare "
            f"'{self.url.scheme}://...'"
            if len(errors) > 1
            else str(errors[0])
        )

    def _serve(self, stage: Stage, conditions: Conditions, url: str) -> HermesCast:
        kept = 2 * conditions.job_bytes
        config = {
            "listeners": [url],
            "storage": _storage(conditions.storage, stage, kept),
            "idle": conditions.idle,
            "retention": str(kept),
            "segment": str(SEGMENT),
        }
        spin = {"spin_s": SPIN_S} if conditions.idle == "spin" else {}
        fill = conditions.warm
        if self._processes():
            broker, where = start_broker(stage, config)
            return HermesCast(stage, where | spin, [broker], kept=kept, fill=fill)
        together, where = start_embedded(stage, REFERENCE, config=config)
        return HermesCast(stage, where | spin, [], kept=kept, fill=fill, together=together)

    def _processes(self) -> bool:
        try:
            return self.plugins.transport(self.url.scheme).capabilities.processes
        except PluginFailed:
            return True

    def _addresses(self, stage: Stage) -> list[str]:
        """Where to listen: as given; a bare name means any free address, whatever those look like:
        a port, nothing, or a path."""
        url = self.url
        if url.scheme_has_authority or url.path:
            return [self.name]
        query = "".join(self.name.partition("?")[1:])
        return [
            f"{url.scheme}://127.0.0.1:0{query}",
            self.name,
            f"{url.scheme}://{stage.place / 'door'}{query}",
        ]


def _storage(spec: str, stage: Stage, kept: int) -> str:
    """The storage's URL: logs of our own in the stage's directory, which is removed."""
    url = parse_url(spec)
    if url.scheme == "mmap" and not url.path:
        query = "".join(spec.partition("?")[1:])
        return f"mmap:{stage.place / 'data'}{query}"
    if url.scheme == "memory" and "limit" not in url.query:
        return f"memory:?limit={kept}"
    return spec


def contestants(names: Sequence[str], plugins: Plugins | None = None) -> list[TransportContestant]:
    """The named transports; without names, all that are installed.

    Raises:
        PluginNotFound: nothing installed serves one of them; the message says what is.
        InvalidUrl: a name is not a URL.
    """
    known = plugins or default_plugins()
    found = []
    for name in names or known.names("transport"):
        url = parse_url(name)
        if url.scheme not in known.names("transport"):
            known.transport(url.scheme)  # raises, and suggests
        found.append(TransportContestant(redacted(name), url, known))
    return found
