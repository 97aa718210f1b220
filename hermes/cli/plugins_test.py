"""``hermes plugins test``: the suite of the contract, run on what is installed.

pytest runs in a child process, on a module of a few lines that is written for the occasion; what it
prints goes to stderr, the outcome to stdout.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from hermes.cli.command import Command
from hermes.cli.exits import ExitCode
from hermes.cli.files import OutputFile
from hermes.cli.options import Duration, UrlText, json_option

MODULE = '''\
"""Written by ``hermes plugins test``."""

from hermes.testing.{kind} import *
from hermes.testing.urls import free_url


class Test{title}({title}Contract):
    url = {url}
{more}'''
NEEDS = {"transport": ("pytest",), "storage": ("pytest", "hypothesis")}
"""Kinds that there is a suite for, and the packages that it needs."""
NOTHING_SELECTED = 5
"""pytest's exit code when there was no test to run."""
NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")
REASON_MAX = 3
"""Lines of a failure in the summary; the child has printed it in full."""
Report = dict[str, Any]


@click.command(
    "test",
    cls=Command,
    short_help="Run the contract's suite on an installed plugin.",
    examples=[
        ("All of it", "hermes plugins test unixsock"),
        ("What happens when connections end", "hermes plugins test unixsock -k lifecycle"),
        (
            "Where it listens, if it cannot be guessed; the outcome to a file",
            "hermes plugins test radio --url 'radio://loopback?channel=7' --report radio.json",
        ),
    ],
    exits={
        ExitCode.OK: "it keeps the contract, as far as it was tested",
        ExitCode.FAILED: "tests failed; stdout has them",
        ExitCode.TIMED_OUT: "it was not done within --timeout",
        ExitCode.PLUGIN: "nothing installed goes by that name, or it cannot be used here",
    },
)
@click.argument("name", metavar="NAME")
@click.option(
    "--url",
    type=UrlText(),
    metavar="URL",
    help="Where it listens or stores, free each time: with port 0, or with {tmp}, which becomes a "
    "new directory.  [default: found by trying]",
)
@click.option(
    "-k",
    "chosen",
    metavar="WORDS",
    help="Only the tests that pytest's -k selects: groups and names, as in 'lifecycle or size'.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="An attribute of the suite's class, as in loss_deadline_s=5; may be repeated.",
)
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    metavar="FILE",
    help="Write the outcome of every test here, as JSON.",
)
@click.option(
    "--timeout",
    "timeout_ns",
    type=Duration(zero=True),
    default="15m",
    show_default=True,
    help="Give up after this long.",
)
@json_option
def command(
    name: str,
    url: str | None,
    chosen: str | None,
    settings: tuple[str, ...],
    report: Path | None,
    timeout_ns: int,
    as_json: bool,
) -> None:
    """Run the suite that every transport and storage of Hermes passes on an installed one.

    Tests need pytest (and storages hypothesis): pip install 'hermes-broker[testing]'.  What
    pytest prints goes to stderr while it runs; then stdout has what the plugin
    claims to be able to do, how many tests of each group passed, and which failed.  A claim that is
    not made is not tested.
    """
    written = None if report is None else OutputFile(report, "--report")
    kind = kind_of(name)
    require(kind)
    text = module(kind, name, url, settings)
    with tempfile.TemporaryDirectory(prefix="hermes-test-") as place:
        found, code = run(Path(place), text, chosen, timeout_ns)
    if written is not None:
        written.write(json.dumps(found, indent=2) + "\n")
    if as_json:
        from hermes.cli.output import print_json

        print_json(found)
    else:
        show(found)
    if code:
        raise SystemExit(int(ExitCode.FAILED))


def kind_of(name: str) -> str:
    """``transport`` or ``storage``.

    Raises:
        PluginNotFound: no installed transport or storage has that name.
    """
    from hermes.cli.command import closest
    from hermes.errors import PluginNotFound
    from hermes.plugins.discovery import listing

    found = listing()
    kinds = {plugin.name: plugin.kind for plugin in found if plugin.kind in NEEDS}
    if name not in kinds and any(one.name == name and one.kind == "plugin" for one in found):
        raise PluginNotFound(
            f"{name!r} is a plugin that acts in a broker: its suite needs its options and a client "
            "that it accepts. Run it from a test module: `from hermes.testing.plugin import *`, then a "
            "class; `python -c 'help(\"hermes.testing.plugin\")'` has an example"
        )
    if name not in kinds:
        raise PluginNotFound(
            f"no transport or storage is called {name!r}.{closest(name, list(kinds))}  `hermes "
            "plugins list` shows those that are installed; a project is installed by `pip install "
            "-e .` in its folder"
        )
    return kinds[name]


def require(kind: str) -> None:
    """Refuse to go on without what the suite needs.

    Raises:
        UsageError: it is not installed.
    """
    from hermes.errors import UsageError

    for package in NEEDS[kind]:
        if find_spec(package) is None:
            raise UsageError(
                f"the suite needs {package}: pip install {package}, or all that tests need: "
                "pip install 'hermes-broker[testing]'"
            )


