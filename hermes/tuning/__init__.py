"""Settings of a machine that cost latency, and how to change them and back.

``machine`` reads and writes settings, ``checks`` judges them, ``changes`` applies a plan and undoes
it.  Knows nothing of brokers: the command ``hermes tune`` is its only user.
"""

from hermes.tuning.changes import Outcome, Store, apply, revert
from hermes.tuning.checks import CHECKS, Check, Finding, Status
from hermes.tuning.machine import Change, Machine

__all__ = [
    "CHECKS",
    "Change",
    "Check",
    "Finding",
    "Machine",
    "Outcome",
    "Status",
    "Store",
    "apply",
    "revert",
]
