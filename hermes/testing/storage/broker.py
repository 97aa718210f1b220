"""Broker: a broker that keeps its streams there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import hermes
from hermes.broker import Broker
from hermes.testing.compare import same
from hermes.testing.contract import needs
from hermes.testing.scribe import SETTINGS
from hermes.testing.storage.contract import Contract, Ground

COUNT = 2000
LISTENER = "inproc:"


def said(number: int) -> bytes:
    """Payload of message ``number``."""
    return b"%d" % number * (1 + number % 50)


class BrokerContract(Contract):
    """Publishers and subscribers of a broker over the storage."""

    @contextmanager
    def broker(self, ground: Ground) -> Iterator[hermes.Client]:
        """A broker on the place, and a client of it."""
        with (
            Broker(listeners=[LISTENER], storage=str(ground.url())) as broker,
            hermes.connect(broker.url, timeout=self.deadline_s) as client,
        ):
            yield client

    def publish(self, client: hermes.Client, first: int, *, ack: str) -> None:
        """COUNT messages, of two topics in turn; returns when they are acknowledged."""
        with (
            client.publisher("kit.even", ack=ack) as even,  # type: ignore[arg-type]
            client.publisher("kit.odd", ack=ack) as odd,  # type: ignore[arg-type]
        ):
            for number in range(first, first + COUNT):
                (odd if number % 2 else even).send(said(number))

    def received(self, client: hermes.Client, pattern: str, count: int) -> list[tuple[str, bytes]]:
        """The first ``count`` messages of a pattern."""
        found = []
        with client.subscribe(pattern, start="earliest") as subscription:
            for message in subscription.messages(timeout=self.deadline_s):
                found.append((message.topic, bytes(message.payload)))
                if len(found) == count:
                    break
        return found

    def test_a_broker_serves_from_it(self, ground: Ground) -> None:
        """Published messages are received by a subscriber of all topics and by one of some
        topics."""
        with self.broker(ground) as client:
            self.publish(client, 0, ack="appended")
            everything = self.received(client, ">", COUNT)
            part = self.received(client, "kit.odd", COUNT // 2)

        odd = [("kit.odd", said(number)) for number in range(1, COUNT, 2)]
        even = [("kit.even", said(number)) for number in range(0, COUNT, 2)]
        assert same([m for m in everything if m[0] == "kit.odd"], odd)
        assert same([m for m in everything if m[0] == "kit.even"], even)
        assert same(part, odd)

    @needs("persistent")
    def test_a_restarted_broker_has_it_all(self, ground: Ground) -> None:
        """Messages, topics and numbering are there again."""
        for number in range(3):
            with self.broker(ground) as client:
                self.publish(client, number * COUNT, ack="appended")
                total = (number + 1) * COUNT
                everything = self.received(client, ">", total)
                part = self.received(client, "kit.even", total // 2)
                (stream,) = client.streams()
                topics = {topic["topic"] for topic in client.topics()}
            expected = (("kit.odd" if n % 2 else "kit.even", said(n)) for n in range(total))
            assert same(sorted(everything), sorted(expected))
            assert same(part, [("kit.even", said(n)) for n in range(0, total, 2)])
            assert stream["last_sequence"] == total
            assert topics == {"kit.odd", "kit.even"}

    @needs("durable")
    def test_durable_acknowledgements(self, ground: Ground) -> None:
        """They come, and what they say holds for a restart."""
        with self.broker(ground) as client:
            self.publish(client, 0, ack="durable")
        with self.broker(ground) as client:
            assert len(self.received(client, ">", COUNT)) == COUNT

    @needs("persistent")
    def test_a_position_goes_on_behind_a_restart(self, ground: Ground) -> None:
        """A position carries its epoch: the log that is opened again counts as the same one, and
        nothing is reported lost."""
        with self.broker(ground) as client:
            self.publish(client, 0, ack="appended")
            with client.subscribe(">", start="earliest") as subscription:
                for _ in range(COUNT):
                    subscription.receive(timeout=self.deadline_s)
                positions = subscription.positions
        with self.broker(ground) as client:
            self.publish(client, COUNT, ack="appended")
            with client.subscribe(">", start=positions) as subscription:
                following = subscription.receive(timeout=self.deadline_s).sequence
                after = subscription.positions

        assert following == COUNT + 1, "StreamLog: an opened log goes on behind what it has"
        for stream, position in positions.items():
            assert position.epoch != 0, (
                "Storage.save_state: the epochs of its streams are kept there"
            )
            assert after[stream].epoch > position.epoch

    @needs("persistent")
    def test_what_was_delivered_is_told_to_the_log(self, ground: Ground) -> None:
        """LogSettings.given_out: a log that ends before goes on behind it, or where it ends; never
        beyond."""
        with closing(ground.open()) as storage:
            ground.log(storage).close()
        with closing(ground.open()) as storage:
            settings = replace(SETTINGS, given_out=5)
            with closing(ground.log(storage, settings=settings)) as log:
                next_sequence = log.status().next_sequence

        assert next_sequence in (1, 6), (
            "LogSettings.given_out: a log that ends before it goes on behind it, or where it ends; not "
            f"at {next_sequence}"
        )