def module(kind: str, name: str, url: str | None, settings: tuple[str, ...]) -> str:
    """The test module: what a plugin's author would write.

    Raises:
        UsageError: a setting is not NAME=VALUE, or the URL is another plugin's.
    """
    from hermes.errors import UsageError
    from hermes.spi.url import parse_url

    if url is not None and parse_url(url.replace("{tmp}", "/tmp")).scheme != name:
        raise UsageError(f"{url} is no URL of {kind} {name!r}: expected {name}:...")
    lines = []
    for setting in settings:
        attribute, equals, value = setting.partition("=")
        if not attribute.isidentifier() or not equals:
            raise UsageError(f"--set {setting!r}: expected NAME=VALUE, as in loss_deadline_s=5")
        written = value if NUMBER.fullmatch(value) else repr(value)
        lines.append(f"    {attribute} = {written}\n")
    return MODULE.format(
        kind=kind,
        title=kind.capitalize(),
        url=repr(url) if url else f"free_url({kind!r}, {name!r})",
        more="".join(lines),
    )


def run(place: Path, text: str, chosen: str | None, timeout_ns: int) -> tuple[Report, int]:
    """Have a child run the module; returns the report and pytest's exit code.

    Raises:
        Timeout: it was not done in time.
        PluginFailed: it did not come to the first test.
    """
    from hermes.errors import PluginFailed, Timeout

    file, outcome = place / "test_contract.py", place / "report.json"
    file.write_text(text, encoding="utf-8")
    line = [sys.executable, "-W", "error", "-m", "pytest", "-q", "--no-header", "--tb=short"]
    line += ["-p", "no:cacheprovider", "--rootdir", str(place), "-c", "/dev/null"]
    line += ["-p", "hermes.testing.report", "--hermes-report", str(outcome)]
    line += ["-p", "hermes.testing.groups"]
    line += [] if chosen is None else ["-k", chosen]
    child = subprocess.Popen([*line, str(file)], stdout=sys.stderr.fileno())
    try:
        code = child.wait(timeout_ns / 1e9 if timeout_ns else None)
    except subprocess.TimeoutExpired:
        raise Timeout(
            f"the suite was not done after {timeout_ns / 1e9:g} s, and was ended: the test that "
            "hangs is the one after the last that was reported; --timeout allows more"
        ) from None
    finally:
        child.kill()
        child.wait()
    found: Report = json.loads(outcome.read_text(encoding="utf-8")) if outcome.exists() else {}
    if not any(subject["checks"] for subject in found.get("subjects", [])):
        if chosen is not None and code == NOTHING_SELECTED:
            raise PluginFailed(f"no test is selected by -k {chosen!r}")
        raise PluginFailed("the suite could not begin; what pytest printed says why")
    return found, code


def show(found: Report) -> None:
    """Claims, groups, figures and failures."""
    from hermes.cli.output import print_table

    for subject in found["subjects"]:
        click.echo(f"{subject['kit']} {subject['name']} ({subject['url']})\n")
        print_table(
            ["capability", "claimed", ">tests skipped without it"],
            [
                [name, "yes" if claimed else "no", str(skipped(subject, name) or "")]
                for name, claimed in subject["capabilities"].items()
            ],
        )
        click.echo()
        print_table(["group", ">passed", ">failed", ">skipped", ">seconds"], groups(subject))
        for name, value in subject["figures"].items():
            click.echo(f"{name}: {value}")
        for check in subject["checks"]:
            if check["outcome"] == "failed":
                show_failure(check)
        counts = subject["counts"]
        click.echo(
            f"\n{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped "
            f"in {found['seconds']:.0f} s"
        )


def skipped(subject: Report, capability: str) -> int:
    """How many tests were left out for want of ``capability``."""
    wanted = f"does not claim the capability {capability!r}"
    reasons = [check["why"] for check in subject["checks"] if check["outcome"] == "skipped"]
    return sum(wanted in (reason or "") for reason in reasons)


def groups(subject: Report) -> list[list[str]]:
    """Rows of the table of groups."""
    names = dict.fromkeys(check["group"] for check in subject["checks"])
    rows = []
    for name in names:
        checks = [check for check in subject["checks"] if check["group"] == name]
        outcomes = [check["outcome"] for check in checks]
        counts = [outcomes.count(outcome) for outcome in ("passed", "failed", "skipped")]
        seconds = sum(check["seconds"] for check in checks)
        rows.append([name, *(str(count or "") for count in counts), f"{seconds:.1f}"])
    return rows


def show_failure(check: Report) -> None:
    """Show what should hold, and what was found."""
    click.echo(f"\nFAILED {check['group']}: {check['check']}\n  expected: {check['says']}")
    lines = [line.strip() for line in (check["why"] or "").splitlines()]
    for line in [line for line in lines if line][:REASON_MAX]:
        click.echo(f"  found:    {line}")
