"""``hermes plugins``: what is installed, looked into from a distance."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import pytest

from hermes.cli import plugins_list as plugins

Hermes = Callable[..., "subprocess.CompletedProcess[bytes]"]


def test_the_built_in_plugins_work_here(hermes: Hermes) -> None:
    """Both storages and both transports are listed and work."""
    done = hermes("plugins", "--json")

    found = {(row["kind"], row["name"]): row for row in json.loads(done.stdout)}
    for key in [
        ("storage", "mmap"),
        ("storage", "memory"),
        ("transport", "tcp"),
        ("transport", "inproc"),
    ]:
        assert found[key]["works"], found[key]["detail"]


def test_nothing_is_imported_without_the_check(hermes: Hermes) -> None:
    """`--no-check` lists names and says nothing of whether they work."""
    done = hermes("plugins", "--no-check", "--json")

    rows = json.loads(done.stdout)
    assert rows
    assert all("works" not in row for row in rows)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import os; os._exit(3)", "code 3"),
        ("raise RuntimeError('broken inside')", "broken inside"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "code -11"),
        ("print('chatter'); print('not json')", "said nothing"),
    ],
    ids=["exits", "raises", "crashes", "babbles"],
)
def test_a_plugin_that_ends_its_process_is_reported(
    monkeypatch: pytest.MonkeyPatch, program: str, words: str
) -> None:
    """However a plugin ends the child, the command goes on and says how it ended."""
    monkeypatch.setattr(plugins, "PROBE", program)

    (found,) = plugins.examine([("transport", "x")])

    assert not found["works"]
    assert words in found["detail"]


def test_a_plugin_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the deadline its child is ended and it counts as not working."""
    monkeypatch.setattr(plugins, "PROBE", "import time; time.sleep(600)")
    monkeypatch.setattr(plugins, "DEADLINE_S", 0.2)

    (found,) = plugins.examine([("transport", "x")])

    assert not found["works"]
    assert "still loading" in found["detail"]


def test_a_plugin_may_chatter_while_it_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it prints is not taken for the answer."""
    monkeypatch.setattr(plugins, "PROBE", "print('hello')\n" + plugins.PROBE)

    (found,) = plugins.examine([("storage", "memory")])

    assert found == {"works": True, "detail": ""}


def test_the_group_alone_is_the_list(hermes: Hermes) -> None:
    """`hermes plugins` and its flags mean `hermes plugins list`; a misspelt command is suggested."""
    alone, flagged, typo = (
        hermes("plugins", "--no-check"),
        hermes("plugins", "list", "--no-check"),
        hermes("plugins", "lst"),
    )

    assert alone.stdout == flagged.stdout
    assert typo.returncode == 2
    assert b"Did you mean 'list'?" in typo.stderr
