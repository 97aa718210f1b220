"""Answers of a broker about itself: to the queries ``streams``, ``topics``, ``stats``, ``durables``
and ``config``.

An answer comes in pages that are made when the client takes them, so that a million topics cost no
more than one page.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from hermes.base.shown import redacted
from hermes.broker.config import to_values
from hermes.broker.context import Context
from hermes.broker.owners import durable_name
from hermes.broker.streams import ServedStream
from hermes.errors import InvalidTopic
from hermes.native.patterns import check_pattern, match
from hermes.spi.hooks import EVERYTHING, Grant
from hermes.wire.codec import CONTROL_MAX

FORGET = "forget"
"""The one that asks for something to be done: a durable name to be forgotten."""
QUESTIONS = ("config", "durables", FORGET, "stats", "streams", "topics")
INSPECTIONS = ("config", "durables", "stats")
"""Queries that concern other clients or the machine: a grant has to allow them with ``inspect``."""
PAGE = 256
"""Topics or durable names looked at for a page: each takes microseconds, in which the loop serves
nobody else.  Topics with the longest names stay under the limit of a control frame."""
PAGE_BYTES = CONTROL_MAX // 4
"""Encoded bytes after which a page of durable names ends: how long one is depends on how many
streams it has positions in, of which 64 with the longest names take 5 KiB."""
CONNECTIONS_PAGE = 512
"""Connections described on a page, and in all unless ``connections=all`` was asked."""

Page = tuple[object, bool]


def may_ask(grant: Grant, what: str) -> bool:
    """Whether a peer with ``grant`` may ask that."""
    return grant.forget if what == FORGET else grant.inspect or what not in INSPECTIONS


def pages(
    context: Context, what: str, arguments: dict[str, str], grant: Grant | None
) -> Iterator[Page] | None:
    """The answer to one query; None if there is none.  ``grant``: what the peer may see."""
    if what == "streams":
        return iter([([describe(stream) for stream in context.streams], False)])
    if what == "topics":
        return _topics(context, arguments, grant)
    if what == "durables":
        return _durables(context)
    if what == "stats":
        return _stats(context)
    if what == "config":
        return iter([(_configuration(context), False)])
    return None


def describe(stream: ServedStream) -> dict[str, Any]:
    """One stream: what it holds, what it claims, how much it keeps."""
    status, counts = stream.log.status(), stream.native.status()
    return {
        "name": stream.name,
        "index": stream.index,
        "patterns": stream.config.patterns,
        "first_sequence": status.first_sequence,
        "last_sequence": status.next_sequence - 1,
        "messages": status.next_sequence - status.first_sequence,
        "bytes": status.end_position - status.start_position,
        "topics": counts.topics,
        "topics_max": stream.topics_max,
        "create_topics": stream.config.create_topics,
        "segments": status.segments,
        "segment_bytes": stream.log.segment_bytes,
        "retention_bytes": stream.log.retention_bytes,
        "retention_ns": stream.log.retention_ns,
        "failed": status.failed,
    }


def counters(context: Context) -> dict[str, Any]:
    """Every counter of the broker, but for those of single connections."""
    return {
        "pid": os.getpid(),
        "server": context.server,
        "python": sys.version.split()[0],
        "uptime_ns": time.monotonic_ns() - context.started_ns,
        "loop": {
            "passes": context.loop.passes,
            "waits": context.loop.waits,
            "served_rounds": context.counters.served_rounds,
            "idle": context.config.idle,
        },
        "connections": {"open": len(context.connections), "total": context.counters.connections},
        "refusals": context.counters.refusals,
        "denials": context.counters.denials,
        "violations": context.counters.violations,
        "failures": context.guard.faults.count,
        "lost_listeners": list(context.counters.lost_listeners),
        "plugins": {"active": context.hooks.names, "failures": context.hooks.failures},
        "durable_names": len(context.durables.positions),
        "position_saves": context.durables.positions.saves,
        "unpinned_bytes": context.counters.copied_bytes,
        "listeners": [{"url": agent.url, **agent.counters()} for agent in context.agents],
        "streams": {stream.name: _stream_counters(stream) for stream in context.streams},
    }


def _configuration(context: Context) -> dict[str, Any]:
    """Configuration of the broker, without passwords; of plugins' options only the names: a value may
    be a secret."""
    values = to_values(context.config)
    return {
        **values,
        "listeners": [redacted(text) for text in values["listeners"]],
        "storage": redacted(values["storage"]),
        "plugins": {name: list(of) for name, of in values["plugins"].items()},
    }


def _stream_counters(stream: ServedStream) -> dict[str, int]:
    status, counts = stream.log.status(), stream.native.status()
    return {
        **counts._asdict(),
        "appends": status.appends,
        "segments": status.segments,
        "spares": status.spares,
        "recycled": status.recycled,
        "trimmed": status.trimmed,
        "pinned": status.pinned,
        "cold_rolls": status.cold_rolls,
        "hot": status.hot,
        "hot_bytes": status.hot_bytes,
        "syncs": status.syncs,
        "synced_sequence": status.synced_sequence,
        "gaps": stream.gaps,
    }


def _stats(context: Context) -> Iterator[Page]:
    """The counters, then the connections, page by page."""
    numbers = list(context.connections)
    described: dict[str, Any] = counters(context)
    for first in range(0, max(1, len(numbers)), CONNECTIONS_PAGE):
        page = [
            connection.describe()
            for number in numbers[first : first + CONNECTIONS_PAGE]
            if (connection := context.connections.get(number)) is not None
        ]
        more = first + CONNECTIONS_PAGE < len(numbers)
        yield {**described, "clients": page}, more
        described = {}


def _durables(context: Context) -> Iterator[Page]:
    """The durable names that have committed something, page by page."""
    page: list[msgspec.Raw] = []
    seen = size = 0
    for key in context.durables.positions.names():
        positions = context.durables.positions.get(key)
        if positions is not None:  # not forgotten since
            owner, name = durable_name(key)
            described = {
                "name": name,
                "identity": owner,
                "positions": positions,
                "in_use": context.durables.holder(key) is not None,
            }
            page.append(msgspec.Raw(msgspec.msgpack.encode(described)))
            size += len(page[-1])
        seen += 1
        if seen == PAGE or size >= PAGE_BYTES:
            yield page, True
            page, seen, size = [], 0, 0
    yield page, False


def _topics(context: Context, arguments: dict[str, str], grant: Grant | None) -> Iterator[Page]:
    """Topics of the stream and pattern asked for, page by page; an unknown stream has none.  A peer
    sees what it may subscribe to."""
    allowed = EVERYTHING if grant is None or ">" in grant.subscribe else grant.subscribe
    pattern, only = arguments.get("pattern", ">"), arguments.get("stream")
    try:
        check_pattern(pattern)
    except InvalidTopic:
        yield [], False
        return
    for stream in context.streams:
        if only is not None and stream.name != only:
            continue
        first = 0
        while topics := stream.native.topics(first, PAGE):
            first += len(topics)
            page = [
                {
                    "stream": stream.name,
                    "topic": topic.name,
                    "last_sequence": topic.last_sequence,
                    "messages": topic.messages,
                }
                for topic in topics
                if (pattern == ">" or match(pattern, topic.name))
                and (allowed == EVERYTHING or any(match(one, topic.name) for one in allowed))
            ]
            yield page, True  # an empty one too: others have their turn in between
    yield [], False
