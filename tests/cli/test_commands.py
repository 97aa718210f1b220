"""Promises of every command: documentation, ``--json``, examples, exit codes, quick start."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from hermes.cli.app import COMMANDS, app
from hermes.cli.command import Command
from hermes.cli.exits import MEANINGS, ExitCode

CLI_PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


def leaves() -> list[tuple[str, click.Command]]:
    """Every command that does something, with its full name."""
    context = click.Context(app)
    found: list[tuple[str, click.Command]] = []
    for name in COMMANDS:
        command = app.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            for sub in command.list_commands(context):
                leaf = command.get_command(context, sub)
                assert leaf is not None
                found.append((f"{name} {sub}", leaf))
        else:
            found.append((name, command))
    return found


LEAVES = leaves()
each_command = pytest.mark.parametrize(
    ("name", "command"), LEAVES, ids=[name.replace(" ", "-") for name, _ in LEAVES]
)


@each_command
def test_every_command_speaks_json(name: str, command: click.Command) -> None:
    """``--json`` is an option of every command."""
    assert any("--json" in parameter.opts for parameter in command.params), name


@each_command
def test_every_option_is_explained(name: str, command: click.Command) -> None:
    """The command has a description and a summary, and each of its options a help text."""
    assert command.help, name
    assert command.get_short_help_str(), name
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts[0]} has no help"


@each_command
def test_every_command_has_examples_that_parse(name: str, command: click.Command) -> None:
    """Each example names the command, and every option in it exists."""
    assert isinstance(command, Command)
    assert command.examples, name
    known = {"--help"} | {
        option
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    for what, line in command.examples:
        assert what
        assert f"hermes {name}" in line or line == "hermes --version"
        mine = line.split(f"hermes {name}")[-1].split("|")[0]
        if line != "hermes --version":
            assert set(re.findall(r"(?<!\S)--[a-z-]+", mine)) <= known, line


@each_command
def test_help_shows_examples_and_exit_codes(name: str, command: click.Command) -> None:
    """``--help`` ends with worked examples and the exit codes."""
    text = command.get_help(click.Context(command, info_name=name))

    assert "Examples:" in text
    assert re.search(r"Exit codes:\n  0 ", text)


@pytest.mark.slow
@each_command
def test_every_command_starts_in_an_interpreter_of_its_own(name: str, command: object) -> None:
    """Each command imports what it needs: nothing that another one has imported before."""
    done = subprocess.run(
        [sys.executable, "-m", "hermes", *name.split(), "--help"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.startswith(f"Usage: hermes {name} "), done.stdout


@each_command
def test_every_command_has_a_place_in_the_docs(name: str, command: click.Command) -> None:
    """docs/cli.md has a section for it, and a row in its first table that leads there."""
    page = CLI_PAGE.read_text()
    first = name.split()[0]

    assert f"## `hermes {first}`" in page
    assert f"| [`hermes {first}`](#hermes-{first}) |" in page


def test_exit_codes_of_the_docs_are_those_of_the_code() -> None:
    """The table of exit codes lists each of them, and no other."""
    page = CLI_PAGE.read_text()
    table = page[page.index("## Exit codes") : page.index("## Which broker")]

    assert {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.M)} == set(ExitCode)
    assert set(MEANINGS) == set(ExitCode)


def test_help_of_the_group_lists_every_command_without_importing_it() -> None:
    """``hermes --help`` names all commands and imports none, nor rich, nor the native core."""
    program = (
        "import sys\n"
        "from hermes.cli.app import app\n"
        "app(['--help'], standalone_mode=False)\n"
        "heavy = ['rich', 'msgspec', 'hermes.native', 'asyncio', 'hermes.cli.pub']\n"
        "print('imported:', [name for name in heavy if name in sys.modules])\n"
    )

    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout

    for name, summary in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(summary)}", output, re.M)
    assert "imported: []" in output


def test_summaries_of_the_group_are_those_of_the_commands() -> None:
    """The one line in ``hermes --help`` is the one that the command itself has."""
    context = click.Context(app)
    for name, summary in COMMANDS.items():
        command = app.get_command(context, name)
        assert command is not None
        assert command.short_help == summary


@pytest.mark.timing
@pytest.mark.parametrize("arguments", [["--help"], ["version"]], ids=["help", "version"])
def test_light_commands_are_quick(arguments: list[str]) -> None:
    """`hermes --help` and `hermes version` take less than 150 ms of processor time."""

    def seconds() -> float:
        child = subprocess.Popen(
            [sys.executable, "-m", "hermes", *arguments], stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0
        return usage.ru_utime + usage.ru_stime

    assert min(seconds() for _ in range(5)) < 0.150


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("hermes p", {"pub", "plugins"}),
        ("hermes log ", {"inspect", "verify", "dump"}),
        ("hermes pub --a", {"--ack"}),
        ("hermes sub --format ", {"raw", "text", "json"}),
    ],
)
def test_the_shell_completes(words: str, offered: set[str]) -> None:
    """Commands, options and values, by the protocol that docs/cli.md sets up."""
    environment = os.environ | {
        "_HERMES_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }

    done = subprocess.run(
        [sys.executable, "-c", "from hermes.cli import main; main()"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )

    assert {line.partition(",")[2] for line in done.stdout.splitlines()} == offered


class Distribution(importlib.metadata.Distribution):
    """A distribution with one command, as another package would install it."""

    def __init__(self, value: str) -> None:
        self._value = value

    def read_text(self, filename: str) -> str | None:
        """Its metadata."""
        if filename == "entry_points.txt":
            return f"[hermes.commands]\nhello = {self._value}\npub = {self._value}\n"
        return "Name: hermes-hello\nVersion: 1\n" if filename == "METADATA" else None

    def locate_file(self, path: object) -> Path:
        """A package without files."""
        return Path(str(path))


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make a distribution appear to be installed, whose command is ``value``."""

    def appear(value: str) -> None:
        found = Distribution(value).entry_points
        monkeypatch.setattr(
            importlib.metadata, "entry_points", lambda group: found.select(group=group)
        )

    return appear


def test_a_plugin_brings_a_command(install: Callable[[str], None]) -> None:
    """A plugin's command is listed, runs, and cannot replace a built-in."""
    install("hermes.cli.version")
    runner = CliRunner()

    listed, ran, ours = (
        runner.invoke(app, ["--help"]),
        runner.invoke(app, ["hello"]),
        runner.invoke(app, ["pub", "--help"]),
    )

    assert re.search(r"^  hello +Brought by the package hermes\.", listed.output, re.M)
    assert ran.exit_code == 0
    assert ran.output.startswith("hermes ")
    assert "TOPIC" in ours.output


@pytest.mark.parametrize("value", ["no.such.module", "json:dumps"])
def test_a_broken_command_harms_nobody_until_it_is_run(
    install: Callable[[str], None], value: str
) -> None:
    """`--help` works; running it names the distribution, the cause and what to do, with code 8."""
    install(value)
    runner = CliRunner()

    listed, ran = runner.invoke(app, ["--help"]), runner.invoke(app, ["hello", "--any", "thing"])

    assert listed.exit_code == 0
    assert ran.exit_code == 8
    assert "hermes-hello" in ran.output
    assert "pip" in ran.output
