"""The contract of plugins that act in a broker, as tests.

A plugin's author writes::

    from hermes.testing.plugin import *

    class TestMine(PluginContract):
        name = "mine"
        believed = ("alice", {"token": "alice-has-a-long-token"})

        @classmethod
        def prepare(cls, place):
            (place / "users").write_text("alice alice-has-a-long-token")
            return {"file": str(place / "users")}

and pytest collects the whole suite from there.  The class may say:

``name``
    Name of the plugin, as ``hermes serve --plugin`` takes it.
``believed``
    Identity and credentials of a client that the plugin accepts; needed if it implements
    ``hermes_authenticate``.
``options``
    Options that it is activated with; ``prepare(place)`` returns them if files are needed.
``factory``
    Makes the plugin if it is not installed: a class, or ``staticmethod`` of a function.
``deadline_s``
    Bounds every wait.
``import_max_ms``
    Milliseconds that importing the plugin may take.

The hooks that the plugin does not implement are skipped, and the reason names them.
"""

from __future__ import annotations

import pytest

GROUPS = ("registration", "activation", "authentication", "broker")
"""The modules of this package that hold tests, in the order in which they run."""

pytest.register_assert_rewrite("hermes.testing.contract", "hermes.testing.registration")
pytest.register_assert_rewrite(*(f"{__name__}.{group}" for group in (*GROUPS, "contract")))

from hermes.testing.plugin.activation import ActivationContract  # noqa: E402
from hermes.testing.plugin.authentication import AuthenticationContract  # noqa: E402
from hermes.testing.plugin.broker import BrokerContract  # noqa: E402
from hermes.testing.plugin.registration import RegistrationContract  # noqa: E402

__all__ = ["PluginContract"]


class PluginContract(  # pytest collects the tests of the last base first
    BrokerContract, AuthenticationContract, ActivationContract, RegistrationContract
):
    """Everything that is expected of a plugin; see the module."""
