"""Every option of every transport's and storage's URL, with values of every kind: a broker opens and a
client connects, or one of our errors says why not.

The options are found in the plugins' own structs.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from urllib.parse import quote

import msgspec
import pytest

import hermes
from hermes import errors
from hermes.plugins.discovery import default_plugins
from tests.effort import effort

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

VALUES = [
    "", "x", "-1", "0", "1", "9" * 30, "9" * 5000, "inf", "nan", "1e400", "1s", "0s", "1ns", "true",
    "10000000TiB", "4TiB", "100000000d", "0.5", "100%", "\u20ac", "127.0.0.1", "/", "64KiB",
    "2147483648", "4294967296", "\udcff",
]  # fmt: skip
LISTENERS = {
    "inproc": "inproc:",
    "tcp": "tcp://127.0.0.1:0",
    "tcp+auto": "tcp+auto://127.0.0.1:0",
    "uring+tcp": "uring+tcp://127.0.0.1:0",
    "udp": "udp://127.0.0.1:0",
    "zmq+tcp": "zmq+tcp://127.0.0.1:0",
    "zmq+ipc": "zmq+ipc:PATH",
}
DEADLINE_S = 60.0
OURS = tuple(name for name in default_plugins().names("transport") if name in LISTENERS)


SHARE = effort(3, 1)
"""Every so many-th value is tried with an option: among them, options have all values."""


def queries(plugin: object, role: str) -> list[str]:
    """Options of a plugin in one role, with values, as a URL has them."""
    names = [field.encode_name for field in msgspec.structs.fields(getattr(plugin, role))]
    return [
        f"{name}={quote(value, errors='surrogateescape')}"
        for at, name in enumerate(names)
        for value in VALUES[at % SHARE :: SHARE]
    ]


def usable(scheme: str) -> bool:
    """Whether the transport works on this machine."""
    try:
        default_plugins().transport(scheme)
    except errors.PluginError:
        return False
    return True


@pytest.mark.parametrize("scheme", OURS)
def test_an_option_of_a_listener_works_or_is_refused(scheme: str, tmp_path: Path) -> None:
    """Nothing but a HermesError ever comes of one."""
    if not usable(scheme):
        pytest.skip(f"{scheme} does not work here")
    base = LISTENERS[scheme].replace("PATH", str(tmp_path / "door"))
    for query in queries(default_plugins().transport(scheme), "listen_options"):
        with contextlib.suppress(errors.HermesError):
            broker = hermes.Broker(listeners=[f"{base}?{query}"], storage="memory")
            try:
                broker.open()
            finally:
                broker.close()


@pytest.mark.parametrize("scheme", [name for name in OURS if not name.startswith("zmq")])
def test_an_option_of_a_client_works_or_is_refused(scheme: str) -> None:
    """Nothing but a HermesError ever comes of one, and the broker goes on."""
    if not usable(scheme):
        pytest.skip(f"{scheme} does not work here")
    with hermes.Broker(listeners=[LISTENERS[scheme]], storage="memory") as broker:
        for query in queries(default_plugins().transport(scheme), "dial_options"):
            with (
                contextlib.suppress(errors.HermesError),
                hermes.connect(f"{broker.url}?{query}", timeout=DEADLINE_S) as client,
            ):
                client.ping()
        with hermes.connect(broker.url, timeout=DEADLINE_S) as client:
            client.ping()


@pytest.mark.parametrize("scheme", ["memory", "mmap", "sqlite"])
def test_an_option_of_a_storage_works_or_is_refused(scheme: str, tmp_path: Path) -> None:
    """Nothing but a HermesError ever comes of one."""
    place = "" if scheme == "memory" else str(tmp_path / "data")
    for query in queries(default_plugins().storage(scheme), "options"):
        with contextlib.suppress(errors.HermesError):
            broker = hermes.Broker(listeners=["inproc:"], storage=f"{scheme}:{place}?{query}")
            try:
                broker.open()
            finally:
                broker.close()
