"""``tcp://`` keeps the contract of transports."""

import selectors

import pytest

from hermes.testing.transport import TransportContract
from hermes.testing.transport.exchange import ExchangeContract
from hermes.testing.transport.options import OptionsContract
from tests.selecting import DescribedSelector

pytestmark = pytest.mark.slow


class TestTcp(TransportContract):
    """Over IPv4: all of it."""

    url = "tcp://127.0.0.1:0"


class TestTcpOverIPv6(OptionsContract, ExchangeContract):
    """Over IPv6: what an address may change."""

    url = "tcp://[::1]:0"


class TestTcpWithoutEpoll(TransportContract):
    """Over a selector that is not epoll's but has a descriptor, as kqueue's has: all of it."""

    url = "tcp://127.0.0.1:0"

    @pytest.fixture(autouse=True)
    def without_epoll(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every selector made here is the other one."""
        monkeypatch.setattr(selectors, "DefaultSelector", DescribedSelector)
