"""``hermes plugins list`` and ``info``: what is installed, looked into from a distance."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from hermes.cli import examination, plugin_facts
from hermes.plugins.discovery import Installed, default_plugins

Hermes = Callable[..., "subprocess.CompletedProcess[bytes]"]
X = Installed("transport", "x", "x_module", "x-dist", "1.0")
BUILT_IN = [
    ("storage", "mmap"),
    ("storage", "memory"),
    ("transport", "tcp"),
    ("transport", "inproc"),
    ("plugin", "tokens"),
]


def test_the_built_in_plugins_work_here(hermes: Hermes) -> None:
    """All that does not depend on the machine is listed as loaded."""
    done = hermes("plugins", "--json")

    found = {(row["kind"], row["name"]): row for row in json.loads(done.stdout)}
    assert {key: found[key]["state"] for key in BUILT_IN} == dict.fromkeys(BUILT_IN, "loaded")


def test_nothing_is_imported_without_the_check(hermes: Hermes) -> None:
    """`--no-check` lists what is installed as discovered."""
    done = hermes("plugins", "--no-check", "--json")

    assert {row["state"] for row in json.loads(done.stdout)} == {"discovered"}


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import os; os._exit(3)", "code 3"),
        ("raise RuntimeError('broken inside')", "broken inside"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "code -11"),
        ("print('chatter'); print('not json')", "said nothing"),
        ("print('[]')", "code 0"),
    ],
    ids=["exits", "raises", "crashes", "babbles", "answers-nonsense"],
)
def test_a_plugin_that_ends_its_process_is_reported(
    monkeypatch: pytest.MonkeyPatch, program: str, words: str
) -> None:
    """However a plugin ends the child, the command goes on and says how it ended."""
    monkeypatch.setattr(examination, "PROGRAM", program)

    (found,) = examination.examine([X])

    assert found["state"] == "failed"
    assert words in found["reason"]


def test_a_plugin_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the deadline it counts as failed; its child, and what that has started, are ended."""
    program = (
        "import signal, subprocess, sys\n"
        "print(subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()']).pid)\n"
        "signal.pause()"
    )
    monkeypatch.setattr(examination, "PROGRAM", program)

    (found,) = examination.examine([X], deadline_ns=300_000_000)

    assert found["state"] == "failed"
    assert "not ready after 0.3 s" in found["reason"]
    assert "--no-plugin x" in found["reason"]


def test_a_plugin_may_chatter_while_it_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it prints is not taken for the answer."""
    monkeypatch.setattr(examination, "PROGRAM", "print('hello')\n" + examination.PROGRAM)
    memory = next(row for row in default_plugins().listing() if row.name == "memory")

    (found,) = examination.examine([memory])

    assert found["state"] == "loaded"


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


def test_info_has_version_capabilities_options_and_hooks(hermes: Hermes) -> None:
    """All there is to know of a transport stands in one object."""
    found = json.loads(hermes("plugins", "info", "tcp", "--json").stdout)

    assert (found["kind"], found["state"], found["api_version"]) == ("transport", "loaded", 1)
    assert found["announces"] == [{"kind": "transport", "name": "tcp"}]
    assert found["capabilities"]["native_fd"] is True
    assert "nodelay" in {option["name"] for option in found["options"]}
    assert found["hooks"] == ["hermes_register_transports"]


@pytest.mark.parametrize("used", [False, True], ids=["found", "in-use"])
def test_info_knows_the_hooks_and_options_of_a_plugin(used: bool) -> None:
    """What a plugin will do shows before it is active, and when it is in use here already."""
    if used:
        default_plugins().plugin("tokens")

    found = plugin_facts.look(default_plugins(), "plugin", "tokens", "hermes-broker")

    assert found["hooks"] == ["hermes_register_plugins", "hermes_authenticate"]
    assert [(option["name"], option["ends"]) for option in found["options"]] == [
        ("file", ["activate"])
    ]


def test_info_suggests_for_a_misspelt_name(hermes: Hermes) -> None:
    """A name that nothing has is told with the closest one."""
    done = hermes("plugins", "info", "memroy")

    assert done.returncode == 8
    assert b"Did you mean 'memory'?" in done.stderr


def test_what_is_excluded_is_disabled_and_cannot_be_used(hermes: Hermes) -> None:
    """--no-plugin stands before any command, is passed on to children, and says what it did."""
    listed = hermes("--no-plugin", "tcp", "plugins", "--json")
    served = hermes("serve", "--no-plugin", "tcp", "--storage", "memory")

    states = {row["name"]: row["state"] for row in json.loads(listed.stdout)}
    assert states["tcp"] == "disabled"
    assert states["inproc"] == "loaded"
    assert served.returncode == 8
    assert b"--no-plugin" in served.stderr


def test_a_name_in_the_allow_list_that_is_nothing_is_told() -> None:
    """HERMES_PLUGINS with a misspelt name allows nothing more, and the list says so."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HERMES")}
    done = subprocess.run(
        [sys.executable, "-m", "hermes", "plugins", "--no-check"],
        env=environment | {"HERMES_PLUGINS": "token"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert "names 'token', which is not installed; did you mean 'tokens'?" in done.stdout
