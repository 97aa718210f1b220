"""``inproc://`` keeps the contract of transports."""

from hermes.testing.transport import TransportContract


class TestInproc(TransportContract):
    """Under names of its own choice."""

    url = "inproc:"
