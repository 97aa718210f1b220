"""What does UDP cost beside TCP, and what does a lost datagram cost?

Controls: a raw UDP echo in C, which polls at both ends, and the same rounds over TCP.  At a fixed
rate the echo says what the machine does to anybody whose two cores poll: nothing of Hermes is in it,
and its passes take turns with the others'.
Loss is made by the transport itself (its option ``drop``), at both ends, by a seed: nothing but the
loss changes.
"""

from __future__ import annotations

from functools import partial

from benchmarks.system import hermes_rounds, udp_paced
from benchmarks.system.harness import (
    MESSAGE_BYTES,
    TCP,
    Contestant,
    Metrics,
    Question,
    Round,
    Scale,
    Target,
    percentiles,
    rates,
)
from benchmarks.system.udp_paced import Passes, Player, Turns, through_broker
from hermes.bench.actors import ActorCast
from hermes.bench.contestant import Conditions, Job
from hermes.bench.controls import CONTROLS
from hermes.bench.controls import ECHO as ECHO_CONTROL
from hermes.bench.own import SPIN_S

UDP = "udp://127.0.0.1:0"
GROUP = "udp://239.255.76.1:0?interface=127.0.0.1&rate=1GB&rate_min=20MB&history=256MiB"
"""Nobody holds up a group by default; here all share two cores, and are to get everything as from a
session: who falls behind slows it, and has time to be heard before it is cut off."""
SUBSCRIBERS = 4
LARGE, SMALL = 8192, 1408
"""Bytes of a datagram: on loopback, and elsewhere."""
ECHO = "raw UDP echo in C: round trip"
PACED = "raw UDP echo in C: there and back at 20,000/s"
SPIN = "udp, both ends spin: round trip"
SEED = 7


def _faulty(url: str, drop: float, *, mtu: int = 0) -> str:
    options = {"mtu": mtu, "drop": drop, "seed": SEED if drop else 0}
    query = "&".join(f"{name}={value}" for name, value in options.items() if value)
    return f"{url}?{query}" if query else url


def timed(stage: Round, cast: ActorCast, count: int) -> Metrics:
    """Round trips of one message."""
    return percentiles(stage.measure(cast, Job("round_trip", MESSAGE_BYTES), count).latency)


def echo(stage: Round, *, count: int) -> Metrics:
    """Round trips without anything around them."""
    (control,) = (each for each in CONTROLS if each.name == ECHO_CONTROL)
    return timed(stage, control.enter(stage, Conditions(idle="spin")), count)


def roundtrip(
    stage: Round, *, transport: str, count: int, drop: float = 0.0, ack: str = "appended"
) -> Metrics:
    """Round trips of one message through the broker, which also acknowledges it or does not."""
    broker = stage.broker(_faulty(transport, drop), idle="spin")
    url = _faulty(broker.where["url"], drop)
    cast = hermes_rounds.users(stage, broker, url=url, spin_s=SPIN_S, ack=ack)
    return timed(stage, cast, count)


def bulk(stage: Round, *, transport: str, messages: int, mtu: int = 0) -> Metrics:
    """Messages per second between users of the batch API, segments recycled."""
    broker = stage.broker(transport, retention=hermes_rounds.RETENTION)
    cast = hermes_rounds.users(stage, broker)
    job = Job("throughput", MESSAGE_BYTES)
    if not stage.scale.quick:
        cast.warm(job)
    cast.where["url"] = _faulty(broker.where["url"], 0, mtu=mtu)
    return rates(stage.measure(cast, job, messages))


def fan_out(stage: Round, *, transport: str, messages: int) -> Metrics:
    """Messages per second that each of some subscribers gets, all of them everything."""
    broker = stage.broker(transport, retention=hermes_rounds.RETENTION)
    return hermes_rounds.client_throughput(
        stage, messages=messages, subscribers=SUBSCRIBERS, broker=broker
    )


def paced(transport: str, drop: float = 0.0) -> Player:
    """One way, through the broker, at a rate far below what it can do."""
    return partial(
        through_broker, listen=_faulty(transport, drop), dial=partial(_faulty, drop=drop)
    )


def question(scale: Scale) -> Question:
    """Round trips, throughput, and one-way latency under loss."""
    rounds = scale.pick(20_000, 1_000)
    volume = scale.pick(10_000_000, 200_000)
    one_way = {share: f"udp, {share} lost: one way at 20,000/s" for share in _SHARES}
    players: dict[str, Player] = {PACED: udp_paced.echo, "tcp: one way at 20,000/s": paced(TCP)}
    players |= {one_way[share]: paced(UDP, drop) for share, drop in _SHARES.items()}
    pinned = partial(Contestant, pinned=True)
    passes = Passes.of(scale)
    turns = Turns(players, passes)
    lossy = "udp, 0.1% lost: round trip"
    bulks = {size: f"udp, datagrams of {size:,} B: throughput" for size in (LARGE, SMALL)}
    return Question(
        name="udp",
        asks="UDP beside TCP and a raw echo; 256 B messages (one way: 64 B)",
        contestants=(
            pinned(ECHO, partial(echo, count=rounds), "floor"),
            pinned(
                "tcp, both ends spin: round trip", partial(roundtrip, transport=TCP, count=rounds)
            ),
            pinned(SPIN, partial(roundtrip, transport=UDP, count=rounds)),
            pinned(
                "udp, the same without acknowledgements",
                partial(roundtrip, transport=UDP, count=rounds, ack="none"),
            ),
            pinned(lossy, partial(roundtrip, transport=UDP, count=rounds, drop=0.001)),
            *(
                pinned(
                    name,
                    partial(turns.row, name=name),
                    "the machine's own stalls" if name == PACED else "",
                )
                for name in players
            ),
            # Last: the gigabytes they leave behind disturb whatever comes after them.
            Contestant("tcp: throughput", partial(bulk, transport=TCP, messages=volume)),
            *(
                Contestant(name, partial(bulk, transport=UDP, messages=volume, mtu=size))
                for size, name in bulks.items()
            ),
            *(
                Contestant(
                    f"{name}, {SUBSCRIBERS} subscribers: throughput",
                    partial(fan_out, transport=transport, messages=scale.pick(4_000_000, 100_000)),
                )
                for name, transport in (("tcp", TCP), ("udp", UDP), ("udp multicast", GROUP))
            ),
        ),
        targets=(
            Target("round trip beside the raw echo", SPIN, "p50_us", 2.0, True, (ECHO,)),
            Target("throughput, large datagrams", bulks[LARGE], "messages_per_s", 1.5e6),
            Target("throughput, small datagrams", bulks[SMALL], "messages_per_s", 1e6),
            Target("one way, 1% lost", one_way["1%"], "p99_us", 300, True),
            Target("one way, 5% lost", one_way["5%"], "p99_us", 1000, True),
            Target("round trip, 0.1% lost", lossy, "p999_us", 3000, True),
        ),
        notes=(
            "the broker has one core and the client the other, but for throughput",
            f"at 20,000/s, a round: {passes}, which the rows play in turns; each message counts "
            'from when it was to be sent; p50 and p99 are the median pass\'s, "all" is every '
            "message of the round",
            "the group slows down for receivers that fall behind (rate_min=20MB) and keeps 256 MiB for "
            "them, because every row is of receivers that get everything; a gap fails the round",
        ),
    )


_SHARES = {"0%": 0.0, "0.1%": 0.001, "1%": 0.01, "5%": 0.05}
