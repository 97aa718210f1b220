"""``tcp://`` keeps the contract of transports."""

from hermes.testing.transport import TransportContract


class TestTcp(TransportContract):
    """Over IPv4."""

    url = "tcp://127.0.0.1:0"
