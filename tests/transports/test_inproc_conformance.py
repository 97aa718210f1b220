"""``inproc://`` keeps the contract of transports."""

import pytest

from hermes.testing.transport import TransportContract
from tests.effort import effort

pytestmark = pytest.mark.slow


class TestInproc(TransportContract):
    """Under names of its own choice."""

    url = "inproc:"
    cycles = effort(250, 1000)
