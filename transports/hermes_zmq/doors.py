"""The doors for ZeroMQ programs: one socket each, pumped into or out of one connection.

A feed door takes what PUB or PUSH sockets send and publishes it, one batch at a time, the next when
the last is acknowledged.  A serve door subscribes and hands on what it gets to SUB or PULL sockets;
where its socket takes no more it stops pulling, so it has one position in the log and no queue.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import zmq

from hermes.base.faults import Faults
from hermes.errors import Refused
from hermes.native.decoder import decode
from hermes.native.frames import BATCH_HEADER_SIZE, encode_batch
from hermes.net.gateway import Wire
from hermes.spi.transport import Kernel, Peer
from hermes.wire import messages as m
from hermes_zmq import paths
from hermes_zmq import pump as pumps
from hermes_zmq.options import DoorPlace, ListenOptions
from hermes_zmq.peers import Peers
from hermes_zmq.prefixes import Prefixes
from hermes_zmq.sockets import Monitor, Socket, events

LOG = logging.getLogger("hermes.zmq")

PUBLISHER = 1
"""A feed door's only publisher, as its connection calls it."""
PULL_BYTES = 256 * 1024
"""Bytes of output pulled at a time: what a blocked door keeps of the log."""
PULLS_PER_PASS = 4
"""Pulls of one door in one poll, so that the others have their turn."""
SETTLE_NS = 20_000_000
"""Pause between the first subscription and a replay: a program's other subscriptions come with
it."""
RETRY_NS = 1_000_000_000
"""Pause before a batch that the storage did not take is offered again."""
KNOCK_MIN_NS = 1_000_000_000
"""Pause before a door that the broker refused asks again; each further one is twice as long."""
KNOCK_MAX_NS = 60_000_000_000
"""The longest of these pauses: what was wrong may be mended (a user who has come into the file)."""
COMMIT_NS = 1_000_000_000
"""How often a durable door's position is stored."""
LOG_NS = 10_000_000_000
"""A door says the same thing once in this time; what it leaves out is in the counters."""
REFUSES_ONE = ("topic_refused", "too_many_topics", "not_allowed")
"""Errors that are about one message: the others are taken."""
DRAINED_MAX = 64
"""Batches that a feed door takes in one go when the broker stops: 16 MiB.  A program that sends on
regardless keeps no broker from stopping."""
REFUSALS_PER_PASS = 64
"""Refused messages passed over in one poll, each of which has the rest of its batch sent again."""
WORDS_SHARE = 2
"""First words of single parts become topics until a stream has this part (a half) of its bound:
what other publishers need is left, whatever lines arrive."""
WORDS_AGAIN_SHARE = 20
"""Divisor of a stream's bound of topics: the share that a door may still add after a restart, when
it does not know which words are topics already."""
WORDS_END = 0.8
"""No further ones in a stream that has this share of its bound."""
WORDS_CHECK_NS = 1_000_000_000
"""How often a feed door that receives asks how many topics there are."""
TOPICS_QUERY = 1
"""Number of that query."""
HELD_NS = 10_000_000_000
"""A serve door that takes nothing for this long says which peer holds it, and ends a peer whose
machine is gone."""
LOOK_NS = 1_000_000_000
"""How often a blocked serve door looks at its peers."""
BREAK_NS = 1_000_000_000
"""Pause after an unexpected error of a door, before it goes on."""
NS_PER_S = 1_000_000_000
NOT_A_PEER = (
    "%d connections were closed before they had finished ZeroMQ's handshake: this door is for %s "
    "sockets that speak ZMTP 3 (libzmq 4.0 or newer)%s. REQ, REP, DEALER and ROUTER sockets, HTTP "
    "and plain TCP clients are not served; see docs/zeromq.md"
)
WANTS = {"pub": "PUB", "push": "PUSH", "sub": "SUB", "pull": "PULL", "router": "Hermes clients'"}
"""The sockets that may connect to each door."""


