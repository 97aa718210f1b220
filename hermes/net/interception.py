"""Faults on purpose for datagrams: loss, repetition, reordering, delay, damage, black-outs.

Part of the SPI: a transport over datagrams passes what it sends through an :class:`Interceptor`
when its option ``intercept`` is set.  Knows no socket and no clock: time is an argument, chance
comes from the seed, so the same datagrams at the same times meet the same faults.

A specification is a list of ``fault=value``, as in ``loss=1%,burst=4,delay=2ms,seed=7``; the
fields of :class:`Interception` say what each does.
"""

from __future__ import annotations

import dataclasses
import difflib
import heapq
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from hermes.errors import InvalidUrl
from hermes.spi.units import Duration, duration

QUEUE_MAX = 65_536
"""Datagrams held back at once: a second of 60,000 a second.  Further ones are dropped, as by a
router whose queue is full."""
QUEUE_BYTES_MAX = 64 << 20
"""Bytes held back at once, for the same reason."""
REORDER_SPAN = 8
"""A reordered datagram is overtaken by at most so many others: more than the three from which
protocols usually infer a loss."""
REORDER_NS = 10_000_000
"""A reordered datagram that nobody overtakes is handed on after this time all the same."""
HELD_MAX = 256
"""Datagrams that wait to be overtaken at once; further ones are not reordered."""
FLIPS_MAX = 3
"""Bits that differ in a corrupted datagram, at most: any checksum of 32 bits must notice."""
BURST_MAX = 10_000
"""Mean length of a run of losses, at most."""

_SHARE = re.compile(r"(\d+(?:\.\d+)?|\.\d+)%\Z")


class Share(float):
    """A probability; read from and written as a percentage."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"{self * 100:.10g}%"


NEVER = Share(0)
AT_ONCE = Duration(0)


@dataclass(frozen=True, slots=True)
class Blackout:
    """A time in which nothing passes."""

    start: Duration
    """Delay of the blackout after the first datagram."""
    length: Duration

    def __str__(self) -> str:
        return f"{self.start}+{self.length}"


@dataclass(frozen=True, slots=True)
class Interception:
    """A parsed specification.  ``str()`` gives it back, without what is at its default."""

    loss: Share = NEVER
    """Share of datagrams that vanish, as in ``1%``."""
    burst: int = 1
    """Mean number of datagrams lost in a row; the share stays that of ``loss``.  1: each is lost
    or not, whatever happened to the one before."""
    duplicate: Share = NEVER
    """Share of datagrams that arrive twice."""
    reorder: Share = NEVER
    """Share of datagrams that are overtaken by one to eight of those behind them."""
    delay: Duration = AT_ONCE
    """How long every datagram is under way, as in ``2ms``."""
    jitter: Duration = AT_ONCE
    """Up to so much more, for each datagram another time: those close together change order."""
    truncate: Share = NEVER
    """Share of datagrams that lose their tail."""
    corrupt: Share = NEVER
    """Share of datagrams in which one to three bits are flipped."""
    blackout: Blackout | None = None
    """``START+LENGTH``: nothing passes for LENGTH, beginning START after the first datagram, as in
    ``500ms+2s``."""
    seed: int = 0
    """Number from which chance follows: the same seed, the same faults."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a specification; an empty one has no faults.

        Raises:
            InvalidUrl: it is none; the message says what one looks like.
        """
        values: dict[str, Any] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, equals, value = (piece.strip() for piece in part.partition("="))
            if name not in READERS:
                raise InvalidUrl(_unknown_fault(name))
            if name in values:
                raise InvalidUrl(f"intercept: {name} is given twice in {text!r}")
            if not equals:
                raise InvalidUrl(
                    f"intercept: {name} has no value: expected {name}={EXAMPLES[name]}"
                )
            try:
                values[name] = READERS[name](value)
            except ValueError as error:
                raise InvalidUrl(
                    f"intercept: {name}={value}: {error}, as in {name}={EXAMPLES[name]}"
                ) from error
        made = cls(**values)
        if made.burst > 1 and made.loss >= made.burst / (made.burst + 1) and made.loss < 1:
            raise InvalidUrl(
                f"intercept: runs of {made.burst} losses with something between them cannot make "
                f"up {made.loss} of all datagrams: raise burst, or lower loss"
            )
        return made

    def __str__(self) -> str:
        return ",".join(
            f"{field.name}={getattr(self, field.name)}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        )


def _unknown_fault(name: str) -> str:
    close = difflib.get_close_matches(name, READERS, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"intercept: {name!r} is not a fault{hint} (there are: {', '.join(READERS)})"


def _share(text: str) -> Share:
    match = _SHARE.match(text)
    if match is None or float(match[1]) > 100:
        raise ValueError("expected a percentage of 0% to 100%")
    return Share(float(match[1]) / 100)


def _burst(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= BURST_MAX:
        raise ValueError(f"expected a number of datagrams, 1 to {BURST_MAX}")
    return int(text)


def _seed(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) >= 1 << 64:
        raise ValueError("expected a number of 0 or more, below 2**64")
    return int(text)


def _blackout(text: str) -> Blackout:
    start, plus, length = text.partition("+")
    if not plus:
        raise ValueError("expected when it begins and how long it lasts")
    return Blackout(duration(start.strip()), duration(length.strip()))


READERS: dict[str, Callable[[str], Any]] = {
    "loss": _share,
    "burst": _burst,
    "duplicate": _share,
    "reorder": _share,
    "delay": duration,
    "jitter": duration,
    "truncate": _share,
    "corrupt": _share,
    "blackout": _blackout,
    "seed": _seed,
}
"""How the value of each fault is read."""

EXAMPLES = {
    "loss": "1%",
    "burst": "4",
    "duplicate": "0.5%",
    "reorder": "2%",
    "delay": "2ms",
    "jitter": "500us",
    "truncate": "0.1%",
    "corrupt": "0.1%",
    "blackout": "500ms+2s",
    "seed": "7",
}
"""An example of each fault's value."""


