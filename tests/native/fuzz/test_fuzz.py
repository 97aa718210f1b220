"""Every ``fuzz_<name>.c`` here: its corpus replayed, then mutated, under sanitizers; libFuzzer if there is clang."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.effort import effort

if TYPE_CHECKING:
    from tests.native.conftest import RunC

HERE = Path(__file__).parent
TARGETS = sorted(path.stem.removeprefix("fuzz_") for path in HERE.glob("fuzz_*.c"))
ROUNDS = 50_000
FEWER_ROUNDS = {"udp": 2_000, "endpoint": 2_000, "dial": 2_000, "group": 1_000, "caster": 1_000}
"""Mutations where one of them is a whole session's life."""
EFFORT = effort(1, 10)
"""How many times as many there are, and seconds of libFuzzer."""


def corpus(target: str) -> list[Path]:
    return sorted(path for path in (HERE / "corpus" / target).iterdir() if path.is_file())


@pytest.mark.thorough
@pytest.mark.parametrize("target", TARGETS)
def test_corpus_and_mutations_of_it(run_c: RunC, target: str) -> None:
    """No input of the corpus, and none of many mutations of it, breaks a promise of the target."""
    files = corpus(target)
    rounds = FEWER_ROUNDS.get(target, ROUNDS) * EFFORT

    said = run_c(
        f"fuzz_{target}.c", str(rounds), str(EFFORT), *files, sanitizer="address,undefined"
    )

    assert f"{len(files)} files replayed, {rounds} mutations" in said


@pytest.mark.thorough
@pytest.mark.parametrize("target", TARGETS)
def test_libfuzzer_finds_nothing_in_a_short_run(run_c: RunC, target: str, tmp_path: Path) -> None:
    """Where clang is present, a short run that is guided by coverage finds nothing either."""
    limits = (f"-max_total_time={EFFORT}", "-seed=1", f"-artifact_prefix={tmp_path}/")
    found = tmp_path / "found"
    found.mkdir()

    run_c(f"fuzz_{target}.c", *limits, found, HERE / "corpus" / target, sanitizer="fuzzer")


def test_the_corpus_is_what_the_script_writes() -> None:
    """The committed seeds of the decoder are of the present format."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("make_corpus", HERE / "make_corpus.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    assert {path.name: path.read_bytes() for path in corpus("frame")} == script.seeds()