@dataclass(frozen=True, slots=True)
class House:
    """Things that all doors of a listener share."""

    kernel: Kernel
    owner: object
    """The agent."""
    options: ListenOptions
    scheme: str
    identity: str | None = None
    """Identity of the doors for ZeroMQ programs to a broker that asks."""
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    faults: Faults = field(default_factory=lambda: Faults(LOG))
    """Unexpected errors in serving the doors and their peers."""


class Door:
    """Base of every door: a socket, its monitor, timers and counters."""

    def __init__(self, house: House, place: DoorPlace, socket: Socket, address: str) -> None:
        self.house = house
        self.place = place
        self.socket = socket
        self.address = address
        self.fd = int(socket.getsockopt(zmq.FD))
        self._inode = paths.inode(address)
        self.monitor = Monitor(socket)
        self.awake = True
        """Something may have happened: poll until nothing is left to do."""
        self.due_ns = 0
        """When the timer is due; 0: there is none."""
        self.stopping = False
        self.broken = False
        """An unexpected error has interrupted the door: it pauses until its timer is due."""
        self.peers = Peers()
        self.counts = dict.fromkeys(
            ("messages", "batches", "lost_peers", "refused_peers", "turned_away"), 0
        )
        self._said: dict[str, int] = {}
        self._knock_ns = KNOCK_MIN_NS  # the next pause
        self._refusal = ""  # what the broker said when it turned the door away

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.place.name} door {self.address}"

    def poll(self) -> int:
        """Do a bounded share; returns an amount of work, 0 when there is nothing left to do."""
        raise AssertionError("a door has a poll of its own")

    @property
    def door(self) -> Door:
        """Itself, as a client of the router door names its own."""
        return self

    def ready(self) -> Door:
        """The connection may have output; returns the door to poll."""
        return self

    def deadline_ns(self) -> int:
        """When :meth:`timer` is to be called; 0: never."""
        return self.due_ns

    def timer(self, now_ns: int) -> None:
        """A timer is due."""

    def watch_peers(self) -> None:
        """Take the monitor's events."""
        now_ns = time.monotonic_ns()
        strangers = 0
        for event, value in self.monitor.news():
            if event == zmq.EVENT_ACCEPTED:
                self.peers.accepted(value, now_ns)
            elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.peers.finished()
            elif event == zmq.EVENT_DISCONNECTED:
                if self.peers.disconnected(value, now_ns):
                    self.counts["lost_peers"] += 1
                else:
                    strangers += 1
                self.peer_lost(value)
        if strangers:
            self.counts["refused_peers"] += strangers
            keys = " and a key that it admits" if self.house.options.curve else ""
            self.say(NOT_A_PEER, self.counts["refused_peers"], WANTS[self.place.role], keys)

    def break_down(self) -> None:
        """Go on after an unexpected error: with a new connection to the broker, in a moment."""
        self.broken = True
        self.due_ns = time.monotonic_ns() + BREAK_NS

    def mend(self) -> None:
        """End the pause after an unexpected error."""
        self.broken = False
        self.due_ns = 0
        self.awake = True

    def peer_lost(self, fd: int) -> None:
        """The connection that had the descriptor ``fd`` is gone."""

    def say(self, what: str, *details: object) -> None:
        """Log a warning, unless it was said a moment ago."""
        now = time.monotonic_ns()
        if now >= self._said.get(what, 0):
            self._said[what] = now + LOG_NS
            LOG.warning("%s: " + what, self.name, *details)

    def turned_away(self, why: str) -> None:
        """The broker refuses the door: ask again after a while, and say why once."""
        self.counts["turned_away"] += 1
        if why != self._refusal:
            self._refusal = why
            LOG.warning(
                "%s: %s; the door tries again, after %d s at most",
                self.name,
                why,
                KNOCK_MAX_NS // 10**9,
            )
        self.due_ns = time.monotonic_ns() + self._knock_ns
        self._knock_ns = min(2 * self._knock_ns, KNOCK_MAX_NS)

    def let_in(self) -> None:
        """The broker has done what the door asked for."""
        self._knock_ns = KNOCK_MIN_NS
        self._refusal = ""

    def stop_accepting(self) -> None:
        """Take no more peers, as far as that can be said: unbinding would hang up on those who are
        there."""
        self.stopping = True

    def close(self) -> None:
        """Close the socket; what libzmq has taken may still leave."""
        self.monitor.close()
        self.socket.close()
        paths.remove(self.address, self._inode)

    def _connect(self) -> Wire:
        house = self.house
        peer = Peer(
            house.scheme, f"{self.place.name} {self.address}", local=house.scheme == "zmq+ipc"
        )
        return Wire(
            house.kernel,
            house.owner,
            peer,
            self,
            client=f"hermes_zmq {peer.address}",
            identity=house.identity,
            credentials=house.credentials,
        )


