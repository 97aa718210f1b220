"""Checks of a machine's settings, one function each: what it is, why it matters, what would be better.

A check reads and judges; it changes nothing.  What a change would be is part of its finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from hermes.tuning.machine import Change, Machine
from hermes.tuning.wakeup import wakeup_ns

Status = Literal["good", "better", "advice", "absent"]
"""``better``: ``--apply`` can improve it; ``advice``: only a person can, or should; ``absent``:
this machine has no such setting."""

DEEP_SLEEP_US = 10
"""A core that takes longer than this to wake adds more than all our code takes per message."""
BACKLOG_MIN = 1024
"""Backlog that our listeners ask for: a thousand clients may start at once."""
BACKLOG_WANTED = 4096
SOCKET_BUFFER_MIN = 4 << 20
"""Bytes: about 4 ms of 10 Gbit/s.  What does not fit while the reader is asleep, UDP loses."""
BUSY_POLL_US = 50
"""Value that the kernel's documentation suggests to begin with."""
MEMLOCK_MIN = 8 << 20
"""Bytes: io_uring and pinned rings count against it."""
FILES_MIN = 10_000
"""The connections a broker serves by default."""
WAKEUP_GOOD_NS = 10_000
"""A thread on another core that sleeps can be woken in 3 to 10 us on bare metal."""
TRUSTED_CLOCKS = ("tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page")
"""Clocks that are read without a system call."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The finding of a check."""

    status: Status
    current: str
    """As it is, for people."""
    cure: str = ""
    """A better value, and how to get it; empty if nothing is to be done."""
    changes: tuple[Change, ...] = ()
    """Changes that ``--apply`` makes."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that costs latency."""

    name: str
    why: str
    """The cost, in a sentence."""
    look: Callable[[Machine], Finding]
    asked: bool = False
    """The change has a price elsewhere: applied only when named."""


ABSENT = Finding("absent", "not on this machine")


def governor(machine: Machine) -> Finding:
    """Frequency governors."""
    paths = machine.matching("/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor")
    if not paths:
        return Finding("absent", "left to the host, or fixed")
    now = {path: machine.read(path) or "?" for path in paths}
    slow = {path: name for path, name in now.items() if name != "performance"}
    return _files(
        slow,
        good="performance on every core",
        bad=f"{_listed(slow.values())} on {len(slow)} of {len(now)} cores",
        wanted="performance",
    )


def sleep_states(machine: Machine) -> Finding:
    """Idle states of the cores."""
    states = machine.matching("/sys/devices/system/cpu/cpu*/cpuidle/state*")
    if not states:
        return Finding("absent", "left to the host")
    deep = {
        f"{state}/disable": machine.read(f"{state}/name") or "?"
        for state in states
        if (machine.number(f"{state}/latency") or 0) > DEEP_SLEEP_US
        and machine.read(f"{state}/disable") == "0"
    }
    return _files(
        deep,
        good=f"none that takes more than {DEEP_SLEEP_US} us to leave",
        bad=f"{_listed(deep.values())} may be entered",
        wanted="1",
        before="0",
        cure=f"forbid the states that take more than {DEEP_SLEEP_US} us to leave",
    )


def isolated_cores(machine: Machine) -> Finding:
    """Cores that the scheduler leaves alone."""
    isolated = machine.read("/sys/devices/system/cpu/isolated")
    if isolated is None:
        return ABSENT
    if isolated:
        return Finding("good", f"cores {isolated}")
    if machine.cores < 4:
        return Finding("good", f"none; with {machine.cores} cores there is none to spare")
    return Finding(
        "advice",
        "none",
        "for a broker that spins: boot with isolcpus=N nohz_full=N, start it with taskset -c N",
    )


def interrupts(machine: Machine) -> Finding:
    """Interrupts that land on isolated cores."""
    isolated = _cores(machine.read("/sys/devices/system/cpu/isolated") or "")
    if not isolated:
        return Finding("absent", "no core is isolated")
    online = _cores(machine.read("/sys/devices/system/cpu/online") or "")
    others = _ranges(online - isolated)
    landing = {}
    for path in machine.matching("/proc/irq/[0-9]*/smp_affinity_list"):
        cores = machine.read(path) or ""
        if others and _cores(cores) & isolated:
            landing[path] = cores
    return _files(
        landing,
        good="none on the isolated cores",
        bad=f"{len(landing)} may land on the isolated cores",
        wanted=others,
        cure=f"send them to cores {others} (and stop irqbalance, which would move them back)",
    )


def huge_pages(machine: Machine) -> Finding:
    """Transparent huge pages."""
    path = "/sys/kernel/mm/transparent_hugepage/enabled"
    now = machine.chosen(path)
    if now is None:
        return ABSENT
    slow = {path: now} if now == "always" else {}
    return _files(slow, good=now, bad=now, wanted="madvise")


def clock_source(machine: Machine) -> Finding:
    """The clock behind every timestamp."""
    place = "/sys/devices/system/clocksource/clocksource0"
    now = machine.read(f"{place}/current_clocksource")
    if now is None:
        return ABSENT
    if now in TRUSTED_CLOCKS:
        return Finding("good", now)
    if "tsc" in (machine.read(f"{place}/available_clocksource") or "").split():
        change = Change(f"{place}/current_clocksource", now, "tsc")
        return Finding("better", now, "tsc is available", (change,))
    return Finding("advice", now, "the kernel distrusts tsc here: look for 'clocksource' in dmesg")