class Interceptor:
    """One direction of a faulty wire: datagrams go in, what is left of them comes out.

    ``seed_salt`` tells the interceptors that share a specification apart, so that the two
    directions of a connection do not meet the same faults.  Belongs to one thread.
    """

    def __init__(self, spec: Interception, *, seed_salt: int) -> None:
        self.spec = spec
        self._chance = random.Random(spec.seed << 64 | seed_salt & (1 << 64) - 1)
        self._begun_ns: int | None = None
        self._losing = False
        self._number = 0
        self._bytes = 0
        self._queue: list[tuple[int, int, bytes, Any]] = []  # due, order of admission, what, whom
        self._held: list[_Held] = []  # wait to be overtaken
        self._counters = dict.fromkeys(
            (
                "admitted",
                "lost",
                "blacked_out",
                "overflowed",
                "duplicated",
                "reordered",
                "truncated",
                "corrupted",
                "handed_on",
            ),
            0,
        )

    def admit(self, datagram: bytes | bytearray | memoryview, address: Any, now_ns: int) -> None:
        """A datagram for ``address`` was sent at ``now_ns``; its bytes are copied.

        ``now_ns`` never goes back.  ``address`` is whatever the transport wants to find again.
        """
        spec, chance, counters = self.spec, self._chance, self._counters
        counters["admitted"] += 1
        if self._is_dark(now_ns):
            counters["blacked_out"] += 1
            return
        if self._is_lost():
            counters["lost"] += 1
            return
        self._enqueue(bytes(datagram), address, now_ns)
        if spec.duplicate and chance.random() < spec.duplicate:
            counters["duplicated"] += 1
            self._enqueue(bytes(datagram), address, now_ns)

    def take(self, now_ns: int) -> list[tuple[bytes, Any]]:
        """Take the datagrams due by ``now_ns``, each with its address, in the order of arrival."""
        while self._held and self._held[0].until_ns <= now_ns:
            self._let_go(self._held[0], self._held[0].until_ns)
        taken = []
        while self._queue and self._queue[0][0] <= now_ns:
            _, _, datagram, address = heapq.heappop(self._queue)
            self._bytes -= len(datagram)
            taken.append((datagram, address))
        self._counters["handed_on"] += len(taken)
        return taken

    def deadline_ns(self) -> int | None:
        """When :meth:`take` has something next, on the clock of ``now_ns``; None: it has
        nothing."""
        due = [self._queue[0][0]] if self._queue else []
        due += [self._held[0].until_ns] if self._held else []
        return min(due, default=None)

    def counters(self) -> dict[str, int]:
        """Datagrams counted by what happened to them, each name with ``intercept_`` before it, and
        ``intercept_waiting``: how many are under way."""
        waiting = len(self._queue) + len(self._held)
        named = {f"intercept_{name}": count for name, count in self._counters.items()}
        return {**named, "intercept_waiting": waiting}

    def _is_dark(self, now_ns: int) -> bool:
        if self._begun_ns is None:
            self._begun_ns = now_ns
        blackout = self.spec.blackout
        if blackout is None:
            return False
        return 0 <= now_ns - self._begun_ns - blackout.start < blackout.length

    def _is_lost(self) -> bool:
        """Loss in runs is a chain of two states; the chances of leaving each make the runs
        ``burst`` long on average and keep the share of losses."""
        loss, burst = self.spec.loss, self.spec.burst
        if not loss:
            return False
        if burst == 1 or loss >= 1:
            return self._chance.random() < loss
        leaving = 1 / burst if self._losing else loss / (burst * (1 - loss))
        if self._chance.random() < leaving:
            self._losing = not self._losing
        return self._losing

    def _enqueue(self, datagram: bytes, address: Any, now_ns: int) -> None:
        spec, chance, counters = self.spec, self._chance, self._counters
        if spec.corrupt and datagram and chance.random() < spec.corrupt:
            counters["corrupted"] += 1
            datagram = self._flip(datagram)
        if spec.truncate and datagram and chance.random() < spec.truncate:
            counters["truncated"] += 1
            datagram = datagram[: chance.randrange(len(datagram))]
        due_ns = now_ns + spec.delay + (chance.randrange(spec.jitter + 1) if spec.jitter else 0)
        waiting = len(self._queue) + len(self._held)
        if waiting >= QUEUE_MAX or self._bytes + len(datagram) > QUEUE_BYTES_MAX:
            counters["overflowed"] += 1
            return
        self._bytes += len(datagram)
        if spec.reorder and chance.random() < spec.reorder and len(self._held) < HELD_MAX:
            counters["reordered"] += 1
            overtakers = chance.randint(1, REORDER_SPAN)
            self._held.append(_Held(datagram, address, due_ns, due_ns + REORDER_NS, overtakers))
            self._held.sort(key=lambda held: held.until_ns)  # nearly sorted, and short
            return
        self._push(due_ns, datagram, address)
        for held in list(self._held):
            held.overtakers -= 1
            if not held.overtakers:
                self._let_go(held, max(held.due_ns, due_ns))

    def _let_go(self, held: _Held, due_ns: int) -> None:
        self._held.remove(held)
        self._push(due_ns, held.datagram, held.address)

    def _push(self, due_ns: int, datagram: bytes, address: Any) -> None:
        self._number += 1
        heapq.heappush(self._queue, (due_ns, self._number, datagram, address))

    def _flip(self, datagram: bytes) -> bytes:
        damaged = bytearray(datagram)
        bits = range(8 * len(damaged))
        for bit in self._chance.sample(bits, self._chance.randint(1, min(FLIPS_MAX, len(bits)))):
            damaged[bit // 8] ^= 1 << bit % 8
        return bytes(damaged)


@dataclass(slots=True, eq=False)
class _Held:
    """A datagram that waits to be overtaken."""

    datagram: bytes
    address: Any
    due_ns: int
    until_ns: int
    overtakers: int
