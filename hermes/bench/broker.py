"""``python -m hermes.bench.broker CONFIG``: what ``hermes serve`` does, for one visit.

``CONFIG`` is JSON, the configuration's own names.  Says in one line of JSON where it listens, and
ends with the program that started it.
"""

from __future__ import annotations

import json
import sys

from hermes.base.platform import follow_parent
from hermes.bench.actor import say
from hermes.errors import HermesError


def main(config: str) -> None:
    """Serve until killed."""
    from hermes.broker import Broker

    broker = Broker(**json.loads(config))
    try:
        broker.open()
    except HermesError as error:
        say({"error": f"{type(error).__name__}: {error}"})
        raise SystemExit(1) from error
    doors = {role: url for each in broker.listeners for role, url in each.doors.items()}
    say({"where": {"url": broker.url, "storage": broker.storage_url, "doors": doors}})
    broker.run()


if __name__ == "__main__":
    follow_parent()
    main(sys.argv[1])
