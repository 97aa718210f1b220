"""Every option and argument of every command, with values of every kind: what is refused is refused with
exit code 2 and a sentence that names it, never with a traceback.

Commands and options are found by click's own introspection: a text without an entry here fails a test.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from hermes.cli import options
from hermes.cli.app import app
from hermes.cli.bench_options import Listed
from hermes.cli.exits import ExitCode

BROKER = "tcp://127.0.0.1:1"
"""A URL without a broker: what is not refused before ends with another exit code."""
POOL = [
    "", " ", "x", "-1", "0", "1", "1.5", "-0.5", "nan", "inf", "-inf", "1e3", "1e400", "9" * 30,
    "9" * 5000, "0x10", "1,5", "1,,5", "ms", "1 ms", "5xs", "10 GiB", "true", "\u0661",
    "\udcff", "\u20ac", "x" * 200, "../..", "@nan", "@inf", "@1e300", "2026-13-01", "a.*b",
]  # fmt: skip
"""Texts that somebody may write behind an option."""

WRONG: dict[str, list[str]] = {
    "hermes --no-plugin": ["tpc", "", "x" * 200],
    "serve --transport": [
        "127.0.0.1:0",
        "47999",
        "localhost:0",
        "tcp://",
        "tcp://[::1",
        "",
        "\udcff",
    ],
    "serve --storage": ["/data", "", "\udcff"],
    "serve --stream": ["x", "=a", "x=", "x=a..b", "x=a*", "default=a", "x y=a", "x=a,,b"],
    "serve --plugin": ["foo=1", "", "tokens:path"],
    "serve --intercept": ["x", "loss=2", "loss"],
    "pub topic": ["", "a..b", "a.>", "a.*b", "md.#", "\udcff", "x" * 256],
    "pub --url": [
        "localhost:47601",
        "127.0.0.1",
        "47601",
        "tcp://",
        "tcp://[::1",
        "",
        "tcp://h:99999",
    ],
    "pub --intercept": ["x"],
    "sub pattern": ["", "a..b", "a.*b", "md.#", "a.>.b", "\udcff", "md."],
    "sub --url": ["localhost:47601", "", "/tmp/x"],
    "sub --intercept": ["x"],
    "topics pattern": ["", "a..b", "a.*b", "md/+"],
    "plugins test --set": ["x", ""],
    "plugins test --url": ["localhost:1", ""],
    "plugins new name": ["Bad Name", "", "x" * 200],
    "tune --only": ["nope", ""],
    "demo --transport": ["localhost:1", "", "tcp://["],
    "bench compare --storage": ["/data", ""],
    "bench latency --storage": ["/data", ""],
    "bench throughput --storage": ["/data", ""],
    "bench fanout --storage": ["/data", ""],
    "bench rivals --storage": ["/data", ""],
    **{f"{name} --url": ["localhost:47601", ""] for name in ("streams", "topics", "stats")},
    **{f"durables {name} --url": ["localhost:47601", ""] for name in ("list", "forget")},
}
"""Per text the values that are refused."""
FREE = {
    "pub message": "any text is a message",
    "log dump --stream": "a name that is not there is said to be so",
    "log inspect --stream": "a name that is not there is said to be so",
    "log verify --stream": "a name that is not there is said to be so",
    "plugins list --no-plugin": "as that of hermes itself",
    "serve --no-plugin": "as that of hermes itself",
    "plugins info name": "a name that is not there is said to be so, with another exit code",
    "plugins validate target": "what is not there is said to be so, with another exit code",
    "plugins test name": "a name that is not there is said to be so, with another exit code",
    "plugins test -k": "an expression of pytest",
    "plugins reference names": "a name that is not there is said to be so, with another exit code",
    "plugins reference --distribution": "a name that is not there is said to be so",
    **{f"bench {name} transport": "a name" for name in ("latency", "throughput", "fanout")},
    "bench compare transports": "names",
    "bench rivals names": "names",
    "bench rivals --transport": "a name",
}
"""Texts that are judged later, and why."""
NEEDED: dict[str, list[str]] = {
    "pub": ["md.x", "hi", "--url", BROKER],
    "sub": ["md.x", "--url", BROKER],
    "durables forget": ["never", "--url", BROKER],
    "durables list": ["--url", BROKER],
    "streams": ["--url", BROKER],
    "topics": ["--url", BROKER],
    "stats": ["--url", BROKER],
    "log dump": ["."],
    "log inspect": ["."],
    "log verify": ["."],
    "plugins info": ["tcp"],
    "plugins new": ["transport", "mine"],
    "plugins validate": ["tcp"],
    "plugins test": ["tcp"],
}
"""Arguments that a command cannot do without."""
SOURCES = {"pub --size": "hi", "pub --stdin": "hi"}


def walk(
    command: click.Command, path: tuple[str, ...], ctx: click.Context
) -> Iterator[tuple[str, click.Parameter]]:
    """Each of our commands' parameters, beside the command's name."""
    for parameter in command.params:
        yield " ".join(path) or "hermes", parameter
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            found = command.get_command(ctx, name)
            assert found is not None
            if found.callback is None or not found.callback.__module__.startswith("hermes_"):
                yield from walk(found, (*path, name), click.Context(found, ctx, name))


def spelled(parameter: click.Parameter) -> str:
    """As it is typed, and as errors name it."""
    return parameter.opts[-1]


ROWS = [
    (f"{name} {spelled(parameter)}", name, parameter)
    for name, parameter in walk(app, (), click.Context(app, info_name="hermes"))
    if not getattr(parameter, "is_flag", False)
]
TYPED = [row for row in ROWS if row[2].type is not click.STRING]
TEXTS = [row for row in ROWS if row[2].type is click.STRING or row[0] in WRONG]


def line(name: str, parameter: click.Parameter, value: str) -> list[str]:
    """A command line that gives ``value`` to ``parameter``, and else what the command needs."""
    words = [] if name == "hermes" else name.split()
    needed = list(NEEDED.get(name, []))
    if isinstance(parameter, click.Argument):
        if needed and not needed[0].startswith("-"):
            position = 1 if spelled(parameter) == "name" and name == "plugins new" else 0
            needed[position] = value
            return [*words, *needed[: position + 1], *needed[position + 1 :]]
        return [*words, *needed, "--", value]
    if f"{name} {spelled(parameter)}" == "pub --size":
        needed.remove("hi")
    if spelled(parameter) == "--url" and "--url" in needed:
        needed = needed[: needed.index("--url")]
    more = ["topics", "--url", BROKER] if name == "hermes" else []
    return [*words, *needed, spelled(parameter), value, *more]


def run(arguments: list[str]) -> Result:
    """The command line, in this process."""
    return CliRunner().invoke(app, arguments, env={"HERMES_URL": None, "HERMES_PLUGINS": None})


def assert_refused(result: Result, label: str, arguments: list[str]) -> None:
    """Exit code 2, and one sentence that names the option."""
    shown = [word[:40] for word in arguments]
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise AssertionError(f"{shown}: {result.exception!r}") from result.exception
    complaint = result.stderr.strip().splitlines()[-1] if result.stderr.strip() else ""

    assert result.exit_code == ExitCode.USAGE, f"{shown}: {result.exit_code} {result.output}"
    assert "Traceback" not in result.output
    assert len(complaint) < 1000, f"{shown}: {len(complaint)} characters"
    word = label.rpartition(" ")[2].lstrip("-").lower()
    assert word in complaint.lower(), f"{shown}: {complaint}"


@pytest.mark.parametrize(("label", "name", "parameter"), TYPED, ids=[row[0] for row in TYPED])
def test_a_typed_option_is_read_or_refused(
    label: str,
    name: str,
    parameter: click.Parameter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each value of the pool is converted, or refused as click refuses: by name, with exit code 2."""
    monkeypatch.chdir(tmp_path)
    ctx = click.Context(click.Command(name), info_name=name)
    is_argument = isinstance(parameter, click.Argument)
    refused = []
    for value in POOL:
        try:
            found = parameter.type.convert(value, parameter, ctx)
        except click.UsageError as error:
            refused.append(error)
        else:
            assert is_sound(parameter.type, found), f"{label} {value[:40]!r}: {found!r}"

    for error in refused:
        word = parameter.metavar or spelled(parameter) if is_argument else spelled(parameter)
        assert error.exit_code == ExitCode.USAGE
        assert word.lstrip("-").lower() in error.format_message().lower()


