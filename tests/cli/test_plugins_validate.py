"""``hermes plugins validate``: what is wrong with a plugin is found, and what to do is told."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hermes.cli import plugins_validate
from hermes.testing.projects import Project
from hermes.testing.validation import Target

pytestmark = pytest.mark.slow

Hermes = Callable[..., "subprocess.CompletedProcess[bytes]"]
ROOT = Path(__file__).parents[2]

GOOD = '''
"""Transport ``good:``."""
import msgspec
from hermes.spi.hooks import hookimpl
from hermes.spi.transport import Capabilities

class Options(msgspec.Struct):
    depth: int = 1
    """How deep, in bytes."""

class Good:
    api_version = 1
    capabilities = Capabilities()
    listen_options = dial_options = Options
    def probe(self): return None
    def listen(self, url, kernel): ...
    def dial(self, url, timeout_ns): ...

@hookimpl
def hermes_register_transports(register):
    register("good", Good)
'''


@pytest.fixture
def examine(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Findings about a module with this text that are not all right."""

    def look(text: str, kind: str = "transport", name: str = "good") -> list[dict[str, Any]]:
        (tmp_path / "looked_at.py").write_text(text)
        found = plugins_validate.examine(
            Target(kind=kind, name=name, module="looked_at", paths=(str(tmp_path),))
        )
        return [finding for finding in found if finding["level"] != "ok"]

    return look


def test_a_good_plugin_is_found_good(examine: Callable[..., Any]) -> None:
    """There is nothing to say about it."""
    assert examine(GOOD) == []


IMPORTED = [
    ("import nowhere", "import", "No module named", "'nowhere'"),
    ("1 / 0", "import", "ZeroDivisionError", "-X dev"),
    ("print('hi')", "import", "prints", "logging"),
    (
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(9,), daemon=True, name='busy').start()",
        *("import", "starts a thread (busy)", "undo it in close"),
    ),
    (
        "import socket\nleak = socket.socket()",
        *("import", "opens a file or socket (socket:", "undo it in close"),
    ),
    (
        "import signal\nsignal.signal(signal.SIGUSR1, lambda *a: None)",
        *("import", "takes over the signal SIGUSR1", "leave it alone"),
    ),
    (
        "import os\nos.environ['GOOD'] = '1'",
        *("import", "changes the environment variable GOOD", "leave it alone"),
    ),
    ("import time; time.sleep(0.15)", "import", "ms, and may take 100", "importtime"),
    ("import os; os._exit(0)", "process", "code 0", "nothing of"),
    ("import os; os.kill(os.getpid(), 11)", "process", "code -11", "nothing of"),
    (
        "from hermes.broker import kernel",
        *("layers", "looked_at.py:4 imports hermes.broker.kernel", "hermes.spi.transport"),
    ),
    ("import hermes_tcp", "layers", "imports another plugin, hermes_tcp", "library of its own"),
]
"""Code of a module, the check that finds it, what is said and what to do."""
PROBED = [
    ("return 1", "returns 1", "return None"),
    ("1 / 0", "ZeroDivision", "return None"),
    ("import time; time.sleep(0.15)", "ms, and may take 100", "no network"),
    ("return 'No: y'", "here: No: y", "cure"),
]
"""Code of a probe, what is said and what to do."""
WRONG = [
    *(("import msgspec", f"import msgspec\n{line}", *rest) for line, *rest in IMPORTED),
    *((("return None", body, "probe", *rest)) for body, *rest in PROBED),
    ('"""Transport ``good:``."""', "", "docstring", "has no docstring", "first line"),
    ("def hermes_register_", "def hermes_announce_", "announcement", "unknown hook", "@hookimpl"),
    ("@hookimpl\n", "", "announcement", "not marked as a hook", "@hookimpl above"),
    ('register("good"', 'register("bad"', "announcement", "announces 'bad'", "rename"),
    (", Good)", ', Good); register("good", Good)', "announcement", "registered twice", "shows one"),
    ('register("good", Good)', "pass", "announcement", "announces nothing", "register('good'"),
    ("    api_version = 1", "    def __init__(self): 1 / 0", "factory", "ZeroDivision", "where"),
    ("api_version = 1", "api_version = 2", "version", "for version 2", "api_version = 1"),
    ("    api_version = 1\n", "", "version", "for version None", "add to the class"),
    ("    def dial(", "    def call(", "shape", "no method dial", "dial(self, url, timeout_ns)"),
    ("listen(self, url, kernel)", "listen(self, url)", "shape", "too many", "url, kernel)"),
    ("Capabilities()", "None", "capabilities", "is None", "hermes.spi.transport.Capabilities("),
    (
        *("Capabilities()", "Capabilities(datagrams=True)"),
        *("listen_options", "no option 'intercept'", "hermes.net.interception"),
    ),
    ("= dial_options = Options", "= Options; dial_options = 1", "dial_options", "1", "Struct"),
    (
        *('    """How deep, in bytes."""\n', ""),
        *("listen_options", "'depth' has no docstring", "Options"),
    ),
    ("depth: int = 1", "depth: int", "listen_options", "'depth' has no default", "suits most"),
]
"""Text of the good plugin, what stands instead, the check that finds it, what is said, what to do."""


