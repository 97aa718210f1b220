"""The compiled engine, bound to the core; what every module of this package reaches it through."""

from __future__ import annotations

from typing import Any

import hermes_udp._native as _native
from hermes.native.api import api_address

ffi: Any = _native.ffi
lib: Any = _native.lib

lib.hu_bind(api_address())

REASONS: dict[int, str] = {
    lib.HU_BYE: "it closed the session",
    lib.HU_UNKNOWN: "it does not know the session any more: it was restarted, or had given us up",
    lib.HU_REFUSED: "it takes no further sessions",
    lib.HU_SILENT: "nothing was heard from it for too long",
    lib.HU_GONE: "nobody listens there any more",
}
"""Why a session has ended, by number."""

ENDPOINT = (
    "datagrams_in",
    "reads",
    "datagrams_out",
    "writes",
    "malformed",
    "unknown_session",
    "spoofed",
    "requests",
    "bad_cookies",
    "replayed",
    "refused",
    "resets_sent",
    "resets_spared",
    "dropped",
    "no_room",
    "no_route",
    "shrunk",
    "overflows",
)
SESSION = (
    "sent",
    "received",
    "statuses_sent",
    "nacks_sent",
    "nacks_received",
    "keepalives",
    "impossible",
    "echoes_ignored",
)
SENDER = (
    "datagrams",
    "bytes",
    "repeats",
    "repeat_bytes",
    "probes",
    "calls",
    "calls_ignored",
    "calls_spared",
    "stalls",
    "losses",
)
RECEIVER = (
    "datagrams",
    "duplicates",
    "reordered",
    "outside",
    "crowded",
    "holes",
    "calls",
    "retries",
)

GROUP = (
    "beacons",
    "datagrams",
    "repeats",
    "foreign",
    "impossible",
    "nacks_sent",
    "nacks_spared",
    "cuts",
    "skipped_bytes",
)
CASTER = (
    "envelopes",
    "datagrams",
    "bytes",
    "repeats",
    "repeat_bytes",
    "beacons",
    "nacks",
    "calls",
    "calls_held",
    "calls_late",
    "calls_spared",
    "full",
    "slowed",
    "nameless",
)


def fields(counters: Any, names: tuple[str, ...], prefix: str = "") -> dict[str, int]:
    """A C struct of counters by name."""
    return {prefix + name: int(getattr(counters, name)) for name in names}


class Counts:
    """Reads the counters of one session at a time."""

    def __init__(self) -> None:
        self.endpoint = ffi.new("hu_endpoint_counters *")
        self.session = ffi.new("hu_session_counters *")
        self.sender = ffi.new("hu_sender_counters *")
        self.receiver = ffi.new("hu_receiver_counters *")

    def of_session(self, session: Any) -> dict[str, int]:
        """The counters of ``session``."""
        lib.hu_session_count(session, self.session)
        lib.hu_sender_count(lib.hu_session_sender(session), self.sender)
        lib.hu_receiver_count(lib.hu_session_receiver(session), self.receiver)
        return self.last()

    def last(self) -> dict[str, int]:
        """Counters as they were read last, under their names in ``hermes stats``."""
        return {
            **fields(self.session, SESSION),
            **fields(self.sender, SENDER, "out_"),
            **fields(self.receiver, RECEIVER, "in_"),
        }

    def of_endpoint(self, endpoint: Any) -> dict[str, int]:
        """The counters of ``endpoint``."""
        lib.hu_endpoint_count(endpoint, self.endpoint)
        return fields(self.endpoint, ENDPOINT)
