"""The seeds of the log's fuzz target."""

from __future__ import annotations

import importlib.util
from pathlib import Path

HERE = Path(__file__).parent


def test_the_log_corpus_is_what_the_script_writes() -> None:
    """The committed seeds of the log are of the present format."""
    spec = importlib.util.spec_from_file_location("make_log", HERE / "make_log_corpus.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    found = {path.name: path.read_bytes() for path in (HERE / "corpus" / "log").iterdir()}

    assert found == script.seeds()