def backlog(machine: Machine) -> Finding:
    """Connections that may wait to be accepted."""
    return _at_least(machine, ["somaxconn"], BACKLOG_MIN, BACKLOG_WANTED)


def socket_buffers(machine: Machine) -> Finding:
    """The largest buffer a socket may ask for."""
    return _at_least(machine, ["rmem_max", "wmem_max"], SOCKET_BUFFER_MIN, SOCKET_BUFFER_MIN)


def busy_poll(machine: Machine) -> Finding:
    """Whether a waiting read polls the network card."""
    found = _at_least(machine, ["busy_poll", "busy_read"], 1, BUSY_POLL_US)
    if found.status == "better" and machine.cores < 4:
        return Finding("good", f"off; with {machine.cores} cores there is none to spare")
    return found


def locked_memory(machine: Machine) -> Finding:
    """Memory that a process may lock."""
    return _limit("RLIMIT_MEMLOCK", MEMLOCK_MIN, "memlock", "LimitMEMLOCK")


def open_files(machine: Machine) -> Finding:
    """Descriptors a process may have."""
    return _limit("RLIMIT_NOFILE", FILES_MIN, "nofile", "LimitNOFILE")


def io_uring(machine: Machine) -> Finding:
    """Whether io_uring is allowed."""
    now = machine.number("/proc/sys/kernel/io_uring_disabled")
    if now is None:
        return ABSENT
    if not now:
        return Finding("good", "allowed")
    who = "to nobody" if now == 2 else "to privileged processes and one group only"
    return Finding(
        "advice", f"allowed {who}", "sysctl kernel.io_uring_disabled=0, if your policy lets you"
    )


def wakeups(machine: Machine) -> Finding:
    """Measure what waking a sleeping thread costs."""
    cost = wakeup_ns()
    if cost is None:
        return Finding("absent", "one core: nothing to measure")
    text = f"{cost / 1000:.1f} us, median"
    if cost <= WAKEUP_GOOD_NS:
        return Finding("good", text)
    return Finding(
        "advice",
        text,
        "as on most virtual machines; a broker that spins (--idle spin) never sleeps, if it has a "
        "core of its own",
    )


CHECKS = (
    Check("wakeups", "Every message that finds its reader asleep pays this.", wakeups),
    Check("governor", "A core that runs slowly when idle starts every burst slowly.", governor),
    Check("sleep_states", "A core in deep sleep takes tens of us to wake.", sleep_states),
    Check("clock_source", "Every timestamp reads it; a slow one is a system call.", clock_source),
    Check("huge_pages", "'always' lets the kernel stop a thread to tidy memory.", huge_pages),
    Check("isolated_cores", "A spinning thread shares its core with what runs.", isolated_cores),
    Check("interrupts", "An interrupt takes some us from whoever runs on its core.", interrupts),
    Check("backlog", "Connections over it are dropped, and tried again after 1 s.", backlog),
    Check("socket_buffers", "What does not fit is lost (UDP) or held back (TCP).", socket_buffers),
    Check("locked_memory", "io_uring's and pinned buffers count against it.", locked_memory),
    Check("open_files", "A connection needs a descriptor.", open_files),
    Check("io_uring", "Without it uring+tcp cannot work.", io_uring),
    Check("busy_poll", "Polling saves an interrupt; it costs processor time.", busy_poll, True),
)
"""All of them, in the order in which they are shown."""


def _files(
    values: dict[str, str],
    *,
    good: str,
    bad: str,
    wanted: str,
    before: str | None = None,
    cure: str = "",
) -> Finding:
    """``values``: the files that should say ``wanted``; ``before``: what they say, if not that."""
    if not values:
        return Finding("good", good)
    changes = (Change(path, before or value, wanted) for path, value in values.items())
    return Finding("better", bad, cure or f"{wanted} would be better", tuple(changes))


def _at_least(machine: Machine, names: list[str], least: int, wanted: int) -> Finding:
    """Network settings that are numbers, of which none should be below ``least``."""
    now = {name: machine.number(f"/proc/sys/net/core/{name}") for name in names}
    known = {name: value for name, value in now.items() if value is not None}
    if not known:
        return ABSENT
    changes = tuple(
        Change(f"/proc/sys/net/core/{name}", str(value), str(wanted))
        for name, value in known.items()
        if value < least
    )
    current = ", ".join(f"{name} {value}" for name, value in known.items())
    if not changes:
        return Finding("good", current)
    return Finding("better", current, f"{wanted} would be better", changes)


def _limit(which: str, least: int, name: str, unit: str) -> Finding:
    """A limit of this process, which it inherited."""
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return ABSENT
    soft, _ = resource.getrlimit(getattr(resource, which))
    if soft == resource.RLIM_INFINITY:
        return Finding("good", "no limit")
    if soft >= least:
        return Finding("good", f"{soft}")
    return Finding(
        "advice",
        f"{soft}",
        f"{least} or more: '* - {name} {least}' in /etc/security/limits.conf, or {unit}={least} in "
        "the service's unit",
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names)))


def _cores(text: str) -> set[int]:
    """The set that ``0-3,6`` means."""
    cores: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        if first.isdigit() and (last or first).isdigit():
            cores.update(range(int(first), int(last or first) + 1))
    return cores


def _ranges(cores: set[int]) -> str:
    """The text for a set: ``0-3,6``."""
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and core == runs[-1][1] + 1:
            runs[-1][1] = core
        else:
            runs.append([core, core])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
