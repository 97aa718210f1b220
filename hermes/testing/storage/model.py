"""Model: any sequence of calls gives what a list would give."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from hermes.native import Hole, Run
from hermes.testing.compare import same
from hermes.testing.scribe import MESSAGE_MAX, SEGMENT, SETTINGS, Scribe, sync
from hermes.testing.storage.contract import Contract, Ground

KEEP = 6 * SEGMENT
EXAMPLES = 12
STEPS = 40
PUBLISHERS = [None, b"a" * 16, b"b" * 16, b"c" * 16]
SIZES = st.lists(st.integers(0, MESSAGE_MAX), min_size=1, max_size=6)


class Machine(RuleBasedStateMachine):
    """A log and its record; a subclass names the contract."""

    contract: Contract

    def __init__(self) -> None:
        super().__init__()
        self.undo = ExitStack()
        self.ground = Ground(self.contract, self.undo)
        self.settings = replace(SETTINGS, retention_bytes=KEEP)
        self.capabilities = self.contract.make().capabilities
        self.storage = self.ground.open()
        log = self.ground.log(self.storage, settings=self.settings)
        self.scribe = Scribe(log, self.contract.deadline_s)

    @rule(sizes=SIZES, publisher=st.sampled_from(PUBLISHERS))
    def append(self, sizes: list[int], publisher: bytes | None) -> None:
        """Some messages."""
        self.scribe.append(sizes, publisher=publisher)
        self.scribe.forget()  # some logs trim as they append

    @rule(limit=st.integers(0, 100_000))
    def read(self, limit: int) -> None:
        """Everything, in steps."""
        self.scribe.check(limit)

    @rule(data=st.data())
    def read_one(self, data: Any) -> None:
        """From any message on."""
        if self.scribe.kept:
            message = data.draw(st.sampled_from(self.scribe.kept))
            found = self.scribe.log.read(message.position, 1)
            assert isinstance(found, Run)
            assert same(bytes(found.view), message.frame)

    @rule(sequence=st.integers(0, 400))
    def locate(self, sequence: int) -> None:
        """Any sequence."""
        assert tuple(self.scribe.log.locate(sequence)) == self.scribe.at(sequence)

    @rule()
    def publishers(self) -> None:
        """Everybody is known."""
        for publisher in PUBLISHERS[1:]:
            assert publisher is not None
            expected = self.scribe.publishers.get(publisher, 0)
            assert self.scribe.log.publisher_sequence(publisher) == expected

    @rule()
    def trim(self) -> None:
        """Remove what retention does not keep."""
        self.scribe.log.trim(self.scribe.time_ns)
        self.scribe.forget()
        if self.scribe.start:
            assert isinstance(self.scribe.log.read(0, 1), Hole)

    @precondition(lambda self: self.capabilities.durable)
    @rule()
    def sync(self) -> None:
        """Count all that was appended as synced."""
        sync(self.scribe.log, self.scribe.next_sequence - 1, self.contract.deadline_s)

    @precondition(lambda self: self.capabilities.persistent)
    @rule()
    def reopen(self) -> None:
        """In order."""
        self.scribe.log.close()
        self.storage.close()
        self.storage = self.ground.open()
        self.scribe.log = self.ground.log(self.storage, settings=self.settings)
        self.scribe.forget()

    def teardown(self) -> None:
        """Close everything."""
        self.undo.close()


class ModelContract(Contract):
    """The whole interface of a log, in any order."""

    def test_any_calls_in_any_order(self) -> None:
        """After any calls, the log reads, locates and remembers the same as a list in memory."""
        machine = type("Machine", (Machine,), {"contract": self})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