class FeedDoor(Door):
    """For PUB (an XSUB socket) or PUSH (a PULL socket): what arrives is published."""

    def __init__(self, house: House, place: DoorPlace, socket: Socket, address: str) -> None:
        super().__init__(house, place, socket, address)
        if place.role == "pub":
            socket.send(b"\x01")  # everything
        self.counts |= dict.fromkeys(("oversized", "crowded", "refused", "stalls", "raw_lines"), 0)
        self._wire: Wire | None = None
        self._pump: Any = None
        self._publisher_id = os.urandom(m.PUBLISHER_ID_SIZE)
        self._sequence = 0  # of the last message that was fed
        self._acked = 0
        self._again = False  # the broker is to be offered what is held and not acknowledged
        self._held = memoryview(b"")  # the batch that is not acknowledged
        self._index: Any = None  # where its frames stand, once some of them were refused
        self._map: Any = None
        self._words_due_ns = 0  # when to ask again how many topics there are

    def poll(self) -> int:
        """Receive a batch, feed it, and see to it that it was taken."""
        if not self.awake:
            return 0
        self._settle()
        if self._wire is not None and time.monotonic_ns() >= self._words_due_ns:
            self._ask_for_topics()
        if self.due_ns or not self._open() or self._acked < self._sequence:
            unsettled = self._again and not self.due_ns
            news = events(self.socket) & zmq.POLLIN  # has the descriptor fall silent
            self.awake = bool(news or unsettled)
            # Nothing else tells of what has come since :meth:`_open` looked.
            unopened = news and self._wire is None and not self.due_ns
            return int(bool(unopened or unsettled))
        result = self._feed_batch()
        self.awake = result.why == pumps.MORE or self._again
        return int(result.messages) + int(self.awake)

    def ready(self) -> Door:
        """Take answers."""
        self._settle()
        return self

    def stop_accepting(self) -> None:
        """Publish what has arrived while it is still acknowledged: behind the broker's Close
        nothing is."""
        super().stop_accepting()
        if not self.broken:
            self._drain()

    def timer(self, now_ns: int) -> None:
        """Offer again what was refused for a reason that may pass."""
        self.due_ns = 0
        self.awake = True
        if self._wire is not None and self._acked < self._sequence:
            self._again = True

    def break_down(self) -> None:
        """Give up the connection: the next is offered what was not acknowledged."""
        super().break_down()
        wire, self._wire, self._again = self._wire, None, False
        if wire is not None:
            wire.close()

    def close(self) -> None:
        """Give up the connection, then the socket."""
        if self._wire is not None:
            self._wire.close()
        lost, self._acked = self._sequence - self._acked, self._sequence
        if lost:
            LOG.error(
                "%s: %d messages may be lost: the broker did not acknowledge them any more",
                self.name,
                lost,
            )
        super().close()

    def _open(self) -> bool:
        """Whether there is a connection; makes one for what has come, or was held when the one
        before ended."""
        if self._wire is not None:
            return not self._wire.over
        if self._acked == self._sequence and not events(self.socket) & zmq.POLLIN:
            return False
        house = self.house
        try:
            self._wire = wire = self._connect()
        except Refused as error:
            self.turned_away(f"the broker takes no more connections: {error}")
            return False
        self._settle()
        if self._wire is None:
            return False
        welcome = wire.welcome
        if welcome is None:
            self.say("the broker did not say Welcome")
            return False
        if self._pump is None:
            work = house.options.work if self.place.role == "push" else ""
            self._map = pumps.Map(
                split=house.options.split, topic=work, message_max=welcome.limits.message_max
            )
            self._pump = pumps.make_pump(self.socket, self._map)
        self._again = True
        self._settle()
        self._ask_for_topics()
        return self._wire is not None and not self._wire.over

    def _drain(self) -> None:
        """Publish what has arrived, as far as one pass may."""
        for _ in range(DRAINED_MAX):
            ready = not self.due_ns and self._open() and self._acked == self._sequence
            if not ready or not self._feed_batch().size:
                break

    def _feed_batch(self) -> Any:
        """Receive a batch and feed it; what came of the receiving."""
        result = self._pump.receive(PUBLISHER, self._sequence, time.time_ns())
        if result.oversized or result.crowded:
            self._count_dropped(result)
        if result.size:
            self._sequence += result.messages
            self.counts["messages"] += result.messages
            self.counts["batches"] += 1
            self._held, self._index = self._pump.view[: result.size], None
            self._feed(self._held)
            if self._map.spared != self.counts["raw_lines"]:
                self._count_spared()
        if result.why == pumps.FAILED:
            self.say("receiving failed: %s", os.strerror(result.error))
        return result

    def _feed(self, batch: memoryview) -> None:
        assert self._wire is not None
        self._wire.connection.data_received(batch)
        self._settle()

    def _settle(self) -> None:
        """Take the broker's answers; send again what stands behind a refused message."""
        for _ in range(REFUSALS_PER_PASS):
            self._take_answers()
            if not self._again or self._wire is None or self._wire.over or self.due_ns:
                return
            self._again = False
            self._offer_again()
        self.awake = True  # there may be more of them: the others have their turn first

    def _take_answers(self) -> None:
        wire = self._wire
        if wire is None:
            return
        for message in wire.answers():
            if isinstance(message, m.Ack):
                if message.level != "opened":
                    self._acked = max(self._acked, message.sequence)
                    self.let_in()
            elif isinstance(message, m.Error) and message.query is None:
                self._refused(message)
            elif isinstance(message, m.Info):
                self._limit_words(message)
            elif isinstance(message, m.Close):
                self._finish()

    def _refused(self, error: m.Error) -> None:
        if self._wire is None:
            return
        if error.fatal or error.sequence is None:
            self._wire.close()
            self._wire = None  # what was not acknowledged is offered to the next
            self.turned_away(f"the broker ended the connection: {error.message} [{error.code}]")
            return
        self._acked = max(self._acked, error.sequence - 1)
        if error.code in REFUSES_ONE:
            self.counts["refused"] += 1
            self.say(
                "messages were dropped, the last of topic %r: %s [%s]",
                self._topic_of(error.sequence),
                error.message,
                error.code,
            )
            self._acked = max(self._acked, error.sequence)
            self._again = True
            return
        self.counts["stalls"] += 1
        self.say("publishers wait: %s [%s]", error.message, error.code)
        self.due_ns = time.monotonic_ns() + RETRY_NS

    def _offer_again(self) -> None:
        """Open the publisher again and send what stands behind the last one settled."""
        assert self._wire is not None
        self._wire.say(m.Open(PUBLISHER, self._publisher_id))
        left = self._sequence - self._acked
        if not left:
            return
        index = self._decoded()
        begin = index.frame_offset[len(index) - left]
        rest = self._held[BATCH_HEADER_SIZE + begin :]
        header = encode_batch(
            id=PUBLISHER, after=self._acked, through=self._sequence, frames_size=len(rest)
        )
        self._wire.connection.data_received(memoryview(header + bytes(rest)))

    def _decoded(self) -> Any:
        """Return the index of the frames in the batch that is held."""
        if self._index is None:
            self._index = decode(self._held[BATCH_HEADER_SIZE:], message_max=pumps.MESSAGE_LIMIT)
        return self._index

    def _topic_of(self, sequence: int) -> str:
        """The topic of a message that is held."""
        index = self._decoded()
        number = len(index) - 1 - (self._sequence - sequence)
        topic: str = index[number][1] if 0 <= number < len(index) else "?"
        return topic

    # Topics of lines.

    def _ask_for_topics(self) -> None:
        """Have the broker say how many topics it has; :meth:`_limit_words` takes the answer."""
        self._words_due_ns = time.monotonic_ns() + WORDS_CHECK_NS
        if self._wire is not None and not self._wire.over and self.house.options.split:
            self._wire.say(m.Query(TOPICS_QUERY, "streams"))
            self._settle()

    def _limit_words(self, answer: m.Info) -> None:
        """Let the first words of lines use no more than a share of the topics that a stream may
        have."""
        taken = self._map.words
        rooms = [0]
        for stream in msgspec.msgpack.decode(answer.data):
            if stream["create_topics"]:
                most, there = stream["topics_max"], stream["topics"]
                again = min(most // WORDS_AGAIN_SHARE - taken, int(most * WORDS_END) - there)
                rooms.append(max(most // WORDS_SHARE - there, again))
        self._map.limit_words(taken + max(rooms))

    def _count_spared(self) -> None:
        self.counts["raw_lines"] = self._map.spared
        self.say(
            "%d messages of one part are published as _zmq.raw, byte for byte: as topics, their first "
            "words would use up more than half of those that a stream may have; ?split=no is right "
            "for log lines and samples",
            self._map.spared,
        )

    def _count_dropped(self, result: Any) -> None:
        self.counts["oversized"] += result.oversized
        self.counts["crowded"] += result.crowded
        self.say(
            "messages were dropped: %d over the broker's limit of a message, %d of more than %d "
            "parts",
            self.counts["oversized"],
            self.counts["crowded"],
            pumps.PARTS_MAX,
        )

    def _finish(self) -> None:
        """The broker says Close: what has arrived since is offered all the same, once; it is not
        acknowledged, so :meth:`close` counts it as what may be lost."""
        assert self._wire is not None
        wire, settled = self._wire, self._acked == self._sequence
        for _ in range(DRAINED_MAX if settled else 0):  # if not: the publisher is refused
            result = self._pump.receive(PUBLISHER, self._sequence, time.time_ns())
            if not result.size:
                break
            self._sequence += result.messages
            self.counts["messages"] += result.messages
            wire.connection.data_received(self._pump.view[: result.size])
        wire.say(m.Close())
        wire.close()


class ServeDoor(Door):
    """For SUB (an XPUB socket) or PULL (a PUSH socket): gets what the door subscribes to."""

    def __init__(self, house: House, place: DoorPlace, socket: Socket, address: str) -> None:
        super().__init__(house, place, socket, address)
        options = house.options
        self._for_all = place.role == "sub"
        if self._for_all and options.slow == "block":
            socket.setsockopt(zmq.XPUB_NODROP, 1)
        if self._for_all:
            socket.setsockopt(zmq.XPUB_VERBOSER, 1)
        self.counts |= dict.fromkeys(
            ("blocks", "gaps", "gap_messages", "damaged", "odd", "let_go"), 0
        )
        bare = bool(options.work) and not self._for_all
        form = "bare" if bare else options.form
        self._map = pumps.Map(form=form)
        self._pump = pumps.make_pump(socket, self._map)
        self._pattern = options.work if bare else options.pattern
        self._wire: Wire | None = None
        self._prefixes = Prefixes()
        self._blocked_ns = 0  # since when nothing could be sent
        self._look_ns = 0  # when to look at the peers of a blocked door again
        self._subscription = 0
        self._wanted = not self._for_all  # whether the door should be subscribed
        self._subscribed = False
        self._blocked = False
        self._owed = False  # the connection may have output
        self._positions: dict[str, int] = {}
        """How far each stream has been sent, while somebody is there: the next connection goes on
        behind it."""
        self._committed: dict[str, int] = {}

    def poll(self) -> int:
        """Take subscriptions, then hand on what there is."""
        if self.awake:
            self.awake = False
            self._blocked = False
            self._owed = True
            if self._for_all:
                self._take_subscriptions()
            else:
                events(self.socket)
        if self._wanted and not self._subscribed and not self.due_ns:
            self._subscribe()
        work = 0
        for _ in range(PULLS_PER_PASS):
            if not self._owed or self._blocked or self._wire is None:
                break
            work += self._hand_on()
        if work:
            self._blocked_ns = 0
        if self._blocked and not self._look_ns:
            self._look_ns = time.monotonic_ns() + LOOK_NS
        return work + int(self.awake)

    def ready(self) -> Door:
        """There may be output."""
        self._owed = True
        return self

    def deadline_ns(self) -> int:
        """The earlier of the timer and the next look at the peers."""
        if self.due_ns and self._look_ns:
            return min(self.due_ns, self._look_ns)
        return self.due_ns or self._look_ns

    def timer(self, now_ns: int) -> None:
        """Begin a replay, or store the position; look at the peers of a blocked door."""
        if self._look_ns and self._look_ns <= now_ns:
            self._look_at_peers(now_ns)
        if not self.due_ns or self.due_ns > now_ns:
            return
        self.due_ns = 0
        if self._wanted and not self._subscribed:
            self._subscribe()
        elif self._positions != self._committed and self._wire is not None:
            self._committed = dict(self._positions)
            self._wire.say(m.Commit(self._subscription, self._committed))
            self._owed = True

    def close(self) -> None:
        """Give up the connection, then the socket."""
        if self._wire is not None:
            self._wire.close()
        super().close()

    def break_down(self) -> None:
        """Give up the connection, and subscribe with the next."""
        super().break_down()
        wire, self._wire, self._subscribed = self._wire, None, False
        if wire is not None:
            wire.close()

    def stop_accepting(self) -> None:
        """End here if nobody takes what is there: the log has it."""
        super().stop_accepting()
        if self._blocked:
            self._give_up()

    def watch_peers(self) -> None:
        """Take the monitor's events."""
        super().watch_peers()
        if not len(self.peers):
            self.awake = True  # they may have been all that wanted something

    def _give_up(self) -> None:
        self._wanted = False
        if self._wire is not None:
            self._wire.close()

    # Who is there.

    def _take_subscriptions(self) -> None:
        while True:
            try:
                told = self.socket.recv(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                if events(self.socket) & zmq.POLLIN:
                    continue
                break
            self._prefixes.told(told)
        if self._prefixes.full:
            super().watch_peers()  # of those who are gone there may have been messages left
            if not len(self.peers):
                self._prefixes.peers_gone()
        if self._prefixes and not self._wanted:
            self._wanted = True
            if self.house.options.start != "latest":
                self.due_ns = time.monotonic_ns() + SETTLE_NS
        elif not self._prefixes and self._wanted:
            self._wanted = False
            self.due_ns = 0
            self._unsubscribe()

    def _look_at_peers(self, now_ns: int) -> None:
        """Say which peer holds a blocked door, and end one that is gone, or has held it too long."""
        self._look_ns = 0
        if not self._blocked:
            self.peers.look_away()
            return
        self._look_ns = now_ns + LOOK_NS
        self._blocked_ns = self._blocked_ns or now_ns
        self.watch_peers()
        longest = self.house.options.hold if self._for_all else 0
        for holder in self.peers.holders(now_ns):
            held_ns = now_ns - max(holder.still_ns, self._blocked_ns)
            if held_ns < HELD_NS:
                continue
            seconds = held_ns // NS_PER_S
            if holder.dead or (longest and held_ns >= longest):
                self.counts["let_go"] += 1
                LOG.warning(
                    "%s: ended the connection of %s, which had held the door for %d s: %s; what was "
                    "on its way to it is lost to it",
                    self.name,
                    holder.address,
                    seconds,
                    "its machine answers nothing" if holder.dead else "it reads nothing",
                )
                self.peers.let_go(holder.fd)
            elif self._for_all:
                end = f"until it has done so for {longest // NS_PER_S} s" if longest else "for ever"
                self.say(
                    "held for %d s by %s, which reads nothing: the others at this door wait, %s "
                    "(?hold=)",
                    seconds,
                    holder.address,
                    end,
                )

    def _subscribe(self) -> None:
        options = self.house.options
        if self._wire is None or self._wire.over:
            try:
                self._wire = self._connect()
            except Refused as error:
                self.turned_away(f"the broker takes no more connections: {error}")
                return
            # The one before may have ended within a batch: the new one begins with its first.
            self._pump = pumps.make_pump(self.socket, self._map)
        self._subscription += 1
        self._subscribed = True
        durable = options.durable if not self._for_all and options.durable else None
        if self._positions:  # the connection before has ended: nothing since then is left out
            start = m.Start(at="positions", positions=dict(self._positions))
        elif durable is not None:
            earliest = options.start == "earliest"
            start = m.Start(at="durable", otherwise="earliest" if earliest else "latest")
        else:
            start = m.Start(at=options.start if self._for_all else "latest")
        self._wire.say(m.Subscribe(self._subscription, self._pattern, start=start, durable=durable))
        self._owed = True

    def _unsubscribe(self) -> None:
        if self._subscribed and self._wire is not None and not self._wire.over:
            self._wire.say(m.Unsubscribe(self._subscription))
            self._owed = True
        self._subscribed = False
        self._positions = {}

    # Moving.

    def _hand_on(self) -> int:
        wire = self._wire
        assert wire is not None
        views = wire.connection.output(PULL_BYTES) if not wire.over else ()
        if not views:
            self._owed = False
            return 0
        total = messages = 0
        news = 0
        for view in views:
            offset = 0
            while offset < len(view):
                sent = self._pump.send(view, offset)
                offset += sent.consumed
                messages += sent.messages
                news |= sent.events
                why = sent.why
                if why == pumps.BATCH:
                    self._positions[wire.streams.get(sent.stream, "")] = sent.through
                elif why == pumps.CONTROL:
                    message, size = wire.control(view, offset)
                    offset += size
                    self._control(message)
                    if wire.over:
                        return 1
                elif why == pumps.DAMAGED:
                    self._damaged(sent)
                elif why != pumps.MORE:
                    break
            total += offset
            if offset < len(view):
                self._stopped(sent)
                break
        self.counts["messages"] += messages
        self.counts["batches"] += 1
        wire.done(total)
        if self._for_all and news & zmq.POLLIN:
            self.awake = True  # the pump has taken the descriptor's news with its own
        if not self._for_all and self.house.options.durable and not self.due_ns:
            self.due_ns = time.monotonic_ns() + COMMIT_NS
        return messages + int(total > 0)

    def _stopped(self, sent: Any) -> None:
        self._blocked = True
        if self.stopping:
            self._give_up()
        if sent.why == pumps.BLOCKED:
            self.counts["blocks"] += 1
        else:
            self.say("sending failed: %s", os.strerror(sent.error))

    def _damaged(self, sent: Any) -> None:
        self.counts["damaged"] += 1
        LOG.error(
            "%s: a message of the log is not sound: what follows it among the sequences %d to %d "
            "was left out",
            self.name,
            sent.after + 1,
            sent.through,
        )

    def _control(self, message: Any) -> None:
        assert self._wire is not None
        if isinstance(message, m.Gap):
            self.counts["gaps"] += 1
            self.counts["gap_messages"] += message.last - message.first + 1
            LOG.warning(
                "%s: the sequences %d to %d of stream %r cannot be delivered (%s)",
                self.name,
                message.first,
                message.last,
                self._wire.streams.get(message.stream, "?"),
                message.reason,
            )
        elif isinstance(message, m.Error):
            if message.fatal or message.subscription is not None:
                if message.fatal:
                    self._wire.close()
                self._subscribed = False
                if message.code == "durable_in_use":
                    self._positions = {}  # the name's are what the other has committed
                self.turned_away(f"the broker refused: {message.message} [{message.code}]")
            else:
                self.say("the broker refused: %s [%s]", message.message, message.code)
        elif isinstance(message, m.Stream):
            self.let_in()
        elif isinstance(message, m.Close):
            self._wire.say(m.Close())
            self._wire.close()
            self._wanted = False
