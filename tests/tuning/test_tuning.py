"""Findings about machines that are folders, and changes that can be taken back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from hermes.cli import tune
from hermes.errors import InvalidConfig
from hermes.tuning import CHECKS, Change, Finding, Machine, Store, apply, revert
from hermes.tuning.wakeup import wakeup_ns

GOVERNOR = "/sys/devices/system/cpu/cpu{}/cpufreq/scaling_governor"
SOMAXCONN = "/proc/sys/net/core/somaxconn"
HUGE_PAGES = "/sys/kernel/mm/transparent_hugepage/enabled"
CLOCKS = "/sys/devices/system/clocksource/clocksource0"
IDLE = "/sys/devices/system/cpu/cpu0/cpuidle"

Make = Callable[[dict[str, str]], Machine]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A machine with these settings and no others."""

    def write(settings: dict[str, str]) -> Machine:
        for path, value in settings.items():
            file = tmp_path / "machine" / path.removeprefix("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(value + "\n")
        return Machine(tmp_path / "machine")

    return write


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Notes of our own."""
    return Store(tmp_path / "notes.json")


def look(name: str, machine: Machine) -> Finding:
    """Finding of the check of this name."""
    return next(check for check in CHECKS if check.name == name).look(machine)


def values(finding: Finding) -> dict[str, tuple[str, str]]:
    """Path to before and after."""
    return {change.path: (change.before, change.after) for change in finding.changes}


@pytest.mark.parametrize(
    ("name", "settings", "status", "changes"),
    [
        ("governor", {}, "absent", {}),
        ("governor", {GOVERNOR.format(0): "performance"}, "good", {}),
        (
            "governor",
            {GOVERNOR.format(0): "performance", GOVERNOR.format(1): "powersave"},
            "better",
            {GOVERNOR.format(1): ("powersave", "performance")},
        ),
        (
            "sleep_states",
            {
                f"{IDLE}/state0/latency": "2",
                f"{IDLE}/state0/disable": "0",
                f"{IDLE}/state1/latency": "133",
                f"{IDLE}/state1/disable": "0",
                f"{IDLE}/state1/name": "C6",
                f"{IDLE}/state2/latency": "900",
                f"{IDLE}/state2/disable": "1",
            },
            "better",
            {f"{IDLE}/state1/disable": ("0", "1")},
        ),
        ("backlog", {SOMAXCONN: "4096"}, "good", {}),
        ("backlog", {SOMAXCONN: "128"}, "better", {SOMAXCONN: ("128", "4096")}),
        ("backlog", {SOMAXCONN: "what"}, "absent", {}),
        ("huge_pages", {HUGE_PAGES: "always [madvise] never"}, "good", {}),
        (
            "huge_pages",
            {HUGE_PAGES: "[always] madvise never"},
            "better",
            {HUGE_PAGES: ("always", "madvise")},
        ),
        ("clock_source", {f"{CLOCKS}/current_clocksource": "kvm-clock"}, "good", {}),
        (
            "clock_source",
            {
                f"{CLOCKS}/current_clocksource": "hpet",
                f"{CLOCKS}/available_clocksource": "tsc hpet acpi_pm",
            },
            "better",
            {f"{CLOCKS}/current_clocksource": ("hpet", "tsc")},
        ),
        (
            "clock_source",
            {
                f"{CLOCKS}/current_clocksource": "hpet",
                f"{CLOCKS}/available_clocksource": "hpet acpi_pm",
            },
            "advice",
            {},
        ),
        ("isolated_cores", {"/sys/devices/system/cpu/isolated": "2-3"}, "good", {}),
        ("interrupts", {"/sys/devices/system/cpu/isolated": ""}, "absent", {}),
        (
            "interrupts",
            {
                "/sys/devices/system/cpu/isolated": "2-3",
                "/sys/devices/system/cpu/online": "0-5",
                "/proc/irq/9/smp_affinity_list": "0-1,4",
                "/proc/irq/10/smp_affinity_list": "0-5",
            },
            "better",
            {"/proc/irq/10/smp_affinity_list": ("0-5", "0-1,4-5")},
        ),
        ("io_uring", {"/proc/sys/kernel/io_uring_disabled": "0"}, "good", {}),
        ("io_uring", {"/proc/sys/kernel/io_uring_disabled": "2"}, "advice", {}),
    ],
)
def test_a_setting_is_judged(
    make: Make,
    name: str,
    settings: dict[str, str],
    status: str,
    changes: dict[str, tuple[str, str]],
) -> None:
    """A good setting is left alone, a slow one is named with the change that mends it."""
    finding = look(name, make(settings))

    assert finding.status == status
    assert values(finding) == changes
    assert bool(finding.cure) == (status in ("better", "advice"))


def test_every_check_says_something_about_this_machine() -> None:
    """No check fails on the machine it runs on, whatever that has."""
    findings = [check.look(Machine()) for check in CHECKS]

    assert all(finding.current for finding in findings)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: nothing to measure")
def test_waking_up_is_measured_and_leaves_the_process_where_it_was() -> None:
    """The cost is a plausible time, and the process may use the same cores as before."""
    before = os.sched_getaffinity(0)

    cost = wakeup_ns()

    assert cost is not None
    assert 200 < cost < 1_000_000_000
    assert os.sched_getaffinity(0) == before


def test_changes_are_applied_and_taken_back(make: Make, store: Store) -> None:
    """After a revert every setting is what it was, and there is nothing left to revert."""
    settings = {SOMAXCONN: "128", HUGE_PAGES: "[always] madvise never"}
    machine = make(settings)
    changes = [*look("backlog", machine).changes, *look("huge_pages", machine).changes]

    applied = apply(machine, changes, store)

    assert [outcome.result for outcome in applied] == ["done", "done"]
    assert machine.read(SOMAXCONN) == "4096"
    assert machine.read(HUGE_PAGES) == "madvise"
    assert store.path.stat().st_mode & 0o777 == 0o600
    assert [outcome.result for outcome in revert(machine, store)] == ["done", "done"]
    assert machine.read(SOMAXCONN) == "128"
    assert machine.read(HUGE_PAGES) == "always"
    assert revert(machine, store) == []
    assert not store.path.exists()


def test_the_first_value_is_the_one_that_comes_back(make: Make, store: Store) -> None:
    """Applied twice, a setting is reverted to what it was before the first time."""
    machine = make({SOMAXCONN: "128"})
    apply(machine, [Change(SOMAXCONN, "128", "1024")], store)
    apply(machine, [Change(SOMAXCONN, "1024", "4096")], store)

    revert(machine, store)

    assert machine.read(SOMAXCONN) == "128"


def test_what_somebody_else_changed_stays(make: Make, store: Store) -> None:
    """A setting that is no longer what we made it is not touched, and that is said."""
    machine = make({SOMAXCONN: "128"})
    apply(machine, [Change(SOMAXCONN, "128", "4096")], store)
    machine.write(SOMAXCONN, "9999")

    outcomes = revert(machine, store)

    assert [outcome.result for outcome in outcomes] == ["changed since"]
    assert machine.read(SOMAXCONN) == "9999"


def test_a_refused_change_does_not_stop_the_others(make: Make, store: Store) -> None:
    """A setting that cannot be changed is reported and not noted; the rest is set."""
    machine = make({SOMAXCONN: "128"})
    missing = Change("/proc/sys/net/core/no_such", "1", "2")

    outcomes = apply(machine, [missing, Change(SOMAXCONN, "128", "4096")], store)

    assert [outcome.result for outcome in outcomes] == ["refused", "done"]
    assert list(store.load()) == [SOMAXCONN]


def test_foreign_notes_are_refused(make: Make, store: Store) -> None:
    """A file that we did not write is not acted upon."""
    store.path.write_text('{"path": 3}')

    with pytest.raises(InvalidConfig, match="--state"):
        revert(make({}), store)


def test_the_command_lists_every_check() -> None:
    """``--json`` has every check, and without --apply no change is made."""
    result = CliRunner().invoke(tune.command, ["--json"])

    found = json.loads(result.output)
    assert result.exit_code == 0
    assert [check["name"] for check in found["checks"]] == [check.name for check in CHECKS]
    assert found["changes"] == []


def test_the_command_suggests_a_check() -> None:
    """A misspelt check is refused with the nearest name."""
    result = CliRunner().invoke(tune.command, ["--only", "govenor"])

    assert result.exit_code == 2
    assert "'governor'" in result.output


def test_the_command_applies_and_reverts(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan is printed before it is carried out; revert says what it did."""
    machine = make({SOMAXCONN: "128"})
    monkeypatch.setattr("hermes.tuning.Machine", lambda: machine)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    state = ["--state", str(tmp_path / "notes.json")]

    applied = CliRunner().invoke(tune.command, ["--apply", "--only", "backlog", *state])
    set_to = machine.read(SOMAXCONN)
    reverted = CliRunner().invoke(tune.command, ["--revert", *state])

    assert (applied.exit_code, reverted.exit_code) == (0, 0)
    assert applied.output.startswith(f"{SOMAXCONN}: 128 -> 4096\n")
    assert set_to == "4096"
    assert machine.read(SOMAXCONN) == "128"


def test_nothing_is_applied_without_root(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without root --apply changes nothing and says what is missing."""
    machine = make({SOMAXCONN: "128"})
    monkeypatch.setattr("hermes.tuning.Machine", lambda: machine)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    result = CliRunner().invoke(tune.command, ["--apply", "--only", "backlog"])

    assert result.exit_code == 1
    assert "sudo" in result.output
    assert machine.read(SOMAXCONN) == "128"
