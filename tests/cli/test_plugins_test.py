"""``hermes plugins test``: the suite's outcome, and how it is told."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hermes.cli import plugins_test
from hermes.errors import InvalidUrl, PluginFailed, Timeout, UsageError
from hermes.testing.urls import free_url
from tests.environment import Environment

pytestmark = pytest.mark.slow

Hermes = Callable[..., "subprocess.CompletedProcess[bytes]"]


def test_what_keeps_the_contract_is_told_of(hermes: Hermes, tmp_path: Path) -> None:
    """Claims, groups and counts are on stdout, pytest's own words on stderr, every test's outcome
    in the report."""
    file = tmp_path / "report.json"

    done = hermes("plugins", "test", "inproc", "-k", "options", "--report", file)

    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    assert lines[0] == "transport inproc (inproc://0)"
    assert ["datagrams", "no", "1"] in [line.split() for line in lines]
    assert ["peer_credentials", "yes"] in [line.split() for line in lines]
    assert lines[-1].startswith("8 passed, 0 failed, 1 skipped in ")
    assert b"8 passed" in done.stderr
    (subject,) = json.loads(file.read_text())["subjects"]
    assert {check["group"] for check in subject["checks"]} == {"options"}


def test_what_breaks_the_contract_is_told_of(environment: Environment, tmp_path: Path) -> None:
    """The exit code is 1; each test that failed says what should hold and what was found."""
    environment.hermes("plugins", "new", "transport", "unixsock", cwd=tmp_path)
    project = tmp_path / "hermes-transport-unixsock"
    engine = project / "src" / "hermes_unixsock" / "engine.py"
    engine.write_text(engine.read_text().replace("url.options(ListenOptions)", "ListenOptions()"))
    environment.install(project)

    done = environment.hermes("plugins", "test", "unixsock", "-k", "options", expect=1)

    assert "FAILED options: test_" in done.stdout
    assert "  expected: " in done.stdout
    assert "  found:    " in done.stdout
    assert " failed, " in done.stdout.splitlines()[-1]


def test_json_is_the_report(hermes: Hermes) -> None:
    """With --json stdout has nothing else."""
    done = hermes("plugins", "test", "tcp", "-k", "registration", "--json")

    assert done.returncode == 0, done.stderr
    (subject,) = json.loads(done.stdout)["subjects"]
    assert subject["name"] == "tcp"
    assert subject["outcome"] == "passed"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["tpc"], 8, b"Did you mean 'tcp'?"),
        (["tcp", "-k", "nosuchtest"], 8, b"no test is selected by -k 'nosuchtest'"),
        (["tcp", "--set", "deadline"], 2, b"expected NAME=VALUE"),
        (["tcp", "--url", "udp://127.0.0.1:0"], 2, b"expected tcp:..."),
    ],
)
def test_what_cannot_be_run_says_why(
    hermes: Hermes, arguments: list[str], code: int, words: bytes
) -> None:
    """The error names what was meant, or what to do."""
    done = hermes("plugins", "test", *arguments)

    assert done.returncode == code, done.stdout
    assert words in done.stderr


def test_what_hangs_is_ended(tmp_path: Path) -> None:
    """After --timeout the child is gone, and the error says what to do."""
    with pytest.raises(Timeout, match="--timeout allows more"):
        plugins_test.run(tmp_path, "while True: pass", None, 1_000_000_000)


def test_what_does_not_begin_is_an_error(tmp_path: Path) -> None:
    """A module that cannot be collected is no success."""
    with pytest.raises(PluginFailed, match="could not begin"):
        plugins_test.run(tmp_path, "1 / 0", None, 0)


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suites need packages that Hermes does not."""
    monkeypatch.setattr(plugins_test, "find_spec", lambda name: name == "pytest" or None)

    plugins_test.require("transport")
    with pytest.raises(UsageError, match=r"hypothesis.*hermes-broker\[testing\]"):
        plugins_test.require("storage")


def test_settings_become_attributes() -> None:
    """Numbers are numbers, all else is text."""
    text = plugins_test.module("storage", "x", "x:{tmp}", ("flips=5", "quota_option=disk"))

    assert "class TestStorage(StorageContract):" in text
    assert "    url = 'x:{tmp}'" in text
    assert "    flips = 5" in text
    assert "    quota_option = 'disk'" in text


@pytest.mark.parametrize(
    ("kind", "scheme", "url"),
    [
        ("transport", "tcp", "tcp://127.0.0.1:0"),
        ("transport", "inproc", "inproc://0"),
        ("storage", "mmap", "mmap:{tmp}/data"),
        ("storage", "memory", "memory:"),
    ],
)
def test_urls_are_found_by_trying(kind: str, scheme: str, url: str) -> None:
    """Ports, paths, names and nothing are tried."""
    assert free_url(kind, scheme) == url


def test_a_plugin_that_takes_none_of_them_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what was said of each, and names --url."""
    monkeypatch.setattr("hermes.testing.urls.CANDIDATES", {"transport": ("//a/b", "/c")})

    with pytest.raises(InvalidUrl, match=r"--url.*\n.*no path.*\n.*no path"):
        free_url("transport", "tcp")
