"""The surroundings of a figure: the machine, its software and its state, and what about them is in the
way of good figures.
"""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from hermes.base.platform import usable_cores
from hermes.bench import raw
from hermes.errors import SystemFault

PACKAGES = ("hermes-broker", "cffi", "msgspec", "numpy", "pyzmq")
"""Packages whose versions are noted, where they are installed."""
ROUNDS = 2000
"""Round trips from core to core: a fraction of a millisecond."""
BUSY_LOAD = 0.5
"""Load average per core before a run, above which it is worth a warning."""
FEW_CORES = 4
"""A broker, a publisher, a subscriber and everything else: fewer cores, and they compete."""


def environment(directory: Path) -> dict[str, Any]:
    """Everything a figure depends on.  ``directory``: where logs are kept."""
    cpu = [line for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = [line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemTotal")]
    step_ns, read_ns = raw.clock()
    checkout = Path(__file__).resolve().parents[2]
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **_commit(checkout),
        "cpu": cpu[0].split(":", 1)[1].strip() if cpu else platform.machine(),
        "cores": len(usable_cores()),
        "memory_bytes": int(memory[0]) * 1024 if memory else 0,
        "hypervisor": _output("systemd-detect-virt", "--vm"),
        "kernel": platform.release(),
        "governor": _governor(),
        "clock_source": _first("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        "clock_step_ns": step_ns,
        "clock_read_ns": round(read_ns, 1),
        "core_round_trip_ns": core_round_trip_ns(),
        "python": sys.version.split()[0],
        "implementation": platform.python_implementation(),
        "compiler": _output(os.environ.get("CC", "cc"), "--version").partition("\n")[0],
        "file_system": _output("df", "--output=fstype", str(directory)).split()[-1],
        "load_before": round(os.getloadavg()[0], 2),
        "versions": versions(),
    }


def warnings(found: Mapping[str, Any], *, idle: str, processes: int) -> list[str]:
    """Return sentences on what in an environment is in the way of good figures."""
    said = []
    cores = found["cores"]
    if cores < FEW_CORES:
        said.append(
            f"{processes} processes share {_cores(cores)}: the scheduler decides a part of every "
            "figure, and more the fewer cores there are"
        )
    if idle == "spin" and cores < processes:
        said.append(f"{processes} processes spin on {_cores(cores)}: they keep each other waiting")
    if found["governor"] not in ("performance", "unknown"):
        said.append(
            f"the CPU governor is {found['governor']!r}: frequencies change during a run; "
            "`cpupower frequency-set -g performance` keeps them up"
        )
    if found["hypervisor"] not in ("none", "unknown"):
        said.append(
            f"a virtual machine ({found['hypervisor']}): waking a sleeping thread takes tens of "
            "microseconds, and the host may take the CPU away"
        )
    if found["clock_source"] not in ("tsc", "arch_sys_counter", "kvm-clock", "unknown"):
        said.append(
            f"the clock source is {found['clock_source']}: reading it costs "
            f"{found['clock_read_ns']:.0f} ns, which is in every latency"
        )
    if found["load_before"] > BUSY_LOAD * cores:
        said.append(f"the load average was {found['load_before']} before the run began")
    if found["dirty"]:
        said.append("the checkout has uncommitted changes: the commit does not say what was run")
    return said


def core_round_trip_ns() -> int | None:
    """The median of a cache line's way to another core and back; None: there is one core only, or
    other programs kept the second one busy for longer than this waits."""
    cores = usable_cores()
    if len(cores) < 2:
        return None
    try:
        return int(statistics.median(raw.core_round_trip_ns(cores[0], cores[1], ROUNDS)))
    except SystemFault:  # a run that has ended is not thrown away for it
        return None


def versions(names: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Installed versions."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _commit(checkout: Path) -> dict[str, Any]:
    """The commit of the checkout that Hermes is run from, if it is one."""
    if not (checkout / ".git").exists() or shutil.which("git") is None:
        return {"commit": None, "dirty": False}
    changed = _output("git", "-C", str(checkout), "status", "--porcelain", "--untracked-files=no")
    return {
        "commit": _output("git", "-C", str(checkout), "rev-parse", "--short=12", "HEAD"),
        "dirty": changed not in ("", "unknown"),
    }


def _output(*command: str) -> str:
    """The output of a command; ``unknown`` if it cannot be run.  (systemd-detect-virt fails when it
    finds nothing, and says ``none``.)"""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    said = done.stdout.strip()
    return said if said or done.returncode == 0 else "unknown"


def _governor() -> str:
    return _first("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def _first(path: str) -> str:
    lines = _lines(path)
    return lines[0].strip() if lines else "unknown"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _cores(count: int) -> str:
    return "one core" if count == 1 else f"{count} cores"
