"""Deliberately broken plugins, installed as distributions: each is shown with its reason, and harms
nobody who does not choose it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

import hermes

DEADLINE_S = 60
GOOD = '''
"""A transport that would work, but for what is said."""
import msgspec
from hermes.spi.hooks import hookimpl
from hermes.spi.transport import Capabilities

class NoOptions(msgspec.Struct):
    pass

class T:
    api_version = 1
    capabilities = Capabilities()
    listen_options = dial_options = NoOptions
    def probe(self):
        return None

@hookimpl
def hermes_register_transports(register):
    register("{name}", T)
'''
BROKEN: dict[str, tuple[str, str]] = {
    "on-import": ("raise RuntimeError('no import today')", "RuntimeError: no import today"),
    "on-registration": (
        GOOD.replace('    register("{name}", T)', "    raise OSError('no registration today')"),
        "could not be registered: OSError: no registration today",
    ),
    "registers-twice": (GOOD + '    register("{name}", T)\n', "is registered twice"),
    "wrong-version": (
        GOOD.replace("api_version = 1", "api_version = 99"),
        "speaks version 99 of the transport interface, this Hermes speaks 1: upgrade hermes-broker",
    ),
    "needs-more": (
        "import fancy_dependency.core\n" + GOOD,
        "pip install 'broken-needs-more[fancy]' to use 'needs-more'",
    ),
    "needs-else": (
        GOOD.replace("def probe(self):", "def probe(self):\n        import other_dependency"),
        "install the module 'other_dependency' into this environment to use 'needs-else'",
    ),
    "hangs-in-probe": (
        GOOD.replace("return None", "import signal; signal.pause()"),
        "not ready after",
    ),
    "another-name": (
        GOOD.replace('register("{name}"', 'register("something"'),
        "announces transport 'something'",
    ),
    "one-name-too-many": (
        GOOD + '    register("unlisted", T)\n',
        "also announces transport 'unlisted', for which it has no entry point",
    ),
    "misspelt": (
        GOOD.replace("def hermes_register_transports", "def hermes_register_transport"),
        "unknown hook 'hermes_register_transport'",
    ),
    "wrong-place": (
        GOOD + "\n@hookimpl\ndef hermes_metrics(metrics): pass\n",
        "hermes_metrics stands in the module itself",
    ),
    "says-nothing": (
        GOOD.replace("capabilities = Capabilities()", "capabilities = None"),
        "does not describe itself as the interface says",
    ),
    "crashes": ("import os; os._exit(7)", "with code 7"),
}
"""Name to module text, and what is said of it."""


def install(place: Path, distribution: str, text: str, *groups: str, metadata: str = "") -> None:
    """A distribution with one module, as an installer leaves it; ``groups`` are lines of its entry
    points, with ``{module}`` where the module stands."""
    module = distribution.replace("-", "_")
    (place / f"{module}.py").write_text(textwrap.dedent(text))
    info = place / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n{metadata}"
    )
    (info / "entry_points.txt").write_text("\n".join(groups).format(module=module))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment with every broken plugin in it."""
    place = tmp_path_factory.mktemp("site")
    for name, (text, _) in BROKEN.items():
        needs = "Provides-Extra: fancy\nRequires-Dist: fancy-dependency ; extra == 'fancy'\n"
        install(
            place,
            f"broken-{name}",
            text.replace("{name}", name),
            "[hermes.transports]",
            f"{name} = {{module}}",
            metadata=needs if name == "needs-more" else "",
        )
    for maker in ("first", "second"):
        entry = ("[hermes.transports]", "clash = {module}")
        install(place, f"broken-{maker}", GOOD.replace("{name}", "clash"), *entry)
    hijack = GOOD.replace("{name}", "hijack") + '    register("tcp", T)\n'
    entry = ("[hermes.transports]", "hijack = {module}", "tcp = {module}")
    install(place, "broken-hijack", hijack, *entry)
    entry = ("[hermes.commands]", "pub = {module}", "shattered = {module}")
    install(place, "broken-command", "1 / 0", *entry)
    for maker in ("castor", "pollux"):
        install(place, f"broken-{maker}", "import click", "[hermes.commands]", "twins = {module}")
    own = {k: v for k, v in os.environ.items() if not k.startswith("HERMES")}
    path = os.pathsep.join(filter(None, [str(place), own.get("PYTHONPATH", "")]))
    return own | {"PYTHONPATH": path}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in that environment, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "hermes", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


@pytest.fixture(scope="module")
def listed(environment: dict[str, str]) -> dict[tuple[str, str], dict[str, Any]]:
    """Rows of `hermes plugins list`, by name and distribution; of the one that hangs, what it says
    when asked to be quick."""
    hangs = "hangs-in-probe"
    found: dict[tuple[str, str], dict[str, Any]] = {}
    alone = environment | {"HERMES_PLUGINS": hangs}
    quick = run(alone, "plugins", "list", "--json", "--deadline", "1")
    whole = run(environment, "--no-plugin", hangs, "plugins", "list", "--json")
    for done in (whole, quick):
        assert done.returncode == 0, done.stderr
        for row in json.loads(done.stdout):
            if done is whole or row["name"] == hangs:
                found[row["name"], row["distribution"]] = row
    return found


