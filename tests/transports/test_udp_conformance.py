"""``udp://`` keeps the contract of transports."""

import pytest

from hermes.testing.transport import TransportContract
from tests.effort import effort

pytestmark = pytest.mark.slow


class TestUdp(TransportContract):
    """Over IPv4."""

    url = "udp://127.0.0.1:0"
    cycles = effort(250, 1000)
