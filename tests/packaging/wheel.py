"""Builds the wheel that is published, and tries it where there is no compiler.

``python -m tests.packaging.wheel DIRECTORY`` (``make wheel``) leaves the wheel in DIRECTORY.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
DEADLINE_S = 600
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
"""CPythons that one wheel is for."""
DEMO = ("demo", "--messages", "400", "--rate", "2000", "--burst", "2000")


def run(*line: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a command; returns its output.  Raises CalledProcessError, with the output in a note."""
    done = subprocess.run(
        list(map(str, line)),
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    if done.returncode:
        error = subprocess.CalledProcessError(done.returncode, list(map(str, line)))
        error.add_note(done.stdout)
        raise error
    return done.stdout


def tool(name: str) -> Path:
    """A program of this environment."""
    return Path(sys.executable).with_name(name)


def build(directory: Path) -> Path:
    """The wheel of the sources as they are, repaired, stripped and checked, in ``directory``.

    It is built from the source distribution, in another place: nothing that lies about gets in.
    """
    with TemporaryDirectory(prefix="hermes-wheel-") as name:
        place = Path(name)
        setup = ("-c", "import setuptools; setuptools.setup()", "-q")
        run(
            *(sys.executable, *setup, "egg_info", "--egg-base", place),
            *("sdist", "--dist-dir", place),
            cwd=ROOT,
        )
        (archive,) = place.glob("*.tar.gz")
        run(
            *(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"),
            *("--quiet", "--wheel-dir", place, archive),
        )
        (wheel,) = place.glob("*.whl")
        environment = os.environ | {"PATH": f"{tool('patchelf').parent}:{os.environ['PATH']}"}
        run(
            *(tool("auditwheel"), "repair", "--strip", "--wheel-dir", place / "repaired", wheel),
            env=environment,
        )
        (repaired,) = (place / "repaired").glob("*.whl")
        run(tool("abi3audit"), "--strict", repaired)
        directory.mkdir(parents=True, exist_ok=True)
        return repaired.rename(directory / repaired.name)


def interpreter(version: str) -> str | None:
    """The CPython of a version that is here, if any; pyenv is asked for its own, too."""
    found = which(f"python{version}")
    if found is None:
        return None
    done = subprocess.run(
        [found, "-c", "import sys, venv; print(sys.executable)"],
        env=os.environ | {"PYENV_VERSION": version},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() if done.returncode == 0 else None


def try_out(wheel: Path, interpreter: str) -> None:
    """Install ``wheel`` into a new environment of ``interpreter``, with nothing else on its path,
    and run the demo.  Needs a package index, for what Hermes depends on."""
    with TemporaryDirectory(prefix="hermes-wheel-") as name:
        home = Path(name) / "venv"
        run(interpreter, "-m", "venv", home)
        python = home / "bin" / "python"
        run(python, "-m", "pip", "install", "--quiet", "--only-binary", ":all:", wheel)
        environment = {"PATH": str(home / "bin"), "HOME": name}
        run(home / "bin" / "hermes", *DEMO, cwd=Path(name), env=environment)


def main(directory: Path) -> None:
    """Build, and try with every interpreter."""
    wheel = build(directory)
    print(f"{wheel}: {wheel.stat().st_size / 1e6:.2f} MB")
    for found in filter(None, map(interpreter, VERSIONS)):
        try_out(wheel, found)
        print(f"installed without a compiler, and hermes demo ran: {found}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
