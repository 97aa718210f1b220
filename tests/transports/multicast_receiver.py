"""A subscriber in a process of its own: says when the group serves it, then what it got.

    python -m tests.transports.multicast_receiver URL PATTERN COUNT

Writes one JSON object a line: ``{"ready": true}``, and at the end how many messages came, their
digest and the channel's counters.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from typing import Any

import hermes
from hermes.errors import Timeout

DEADLINE_S = 60.0


def channel_of(client: hermes.Client) -> Any:
    """The channel that the client reads from; private, because nobody but a test needs it."""
    link = client._connection.link
    assert link is not None
    return link.channel


def await_take_over(
    client: hermes.Client, subscription: hermes.Subscription, count: int = 1
) -> None:
    """Until the group serves ``count`` subscriptions; no message may come meanwhile."""
    end = time.monotonic() + DEADLINE_S
    while channel_of(client).counters()["group_subscriptions"] < count:
        assert time.monotonic() < end, channel_of(client).counters()
        try:
            subscription.receive(0.01)
        except Timeout:
            continue
        raise AssertionError("a message came before its time")


def main() -> None:
    url, pattern, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    digest = hashlib.sha256()
    with hermes.connect(url, timeout=DEADLINE_S) as client, client.subscribe(pattern) as found:
        await_take_over(client, found)
        print(json.dumps({"ready": True}), flush=True)
        for _ in range(count):
            message = found.receive(DEADLINE_S)
            digest.update(b"%d %s " % (message.sequence, message.topic.encode()))
            digest.update(message.payload)
        counters = channel_of(client).counters()
    print(json.dumps({"digest": digest.hexdigest(), "counters": counters}), flush=True)


if __name__ == "__main__":
    main()
