"""``zmq+tcp://`` and ``zmq+ipc://`` keep the contract of transports, through their router door."""

import pytest

from hermes.testing.transport import TransportContract
from hermes.testing.transport.exchange import ExchangeContract
from hermes.testing.transport.options import OptionsContract
from tests.effort import effort

pytestmark = pytest.mark.slow


class TestZmqTcp(TransportContract):
    """Over TCP: all of it."""

    url = "zmq+tcp://127.0.0.1:0?doors=router"
    cycles = effort(250, 1000)


class TestZmqIpc(OptionsContract, ExchangeContract):
    """Over a path: what an address may change."""

    url = "zmq+ipc://{tmp}/door?doors=router"
