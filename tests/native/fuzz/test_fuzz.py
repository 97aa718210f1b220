"""Every ``fuzz_<name>.c`` here: its corpus replayed, then mutated, under sanitizers; libFuzzer if there is clang."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.native.conftest import RunC

HERE = Path(__file__).parent
NATIVE = HERE.parents[2] / "hermes" / "native"
TARGETS = sorted(path.stem.removeprefix("fuzz_") for path in HERE.glob("fuzz_*.c"))
ROUNDS = 300_000
FEWER_ROUNDS = {"udp": 10_000, "group": 20_000, "caster": 5_000}
"""Mutations where one of them is a whole session's life."""
LIBFUZZER_S = 10


def corpus(target: str) -> list[Path]:
    return sorted(path for path in (HERE / "corpus" / target).iterdir() if path.is_file())


@pytest.mark.parametrize("target", TARGETS)
def test_corpus_and_mutations_of_it(run_c: RunC, target: str) -> None:
    """No input of the corpus, and none of many mutations of it, breaks a promise of the target."""
    files = corpus(target)
    rounds = FEWER_ROUNDS.get(target, ROUNDS)

    said = run_c(f"fuzz_{target}.c", str(rounds), "1", *files, sanitizer="address,undefined")

    assert f"{len(files)} files replayed, {rounds} mutations" in said


@pytest.mark.parametrize("target", TARGETS)
def test_libfuzzer_finds_nothing_in_a_short_run(target: str, tmp_path: Path) -> None:
    """Where clang is present, a short run that is guided by coverage finds nothing either."""
    clang = shutil.which("clang")
    if clang is None:
        pytest.skip("no clang, so no libFuzzer: only the corpus and blind mutations were run")
    program, found = tmp_path / "fuzzer", tmp_path / "found"
    found.mkdir()
    sources: list[Path | str] = [HERE / f"fuzz_{target}.c", *sorted((NATIVE / "src").glob("*.c"))]
    if '#include "hu_' in (HERE / f"fuzz_{target}.c").read_text():
        plugin = HERE.parents[2] / "transports" / "hermes_udp" / "native"
        sources += [f"-I{plugin}", *sorted(plugin.glob("*.c"))]
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-g", "-pthread", "-DHM_LIBFUZZER"]
    flags += ["-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=undefined"]
    built = subprocess.run(
        [clang, *flags, f"-I{NATIVE / 'include'}", *map(str, sources), "-o", str(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode != 0 and "fuzzer" in built.stderr and "cannot find" in built.stderr:
        pytest.skip("this clang comes without libFuzzer: only blind mutations were run")
    assert built.returncode == 0, built.stderr

    done = subprocess.run(
        [program, f"-max_total_time={LIBFUZZER_S}", "-seed=1", found, HERE / "corpus" / target],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIBFUZZER_S + 60,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-5000:]


def test_the_corpus_is_what_the_script_writes() -> None:
    """The committed seeds of the decoder are of the present format."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("make_corpus", HERE / "make_corpus.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    assert {path.name: path.read_bytes() for path in corpus("frame")} == script.seeds()
