"""The contract of storages, as tests.

A plugin's author writes::

    from hermes.testing.storage import *

    class TestMine(StorageContract):
        url = "mine:{tmp}/data"

and pytest collects the whole suite from there.  The class may say more:

``url``
    A place that is empty each time: ``{tmp}`` becomes a new directory.
``factory``
    Makes the backend if it is not installed: a class, or ``staticmethod`` of a function.
``quota_option``
    The option of the URL that bounds the place in bytes, for storages that claim ``quota``; found
    by itself if it is called ``quota``, ``size`` or ``disk``.
``deadline_s``
    Bounds every wait.
``flips``
    How many bytes the damage group changes, one after the other, each in a place of its own.
``import_max_ms``
    What importing the plugin may cost.

What the storage does not claim in its :class:`~hermes.spi.storage.Capabilities` is skipped, and the
reason names the capability; else only what the system cannot show, and the reason says so.
"""

from __future__ import annotations

import pytest

GROUPS = (
    "registration",
    "options",
    "place",
    "state",
    "exchange",
    "lookup",
    "origins",
    "retention",
    "reopening",
    "syncing",
    "full",
    "kill",
    "damage",
    "model",
    "broker",
    "performance",
)
"""The modules of this package that hold tests, in the order in which they run."""

pytest.register_assert_rewrite("hermes.testing.contract", "hermes.testing.registration")
pytest.register_assert_rewrite(*(f"{__name__}.{group}" for group in (*GROUPS, "stage", "contract")))

from hermes.testing.storage.broker import BrokerContract  # noqa: E402
from hermes.testing.storage.damage import DamageContract  # noqa: E402
from hermes.testing.storage.exchange import ExchangeContract  # noqa: E402
from hermes.testing.storage.full import FullContract  # noqa: E402
from hermes.testing.storage.kill import KillContract  # noqa: E402
from hermes.testing.storage.lookup import LookupContract  # noqa: E402
from hermes.testing.storage.model import ModelContract  # noqa: E402
from hermes.testing.storage.options import OptionsContract  # noqa: E402
from hermes.testing.storage.origins import OriginsContract  # noqa: E402
from hermes.testing.storage.performance import PerformanceContract  # noqa: E402
from hermes.testing.storage.place import PlaceContract  # noqa: E402
from hermes.testing.storage.registration import RegistrationContract  # noqa: E402
from hermes.testing.storage.reopening import ReopeningContract  # noqa: E402
from hermes.testing.storage.retention import RetentionContract  # noqa: E402
from hermes.testing.storage.state import StateContract  # noqa: E402
from hermes.testing.storage.syncing import SyncingContract  # noqa: E402

__all__ = ["StorageContract"]


class StorageContract(  # pytest collects the tests of the last base first
    PerformanceContract,
    BrokerContract,
    ModelContract,
    DamageContract,
    KillContract,
    FullContract,
    SyncingContract,
    ReopeningContract,
    RetentionContract,
    OriginsContract,
    LookupContract,
    ExchangeContract,
    StateContract,
    PlaceContract,
    OptionsContract,
    RegistrationContract,
):
    """Everything that is expected of a storage; see the module."""