@pytest.mark.parametrize("name", BROKEN)
def test_each_is_shown_with_its_reason(
    listed: dict[tuple[str, str], dict[str, Any]], name: str
) -> None:
    """A broken plugin is listed as failed, with what is wrong and, where it is known, what to do."""
    row = listed[name, f"broken-{name}"]

    assert row["state"] == "failed"
    assert BROKEN[name][1] in row["reason"]


def test_two_distributions_of_one_name_both_fail(
    listed: dict[tuple[str, str], dict[str, Any]],
) -> None:
    """Neither is chosen, and each row names both makers."""
    for maker in ("broken-first", "broken-second"):
        assert listed["clash", maker]["state"] == "failed"
        assert "broken-first and broken-second" in listed["clash", maker]["reason"]


def test_a_built_in_name_stays_the_built_ins(
    listed: dict[tuple[str, str], dict[str, Any]],
) -> None:
    """Another package that offers it is shown as failed, whatever else it has works, and tcp is ours."""
    assert listed["tcp", "hermes-broker"]["state"] == "loaded"
    assert listed["tcp", "broken-hijack"]["state"] == "failed"
    assert "the name belongs to hermes-broker" in listed["tcp", "broken-hijack"]["reason"]
    assert listed["hijack", "broken-hijack"]["state"] == "loaded"


def test_broken_commands_are_shown(listed: dict[tuple[str, str], dict[str, Any]]) -> None:
    """A command that cannot be imported, and one that has the name of ours, are failed."""
    assert "ZeroDivisionError" in listed["shattered", "broken-command"]["reason"]
    assert "a command of Hermes itself" in listed["pub", "broken-command"]["reason"]


def test_a_broker_works_as_if_they_were_not_there(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """`hermes serve` with tcp serves a client, beside all of them."""
    ready = tmp_path / "ready.json"
    command = ["serve", "--transport", "tcp://127.0.0.1:0", "--storage", "memory"]
    broker = subprocess.Popen(
        [sys.executable, "-m", "hermes", *command, "--ready-file", str(ready)], env=environment
    )
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not ready.exists():
            assert broker.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        url = json.loads(ready.read_text())["listeners"][0]["url"]
        sent = run(environment, "pub", "a", "x", "--url", url)
        got = run(environment, "sub", "a", "--from", "earliest", "--count", "1", "--url", url)
        assert (sent.returncode, got.stdout) == (0, "x\n"), sent.stderr + got.stderr
        broker.send_signal(signal.SIGTERM)
        assert broker.wait(DEADLINE_S) == 0
    finally:
        broker.kill()
        broker.wait()


@pytest.mark.parametrize("name", ["on-import", "wrong-version", "clash"])
def test_one_that_is_chosen_is_an_error_with_cause_and_cure(
    environment: dict[str, str], name: str
) -> None:
    """A broker that is told to use a broken plugin does not start, and says why."""
    done = run(environment, "serve", "--transport", f"{name}://x", "--storage", "memory")

    assert done.returncode == 8
    reason = BROKEN[name][1] if name in BROKEN else "uninstall all but one"
    assert reason in done.stderr


def test_a_broken_command_harms_no_other(environment: dict[str, str]) -> None:
    """Help lists it without importing it; run, it says what is wrong."""
    listed, ran = run(environment, "--help"), run(environment, "shattered")
    twins = run(environment, "twins", "--any")

    assert "shattered" in listed.stdout
    assert (ran.returncode, "ZeroDivisionError" in ran.stderr) == (8, True)
    assert (twins.returncode, "broken-castor and broken-pollux" in twins.stderr) == (8, True)


def test_none_of_them_is_there_where_only_ours_may_be(environment: dict[str, str]) -> None:
    """With an empty HERMES_PLUGINS nothing of another distribution is used, nor imported."""
    done = run(environment | {"HERMES_PLUGINS": ""}, "plugins", "list", "--json")

    rows = json.loads(done.stdout)
    foreign = {row["state"] for row in rows if row["distribution"].startswith("broken-")}
    assert foreign <= {"disabled", "failed"}
    assert all("HERMES_PLUGINS" in row["reason"] for row in rows if row["state"] == "disabled")
    assert "shattered" not in run(environment | {"HERMES_PLUGINS": ""}, "--help").stdout


def test_the_folders_are_the_entry_points() -> None:
    """Every package under transports/ and plugins/ has an entry point, and each entry point of ours
    a package there: what ships is found as a third party's plugin is."""
    from hermes.plugins.discovery import BUILT_IN, listing

    root = Path(hermes.__file__).parents[1]
    folders = {
        kind: {place.parent.name for place in (root / folder).glob("hermes_*/__init__.py")}
        for folder, kind in (("transports", "transports"), ("plugins", "plugins"))
    }
    announced: dict[str, set[str]] = {"transports": set(), "plugins": set()}
    commands = set()
    for plugin in listing():
        if plugin.distribution == BUILT_IN:
            package = plugin.module.partition(":")[0].partition(".")[0]
            if plugin.kind == "command":  # a transport's or another plugin's, beside what it is
                commands.add(package)
            else:
                announced["transports" if plugin.kind == "transport" else "plugins"].add(package)

    assert announced == folders
    assert commands <= folders["transports"] | folders["plugins"]
