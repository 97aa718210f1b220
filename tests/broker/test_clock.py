"""The broker's clock follows the wall clock when a step has lasted, and not before."""

from __future__ import annotations

import pytest

from hermes.broker.clock import NS_PER_S, STAMP_SETTLE_MAX_NS, WATCH_NS, Clock

HOUR = 3600 * NS_PER_S
YEAR = 365 * 24 * HOUR
BEGUN = 1_700_000_000 * NS_PER_S


class Machine:
    """A machine's two clocks, and a broker's clock that watches them."""

    def __init__(self) -> None:
        self.boot = 5 * HOUR
        self.ahead = 0
        self.steps: list[int] = []
        self.clock = Clock(lambda: BEGUN + self.boot + self.ahead, lambda: self.boot)

    @property
    def truth(self) -> int:
        """The right time."""
        return BEGUN + self.boot

    def pass_time(self, seconds: float) -> None:
        """Let time pass; the broker watches."""
        until = self.boot + int(seconds * NS_PER_S)
        while self.boot < until:
            self.boot += WATCH_NS
            step = self.clock.watch()
            if step is not None:
                self.steps.append(step)

    @property
    def errors(self) -> tuple[int, int]:
        """By how much append times and ages are off."""
        return self.clock.now_ns() - self.truth, self.clock.age_ns() - self.truth


@pytest.mark.parametrize("step", [-HOUR, 10 * YEAR, YEAR, 2 * HOUR, -YEAR])
def test_a_step_that_does_not_last_changes_nothing(step: int) -> None:
    """Two seconds of a wrong time, an hour back or ten years ahead, are not noticed."""
    machine = Machine()
    machine.pass_time(5)
    machine.ahead = step
    machine.pass_time(2)

    assert machine.errors == (0, 0)
    machine.ahead = 0
    machine.pass_time(200)
    assert machine.errors == (0, 0)
    assert machine.steps == []


@pytest.mark.parametrize("step", [-HOUR, 2 * HOUR])
def test_a_step_of_hours_is_believed_after_seconds(step: int) -> None:
    """A clock that was set right, or a machine that was suspended: both judges follow, and it is
    told once."""
    machine = Machine()
    machine.ahead = step
    machine.pass_time(4)

    assert machine.errors == (step, step)
    assert machine.steps == [step]


@pytest.mark.parametrize("step", [10 * YEAR, -10 * YEAR])
def test_a_step_of_years_stamps_within_a_minute_and_deletes_after_hours(step: int) -> None:
    """Append times follow a machine that had no time when it started; ages wait for hours."""
    machine = Machine()
    machine.ahead = step
    machine.pass_time(STAMP_SETTLE_MAX_NS / NS_PER_S + 1)
    assert machine.errors == (step, 0)

    machine.pass_time(3600)
    assert machine.errors == (step, 0)
    machine.pass_time(13 * 3600)
    assert machine.errors == (step, step)


def test_a_time_that_jumps_about_is_not_believed() -> None:
    """A time that changes with every look does not last."""
    machine = Machine()
    for seconds in range(100):
        machine.ahead = seconds * 20 * HOUR
        machine.pass_time(1)

    assert machine.errors == (0, 0)


def test_a_clock_that_is_slewed_is_followed_at_once() -> None:
    """Half a millisecond a second is NTP at work: no step, and no delay."""
    machine = Machine()
    for _ in range(400):
        machine.ahead += NS_PER_S // 2000
        machine.pass_time(1)

    assert machine.errors == (machine.ahead, machine.ahead)
    assert machine.steps == []


@pytest.mark.parametrize(("away", "trusted_s"), [(YEAR, 2 * 3600), (HOUR, 2), (10 * NS_PER_S, 2)])
def test_at_the_start_ages_are_as_of_the_newest_message(away: int, trusted_s: int) -> None:
    """A broker that starts long after its newest message deletes by age only when the time has
    lasted; append times are the wall clock's from the beginning."""
    machine = Machine()
    machine.clock.newest(machine.truth - away)
    assert machine.errors == (0, -away)

    machine.pass_time(trusted_s)
    assert machine.errors == (0, 0)


def test_a_newest_message_ahead_of_the_clock_says_nothing() -> None:
    """The time of a message that is yet to come was wrong: the wall clock is believed."""
    machine = Machine()
    machine.clock.newest(machine.truth + YEAR)

    assert machine.errors == (0, 0)
