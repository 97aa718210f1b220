"""The wheel installs and runs where there is no compiler."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tests.packaging.wheel import VERSIONS, build, interpreter, try_out

SIZE_MAX = 1_200_000
"""Bytes of the wheel: debug information would double it."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built once."""
    return build(tmp_path_factory.mktemp("wheel"))


@pytest.mark.long
def test_one_wheel_serves_every_cpython(wheel: Path) -> None:
    """The wheel is abi3 and manylinux, has every extension and no source of one, and is small."""
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()

    assert "cp311-abi3-manylinux" in wheel.name
    extensions = [name for name in names if name.endswith(".so")]
    assert len(extensions) == 6
    assert all(name.endswith(".abi3.so") for name in extensions)
    assert not [name for name in names if name.endswith(".c")]
    assert wheel.stat().st_size < SIZE_MAX


@pytest.mark.long
@pytest.mark.parametrize("version", VERSIONS)
def test_it_runs_without_a_compiler(wheel: Path, version: str) -> None:
    """Installed into an empty environment, with nothing else on the path, the demo runs."""
    found = interpreter(version)
    if found is None:
        pytest.skip(f"no CPython {version} here: the wheel was not tried with it")

    try_out(wheel, found)
