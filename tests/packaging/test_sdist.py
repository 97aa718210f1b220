"""The source distribution has all that is needed to build and to run."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = (".py", ".pyi", ".typed", ".c", ".h", ".template")


@pytest.mark.slow
def test_the_source_distribution_is_complete(tmp_path: Path) -> None:
    """Every source file of Hermes and its plugins is in it: a header that is left out would not
    stop the build, but make an extension that cannot be imported."""
    subprocess.run(
        [
            *(sys.executable, "-c", "import setuptools; setuptools.setup()", "-q"),
            *("egg_info", "--egg-base", tmp_path, "sdist", "--dist-dir", tmp_path),
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=240,
    )
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        inside = {name.partition("/")[2] for name in packed.getnames()}

    wanted = {
        str(path.relative_to(ROOT))
        for place in ("hermes", "transports", "plugins")
        for path in (ROOT / place).rglob("*")
        if path.suffix in SOURCES and "build" not in path.parts
    }
    assert not wanted - inside
