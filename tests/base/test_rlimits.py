"""A broker under the machine's limits: what is short is named, with its present value."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import hermes
from hermes.base.platform import MAPS_MAX
from hermes.base.rlimits import maps_max, rlimit
from hermes.errors import StorageFull

pytestmark = pytest.mark.slow

KIB = 1024
PATIENCE_S = 60.0
LIMITS = [
    ("RLIMIT_AS", 36_000 * KIB),
    ("RLIMIT_AS", 48_000 * KIB),
    ("RLIMIT_AS", 80_000 * KIB),
    ("RLIMIT_NOFILE", 7),
    ("RLIMIT_NOFILE", 10),
    ("RLIMIT_NOFILE", 12),
    ("RLIMIT_FSIZE", 1 * KIB),
    ("RLIMIT_MEMLOCK", 0),
]


def serve(tmp_path: Path, storage: str, limit: str, value: int) -> subprocess.Popen[bytes]:
    """``hermes serve`` with one limit lowered; what it says is in the file ``said``."""
    which = getattr(resource, limit)
    with (tmp_path / "said").open("wb") as said:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "hermes", "serve", "--storage", storage),
                *("--segment", "64KiB", "--transport", "tcp://127.0.0.1:0"),
                *("--ready-file", str(tmp_path / "ready")),
            ],
            stdout=said,
            stderr=said,
            preexec_fn=lambda: resource.setrlimit(which, (value, resource.getrlimit(which)[1])),
        )


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def url_of(tmp_path: Path) -> str:
    """Address of the broker."""
    return str(json.loads((tmp_path / "ready").read_text())["listeners"][0]["url"])


@pytest.mark.parametrize(("limit", "value"), LIMITS)
@pytest.mark.parametrize("storage", ["memory", "mmap", "sqlite"])
def test_a_start_under_a_limit_serves_or_says_why(
    storage: str, limit: str, value: int, tmp_path: Path
) -> None:
    """A broker that lacks something at its start serves all the same, or ends with a sentence that
    names the limit; never with a traceback."""
    place = "" if storage == "memory" else f":{tmp_path / 'data'}"

    process = serve(tmp_path, f"{storage}{place}", limit, value)

    until(lambda: process.poll() is not None or (tmp_path / "ready").exists(), "neither")
    if process.poll() is None:
        process.terminate()
    process.wait(PATIENCE_S)
    said = (tmp_path / "said").read_text()
    if limit == "RLIMIT_AS" and "hermes" not in said and process.returncode:
        pytest.skip(f"Python itself cannot start: {said}")
    assert "Traceback" not in said
    if process.returncode:
        assert limit in said


def test_a_limit_of_file_sizes_is_told_begin_and_end(tmp_path: Path) -> None:
    """While files may not be as large as a segment, clients and the broker's log are told so, with
    the limit; once they may, messages are taken, and the log says that as well."""
    process = serve(tmp_path, f"mmap:{tmp_path / 'data'}", "RLIMIT_FSIZE", 16 * KIB)
    try:
        until((tmp_path / "ready").exists, "not ready")
        with hermes.connect(url_of(tmp_path), timeout=PATIENCE_S) as client:
            publisher = client.publisher("a")
            publisher.send(bytes(1000))
            with pytest.raises(StorageFull, match=r"RLIMIT_FSIZE .* is 16384 bytes"):
                publisher.flush()
            whole = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, whole)

            def taken() -> bool:
                try:
                    publisher.resend()
                    publisher.flush()
                except StorageFull:
                    return False
                return True

            until(taken, "still refused")
            assert publisher.acked == 1
        until(lambda: "takes messages again" in (tmp_path / "said").read_text(), "not told")
        said = (tmp_path / "said").read_text()
        assert "RLIMIT_FSIZE (ulimit -f) is 16384 bytes" in said
        assert "Traceback" not in said
    finally:
        process.terminate()
        assert process.wait(PATIENCE_S) == 0


def test_limits_say_their_present_value() -> None:
    """A limit is said by name, flag and value."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
    try:
        assert rlimit("RLIMIT_NOFILE") == f"RLIMIT_NOFILE (ulimit -n) is {soft - 1}"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert maps_max() == f"vm.max_map_count is {MAPS_MAX.read_text().strip()}"
