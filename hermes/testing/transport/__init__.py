"""The contract of transports, as tests.

A plugin's author writes::

    from hermes.testing.transport import *

    class TestMine(TransportContract):
        url = "mine://127.0.0.1:0"

and pytest collects the whole suite from there.  The class may say more:

``url``
    A listener's URL that is free each time: with port 0 or what means the same, or with ``{tmp}``,
    which becomes a new directory for each listener.
``factory``
    Makes the transport if it is not installed: a class, or ``staticmethod`` of a function.
``client_options``
    Options that a client's URL needs besides where the listener is, by name.
``deadline_s``, ``loss_deadline_s``
    Bound every wait, and how long it may take to notice that a peer was killed.
``import_max_ms``
    What importing the plugin may cost.

What the transport does not claim in its :class:`~hermes.spi.transport.Capabilities` is skipped, and
the reason names the capability; else only what the system cannot show, and the reason says so.
``docs/testing-plugins.md`` has the groups; the report that ``--hermes-report FILE`` writes is
described in :mod:`hermes.testing.report`.
"""

from __future__ import annotations

import pytest

GROUPS = (
    "registration",
    "options",
    "lifecycle",
    "exchange",
    "output",
    "readiness",
    "backpressure",
    "errors",
    "reliability",
    "broker",
    "performance",
)
"""The modules of this package that hold tests, in the order in which they run."""

pytest.register_assert_rewrite("hermes.testing.contract", "hermes.testing.registration")
pytest.register_assert_rewrite(*(f"{__name__}.{group}" for group in (*GROUPS, "stage", "contract")))

from hermes.testing.transport.backpressure import BackPressureContract  # noqa: E402
from hermes.testing.transport.broker import BrokerContract  # noqa: E402
from hermes.testing.transport.errors import ErrorsContract  # noqa: E402
from hermes.testing.transport.exchange import ExchangeContract  # noqa: E402
from hermes.testing.transport.lifecycle import LifecycleContract  # noqa: E402
from hermes.testing.transport.options import OptionsContract  # noqa: E402
from hermes.testing.transport.output import OutputContract  # noqa: E402
from hermes.testing.transport.performance import PerformanceContract  # noqa: E402
from hermes.testing.transport.readiness import ReadinessContract  # noqa: E402
from hermes.testing.transport.registration import RegistrationContract  # noqa: E402
from hermes.testing.transport.reliability import ReliabilityContract  # noqa: E402

__all__ = ["TransportContract"]


class TransportContract(  # pytest collects the tests of the last base first
    PerformanceContract,
    BrokerContract,
    ReliabilityContract,
    ErrorsContract,
    BackPressureContract,
    ReadinessContract,
    OutputContract,
    ExchangeContract,
    LifecycleContract,
    OptionsContract,
    RegistrationContract,
):
    """Everything that is expected of a transport; see the module."""
