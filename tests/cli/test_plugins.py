"""``hermes plugins list`` and ``info``: what is installed, looked into from a distance."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hermes.cli import examination, examiner, plugin_facts
from hermes.plugins.discovery import Installed, default_plugins

pytestmark = pytest.mark.slow

Hermes = Callable[..., "subprocess.CompletedProcess[bytes]"]
X = Installed("transport", "x", "x_module", "x-dist", "1.0")
BUILT_IN = [
    ("storage", "mmap"),
    ("storage", "memory"),
    ("transport", "tcp"),
    ("transport", "inproc"),
    ("plugin", "tokens"),
]


def instead(program: str) -> str:
    """The examiner's program, whose processes run ``program`` instead of looking into a plugin."""
    return (
        "from hermes.cli import examiner, plugin_facts\n"
        f"program, names = {program!r}, {{'main': plugin_facts.main}}\n"
        "plugin_facts.main = lambda: exec(program, names)\n"
        "examiner.main()\n"
    )


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
    monkeypatch.setattr(examination, "PROGRAM", instead(program))

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
    monkeypatch.setattr(examination, "PROGRAM", instead(program))

    (found,) = examination.examine([X], deadline_ns=300_000_000)

    assert found["state"] == "failed"
    assert "not ready after 0.3 s" in found["reason"]
    assert "--no-plugin x" in found["reason"]


def test_a_plugin_may_chatter_while_it_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin's output is not taken for the answer."""
    monkeypatch.setattr(examination, "PROGRAM", instead("print('hello'); main()"))
    memory = next(row for row in default_plugins().listing() if row.name == "memory")

    (found,) = examination.examine([memory])

    assert found["state"] == "loaded"


def test_each_of_many_is_answered_for_in_order() -> None:
    """More plugins than are looked into at a time, with one that hangs among them: each has its own
    answer."""
    tokens = next(row for row in default_plugins().listing() if row.name == "tokens")
    plugins = [tokens, X] * (examiner.AT_ONCE + 1)

    found = examination.examine(plugins)

    assert [one["state"] for one in found] == ["loaded", "failed"] * (examiner.AT_ONCE + 1)


def test_an_interrupt_ends_what_looks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wait_for: Callable[..., None]
) -> None:
    """Ctrl-C while a plugin hangs leaves neither its process nor what that has started."""
    pids = tmp_path / "pids"
    program = (
        "import os, signal, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'])\n"
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}.')\n"
        "signal.pause()"
    )
    monkeypatch.setattr(examination, "PROGRAM", instead(program))

    def interrupt() -> None:
        wait_for(lambda: pids.exists() and pids.read_text().endswith("."), "the child")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with ThreadPoolExecutor() as pool:
        pool.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            examination.examine([X])

    for pid in map(int, pids.read_text().rstrip(".").split()):
        wait_for(lambda pid=pid: is_over(pid), f"the end of {pid}")


def is_over(pid: int) -> bool:
    """Whether a process has ended, awaited or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


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
    """A plugin's abilities show before it is active, and when it is in use here already."""
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
