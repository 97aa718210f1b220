"""``tcp://`` keeps the contract of transports."""

import pytest

from hermes.testing.transport import TransportContract
from hermes.testing.transport.exchange import ExchangeContract
from hermes.testing.transport.options import OptionsContract

pytestmark = pytest.mark.slow


class TestTcp(TransportContract):
    """Over IPv4: all of it."""

    url = "tcp://127.0.0.1:0"


class TestTcpOverIPv6(OptionsContract, ExchangeContract):
    """Over IPv6: what an address may change."""

    url = "tcp://[::1]:0"