def is_sound(kind: object, found: object) -> bool:
    """Whether a converted value can be counted, waited or sent with."""
    if isinstance(kind, Listed):
        assert isinstance(found, tuple)
        return all(is_sound(None, one) for one in found)
    if isinstance(found, int | float):
        return 0 <= found < 2**63 and found == found
    return found is not None


@pytest.mark.parametrize(("label", "name", "parameter"), TEXTS, ids=[row[0] for row in TEXTS])
def test_a_text_is_refused_by_name(
    label: str,
    name: str,
    parameter: click.Parameter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A command that cannot work ends with exit code 2 before a broker is asked or begun."""
    monkeypatch.chdir(tmp_path)
    assert (label in WRONG) != (label in FREE), f"{label} has no entry, or two"
    for value in WRONG.get(label, []):
        arguments = line(name, parameter, value)
        assert_refused(run(arguments), label, arguments)
    assert not list(tmp_path.iterdir())


NUMBERS = [row for row in TYPED if isinstance(row[2].type, options.Duration | options.Rate)]


@pytest.mark.parametrize(("label", "name", "parameter"), NUMBERS, ids=[row[0] for row in NUMBERS])
@pytest.mark.parametrize("value", ["nan", "-1", "x", "9" * 100 + "x"])
def test_a_wrong_number_ends_the_command(
    label: str, name: str, parameter: click.Parameter, value: str
) -> None:
    """The whole command line ends with exit code 2 and a sentence."""
    arguments = line(name, parameter, value)
    assert_refused(run(arguments), label, arguments)


def test_for_ever_can_be_typed() -> None:
    """``inf`` and numbers without end are times; 0 is one only where it has a meaning."""
    kind, ctx = options.Duration(), click.Context(click.Command("x"))
    ends = {kind.convert(text, None, ctx) for text in ("inf", "1000000000000", "9" * 30, "99999w")}

    assert ends == {kind.convert("36500d", None, ctx)}
    assert options.Duration(zero=True).convert("0", None, ctx) == 0
    with pytest.raises(click.UsageError, match="over 0"):
        kind.convert("0", None, ctx)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pub", "md.x", "hi", "--url", "localhost:47601"], "did you mean tcp://localhost:47601?"),
        (["serve", "--transport", "127.0.0.1:0"], "did you mean tcp://127.0.0.1:0?"),
        (["serve", "--transport", "47999"], "did you mean tcp://127.0.0.1:47999?"),
        (["serve", "--storage", "/data"], "did you mean mmap:/data?"),
        (["serve", "--retention", "10"], "did you mean 10GiB?"),
        (["--no-plugin", "tpc", "topics"], "Did you mean 'tcp'?"),
        (["sub", "md.#"], "MQTT"),
        (["sub", "md.A*"], "whole tokens"),
    ],
)
def test_a_likely_slip_is_told_what_was_meant(arguments: list[str], words: str) -> None:
    """Exit code 2, and a sentence that has what to type."""
    result = run(arguments)

    assert result.exit_code == ExitCode.USAGE
    assert words in result.stderr


def test_a_demo_of_an_unknown_transport_ends_in_its_own_name() -> None:
    """No process of the demo is blamed."""
    result = run(["demo", "--transport", "foo"])

    assert result.exit_code == ExitCode.PLUGIN
    assert result.stderr.startswith("hermes: no transport is called 'foo'")