@pytest.mark.parametrize(("old", "new", "check", "text", "cure"), WRONG)
def test_what_is_wrong_is_found_and_its_cure_told(
    examine: Callable[..., Any], old: str, new: str, check: str, text: str, cure: str
) -> None:
    """One thing is wrong, and that is said."""
    assert old in GOOD

    found = [finding for finding in examine(GOOD.replace(old, new, 1)) if finding["check"] == check]

    assert found, "nothing was found"
    assert text in found[0]["text"]
    assert cure in found[0]["cure"]


def test_what_hangs_is_given_up(
    examine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the deadline its process is ended, and what was found before is kept."""
    monkeypatch.setattr(plugins_validate, "DEADLINE_S", 1)

    (found,) = examine(
        GOOD.replace("probe(self): return None", "probe(self): exec('while 1: pass')")
    )

    assert "still busy after 1 s" in found["text"]


@pytest.mark.parametrize(
    ("kind", "text", "problem"),
    [
        ("plugin", '"""P."""', "implements no hook"),
        (
            "plugin",
            '"""P."""\nfrom hermes.spi.hooks import hookimpl\n@hookimpl\ndef hermes_x(): pass',
            "unknown hook",
        ),
        ("command", '"""C."""\ncommand = 1', "is not a click command"),
        (
            "command",
            '"""C."""\nimport click\n@click.command()\ndef command(): "Do it."',
            None,
        ),
    ],
)
def test_other_kinds_of_plugin_are_looked_at_too(
    examine: Callable[..., Any], kind: str, text: str, problem: str | None
) -> None:
    """A plugin has hooks that exist, a command is click's."""
    found = examine(text, kind=kind)

    assert [True for finding in found if problem is None or problem in finding["text"]] == (
        [] if problem is None else [True]
    )


def test_the_plugins_that_come_with_hermes_are_all_right(hermes: Hermes) -> None:
    """Nothing is wrong with any, and there is nothing to warn of but what this machine lacks."""
    done = hermes("plugins", "validate", ROOT, "--json")

    assert done.returncode == 0, done.stdout
    reports = json.loads(done.stdout)
    assert {"tcp", "inproc", "mmap", "memory"} <= {report["name"] for report in reports}
    for report in reports:
        for finding in report["findings"]:
            assert finding["level"] == "ok" or finding["check"] == "probe", (report, finding)


def test_a_new_project_is_all_right(hermes: Hermes, tmp_path: Path) -> None:
    """A project of `hermes plugins new` is found good before it is installed."""
    hermes("plugins", "new", "transport", "a+b", "--directory", tmp_path / "x")

    done = hermes("plugins", "validate", tmp_path / "x")

    assert done.returncode == 0, done.stdout
    assert b"transport a+b (hermes_a_b)" in done.stdout
    assert b"PROBLEM" not in done.stdout
    assert b"warning" not in done.stdout


def test_a_problem_is_told_by_the_exit_code(hermes: Hermes, tmp_path: Path) -> None:
    """1, with the finding and what to do on stdout."""
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "x"\n[project.entry-points."hermes.spi.transport"]\nx = "hermes_x"\n'
    )

    done = hermes("plugins", "validate", tmp_path)

    assert done.returncode == 1
    assert b"did you mean 'hermes.transports'?" in done.stdout


def test_a_package_that_is_not_there_is_the_projects_fault(hermes: Hermes, tmp_path: Path) -> None:
    """A missing package of the project is not to be installed from anywhere, but to be packed."""
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "x"\n[project.entry-points."hermes.transports"]\nx = "hermes_x"\n'
    )

    done = hermes("plugins", "validate", tmp_path)

    assert b"No module named 'hermes_x'" in done.stdout
    assert b"name a package of the project" in done.stdout


def test_a_project_says_where_its_packages_are(tmp_path: Path) -> None:
    """As setuptools is told, else in src and beside pyproject.toml."""
    file = tmp_path / "pyproject.toml"
    file.write_text("[project]")
    assert Project(tmp_path).paths == [str(tmp_path / "src"), str(tmp_path)]

    file.write_text('[tool.setuptools.packages.find]\nwhere = ["lib"]')
    assert Project(tmp_path).paths == [str(tmp_path / "lib")]


def test_what_is_neither_a_plugin_nor_a_project_is_refused(hermes: Hermes, tmp_path: Path) -> None:
    """The exit code tells which was meant, and the error what there is."""
    name = hermes("plugins", "validate", "tpc")
    folder = hermes("plugins", "validate", tmp_path)

    assert (name.returncode, folder.returncode) == (8, 2)
    assert b"Did you mean 'tcp'?" in name.stderr
    assert b"no pyproject.toml" in folder.stderr
