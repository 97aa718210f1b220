"""``tcp://`` keeps the contract of transports."""

import selectors

import pytest

from hermes.testing.transport import TransportContract
from hermes.testing.transport.backpressure import BackPressureContract
from hermes.testing.transport.broker import BrokerContract
from hermes.testing.transport.exchange import ExchangeContract
from hermes.testing.transport.lifecycle import LifecycleContract
from hermes.testing.transport.options import OptionsContract
from hermes.testing.transport.output import OutputContract
from hermes.testing.transport.readiness import ReadinessContract
from hermes.testing.transport.reliability import ReliabilityContract
from tests.effort import effort
from tests.selecting import DescribedSelector

pytestmark = pytest.mark.slow


class TestTcp(TransportContract):
    """Over IPv4: all of it."""

    url = "tcp://127.0.0.1:0"
    cycles = effort(250, 1000)


class TestTcpOverIPv6(OptionsContract, ExchangeContract):
    """Over IPv6: what an address may change."""

    url = "tcp://[::1]:0"


class TestTcpWithoutEpoll(
    BrokerContract,
    ReliabilityContract,
    BackPressureContract,
    ReadinessContract,
    OutputContract,
    ExchangeContract,
    LifecycleContract,
):
    """Over a selector that is not epoll's but has a descriptor, as kqueue's has: all that waits."""

    url = "tcp://127.0.0.1:0"
    cycles = effort(250, 1000)

    @pytest.fixture(autouse=True)
    def without_epoll(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every selector made here is the other one."""
        monkeypatch.setattr(selectors, "DefaultSelector", DescribedSelector)
