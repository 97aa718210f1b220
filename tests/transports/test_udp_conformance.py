"""``udp://`` keeps the contract of transports."""

from hermes.testing.transport import TransportContract


class TestUdp(TransportContract):
    """Over IPv4."""

    url = "udp://127.0.0.1:0"
