"""An environment of one's own to install into, which needs no package index.

It sees all that is installed in the environment of the tests, Hermes included; what is installed
into it, the tests' environment does not see.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hermes

DEADLINE_S = 240
COMMANDS = {
    "hermes": 'exec "{python}" -m hermes "$@"',
    "pytest": 'exec "{python}" -m pytest -q -p no:cacheprovider "$@"',
    "pip": 'what=$1; shift; exec "{python}" -m pip "$what" --quiet --disable-pip-version-check'
    ' --no-index --no-build-isolation "$@"',
}
"""Commands that a shell finds first, by name."""


class Environment:
    """A virtual environment in ``place``."""

    def __init__(self, place: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
        self.python = place / "bin" / "python"
        self.chosen = ""
        """Which tests ``pytest`` runs, as its ``-k`` has them, groups of the kits included."""
        (home,) = place.glob("lib/python*/site-packages")
        ours = sysconfig.get_path("purelib")
        (home / "outer.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
        for name, line in COMMANDS.items():
            script = place / "bin" / name
            script.write_text(f"#!/bin/sh\n{line.format(python=self.python)}\n")
            script.chmod(0o755)
        # Type checkers do not see editable installations.
        (home / "hermes").symlink_to(Path(hermes.__file__).parent)

    def run(
        self, *arguments: str | Path, cwd: Path | None = None, expect: int | None = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run ``python ARGUMENTS`` in it; ``expect``: the exit code it must end with."""
        done = subprocess.run(
            [self.python, *map(str, arguments)],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
            env=self.variables,
        )
        assert expect is None or done.returncode == expect, done.stdout + done.stderr
        return done

    def hermes(
        self, *arguments: str | Path, cwd: Path | None = None, expect: int | None = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run ``hermes ARGUMENTS``."""
        return self.run("-m", "hermes", *arguments, cwd=cwd, expect=expect)

    @property
    def variables(self) -> dict[str, str]:
        """For a shell that is to use this environment."""
        binaries = self.python.parent
        chosen = f"-p hermes.testing.groups -k '{self.chosen}'" if self.chosen else ""
        return os.environ | {
            "PATH": f"{binaries}:{os.environ['PATH']}",
            "PYTEST_ADDOPTS": chosen,
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def shell(self, script: str, *, cwd: Path, expect: int | None = 0) -> str:
        """Run lines as a shell in this environment would, up to the first that fails; returns all
        output."""
        done = subprocess.run(
            ["sh", "-e", "-c", script],
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=DEADLINE_S,
            check=False,
            env=self.variables,
        )
        assert expect is None or done.returncode == expect, done.stdout
        return done.stdout

    def install(self, project: Path) -> None:
        """``pip install -e``, without an index."""
        self.shell("pip install --editable .", cwd=project)

    @contextmanager
    def broker(self, place: Path, *flags: str) -> Iterator[str]:
        """``hermes serve`` with ``flags``; yields the URL of its first listener."""
        ready = place / "ready.json"
        process = subprocess.Popen(
            [self.python, "-m", "hermes", "serve", "--ready-file", ready, *flags],
            stdout=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + DEADLINE_S
            while not ready.exists():
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)
            yield str(json.loads(ready.read_text())["listeners"][0]["url"])
            process.terminate()
            assert process.wait(DEADLINE_S) == 0
        finally:
            process.kill()
            process.wait()
