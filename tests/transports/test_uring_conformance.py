"""``uring+tcp://`` keeps the contract of transports."""

from __future__ import annotations

import pytest

from hermes.testing.transport import TransportContract
from tests.effort import effort
from tests.transports.uring import needs_uring

pytestmark = pytest.mark.slow


@needs_uring
class TestUring(TransportContract):
    """Over IPv4."""

    url = "uring+tcp://127.0.0.1:0"
    cycles = effort(250, 1000)
