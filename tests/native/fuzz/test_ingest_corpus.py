"""The seeds of the ingest's fuzz target."""

from __future__ import annotations

import importlib.util
from pathlib import Path

HERE = Path(__file__).parent


def test_the_ingest_corpus_is_what_the_script_writes() -> None:
    """The committed seeds of the ingest are of the present format."""
    spec = importlib.util.spec_from_file_location("make_ingest", HERE / "make_ingest_corpus.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    found = {path.name: path.read_bytes() for path in (HERE / "corpus" / "ingest").iterdir()}

    assert found == script.seeds()
