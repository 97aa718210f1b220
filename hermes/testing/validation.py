"""Quick checks of one plugin, without opening it: what it is announced as, what its import does,
and whether it has the shape, the claims and the words that the contract asks for.

Run as a program in a process of its own, because a plugin may do anything when it is imported:
``python -m hermes.testing.validation TARGET REPORT`` reads a :class:`Target` as JSON, and appends a
line of JSON to the file REPORT per :class:`Finding`, so that those before a crash are not lost, and
:data:`END` if it came to the end.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

import msgspec
import pluggy

from hermes.base.platform import open_descriptors, opened_as
from hermes.plugins.discovery import listing
from hermes.spi import hooks as hookspecs
from hermes.spi import storage, transport
from hermes.spi.options import describe_options
from hermes.spi.url import SCHEME
from hermes.testing.resources import own_time_ns

IMPORT_MAX_NS = 100_000_000
"""Time that importing the announcing module may take: a shell's prompt waits for it."""
PROBE_MAX_NS = 100_000_000
"""Time that ``probe`` may take."""
END = '"end"'
"""The last line of a complete report."""
INTERNAL = ("hermes.broker", "hermes.plugins", "hermes.cli", "hermes.bench", "hermes.testing")
"""Modules that a plugin must not import: they change without notice."""
CALLS: dict[str, dict[str, tuple[str, ...]]] = {
    "transport": {"probe": (), "listen": ("url", "kernel"), "dial": ("url", "timeout_ns")},
    "storage": {"probe": (), "open": ("url",)},
}
"""How Hermes calls the methods of what a factory makes."""
OPTIONS = {"transport": ("listen_options", "dial_options"), "storage": ("options",)}
CONTRACTS: dict[str, Any] = {"transport": transport, "storage": storage}
"""The module whose ``API_VERSION`` and ``Capabilities`` hold for a kind."""


class Target(msgspec.Struct, frozen=True):
    """The plugin to validate."""

    kind: str
    """``transport``, ``storage``, ``plugin`` or ``command``."""
    name: str
    """Name of the plugin, as in :class:`hermes.plugins.discovery.Installed`."""
    module: str
    """The value of its entry point."""
    paths: tuple[str, ...] = ()
    """Directories to look for modules in first: a project that is not installed."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    check: str
    """A word or two."""
    level: str
    """``ok``; ``warning``: it works, and somebody will stumble; ``problem``: mend it."""
    text: str
    cure: str = ""


class Stopped(Exception):
    """The checks that follow cannot run any more."""


Findings = Iterator[Finding]


def validate(target: Target) -> Findings:
    """Everything there is to say about ``target``, in order."""
    try:
        yield from check_name(target)
        module = yield from check_import(target)
        yield from check_words(module)
        yield from check_imports(target, module)
        if target.kind in CONTRACTS:
            factory = yield from check_announcement(target, module)
            yield from check_product(target, factory)
        else:
            yield from check_other(target, module)
    except Stopped:
        return


def check_name(target: Target) -> Findings:
    """Its name can stand in a URL."""
    if target.kind in CONTRACTS and not SCHEME.match(target.name):
        yield Finding(
            "name",
            "problem",
            f"no URL can begin with {target.name!r}",
            "name the entry point in small letters, digits, '+' (written '.') and '-', a letter "
            "first",
        )
    else:
        yield Finding("name", "ok", f"{target.name} can be used as a name")


def check_import(target: Target) -> Any:
    """Its module can be imported, quickly, and nothing happens by it; returns the module."""
    before = Surroundings()
    begun = own_time_ns()
    try:
        module = importlib.import_module(target.module.partition(":")[0])
    except (Exception, SystemExit) as error:
        cure = _cure_of(error)
        if isinstance(error, ModuleNotFoundError) and error.name == target.module.split(".")[0]:
            cure = (
                "name a package of the project in the entry point, and have it packed: "
                "[tool.setuptools.packages.find] where = [...] says where packages are"
            )
        yield Finding("import", "problem", f"it raises {_told(error)}", cure)
        raise Stopped from error
    took = own_time_ns() - begun
    effects = before.changes()
    for what, cure in effects:
        yield Finding("import", "problem", f"importing it {what}", cure)
    if took > IMPORT_MAX_NS:
        yield Finding(
            "import",
            "problem",
            f"importing {module.__name__} took {took / 1e6:.0f} ms, and may take "
            f"{IMPORT_MAX_NS / 1e6:.0f}",
            "import what is heavy inside the factory, as the template does: `python -X "
            f"importtime -c 'import {module.__name__}'` shows what takes how long",
        )
    elif not effects:
        yield Finding("import", "ok", f"takes {took / 1e6:.0f} ms and has no side effects")
    return module


class Surroundings:
    """State of the process that an import must leave as it was."""

    def __init__(self) -> None:
        self._threads = set(threading.enumerate())
        self._descriptors = open_descriptors()
        self._signals = _signals()
        self._environment = dict(os.environ)
        self._directory = Path.cwd()
        self._written = _written()

    def changes(self) -> list[tuple[str, str]]:
        """Differences from then, each with what to do about it."""
        later = "do it when `listen` or `dial` is called (a storage: `open`), and undo it in close"
        found = []
        for thread in set(threading.enumerate()) - self._threads:
            found.append((f"starts a thread ({thread.name})", later))
        for descriptor in sorted(open_descriptors() - self._descriptors):
            found.append((f"opens a file or socket ({opened_as(descriptor)})", later))
        for number in _differences(self._signals, _signals()):
            found.append((f"takes over the signal {signal.Signals(number).name}", "leave it alone"))
        for name in _differences(self._environment, dict(os.environ)):
            found.append((f"changes the environment variable {name}", "leave it alone"))
        if Path.cwd() != self._directory:
            found.append(("changes the working directory", "leave it alone"))
        if _written() != self._written:
            found.append(("prints", "remove it, or use logging where it happens"))
        return found


def check_words(module: ModuleType) -> Findings:
    """The module has a docstring that describes the plugin."""
    if (module.__doc__ or "").strip():
        yield Finding("docstring", "ok", _first_line(module.__doc__))
    else:
        yield Finding(
            "docstring",
            "warning",
            f"{module.__name__} has no docstring",
            "say in its first line what it is, and which URLs it serves",
        )


def check_imports(target: Target, module: ModuleType) -> Findings:
    """Nothing in its package imports the insides of Hermes, or another plugin."""
    mine = module.__name__.partition(".")[0]
    others = {plugin.module.partition(":")[0].partition(".")[0] for plugin in listing()} - {mine}
    bad = 0
    for file in _sources(module):
        for name, line in _imported(file):
            if any(f"{name}.".startswith(f"{inside}.") for inside in INTERNAL):
                bad += 1
                yield Finding(
                    "layers",
                    "problem",
                    f"{file.name}:{line} imports {name}, which changes without notice",
                    "take what plugins are meant to: hermes.spi.transport, storage, hookspecs, url, "
                    "addresses, units, errors, serving, streamsockets, intercept, wire, native, "
                    "or the public client",
                )
            elif name.partition(".")[0] in others:
                bad += 1
                yield Finding(
                    "layers",
                    "warning",
                    f"{file.name}:{line} imports another plugin, {name}",
                    "take what both need into a library of its own",
                )
    if not bad:
        yield Finding("layers", "ok", "imports nothing but the plugin interface of Hermes")


def check_announcement(target: Target, module: ModuleType) -> Any:
    """The hook announces what the entry point is named after; returns the factory."""
    hook = f"hermes_register_{target.kind}s"
    announced: dict[str, Callable[[], Any]] = {}

    def register(scheme: str, factory: Callable[[], Any]) -> None:
        if scheme in announced:
            raise ValueError(f"{target.kind} {scheme!r} is registered twice")
        announced[scheme] = factory

    try:
        manager = pluggy.PluginManager("hermes")
        manager.add_hookspecs(hookspecs)
        manager.register(module)
        manager.check_pending()
        getattr(manager.hook, hook)(register=register)
    except Exception as error:
        yield Finding(
            "announcement",
            "problem",
            f"it raises {_told(error)}",
            f"define {hook}(register) with @hookimpl; docs/writing-plugins.md shows one",
        )
        raise Stopped from error
    function = vars(module).get(hook)
    if not announced and function is not None and not hasattr(function, "hermes_impl"):
        yield Finding(
            "announcement",
            "problem",
            f"{hook} is there, but not marked as a hook",
            "decorate it: from hermes.spi.hooks import hookimpl, and @hookimpl above the def",
        )
        raise Stopped
    if target.name not in announced:
        has = ", ".join(repr(name) for name in announced) or "nothing"
        yield Finding(
            "announcement",
            "problem",
            f"the entry point is named {target.name!r}, but the module announces {has}",
            f"call register({target.name!r}, ...) in {hook}, or rename the entry point and install "
            "again",
        )
        raise Stopped
    yield Finding("announcement", "ok", f"{hook} announces {target.name}")
    return announced[target.name]


def check_product(target: Target, factory: Callable[[], Any]) -> Findings:
    """The factory's product has the shape of the contract."""
    try:
        made = factory()
    except (Exception, SystemExit) as error:
        yield Finding("factory", "problem", f"it raises {_told(error)}", _cure_of(error))
        raise Stopped from error
    yield from check_version(target, made)
    yield from check_shape(target, made)
    yield from check_capabilities(target, made)
    for attribute in OPTIONS[target.kind]:
        yield from check_options(attribute, made)
    yield from check_probe(made)


def check_version(target: Target, made: Any) -> Findings:
    """The plugin was written for this version of the interface."""
    expected = CONTRACTS[target.kind].API_VERSION
    version = getattr(made, "api_version", None)
    if version == expected:
        yield Finding("version", "ok", f"written for version {version} of the interface")
    else:
        yield Finding(
            "version",
            "problem",
            f"it is written for version {version!r} of the {target.kind} interface, and this "
            f"Hermes has {expected}",
            f"read what changed, then: api_version = {expected} (the number it was written for; "
            "do not import it)"
            if version is not None
            else f"add to the class: api_version = {expected}",
        )


def check_shape(target: Target, made: Any) -> Findings:
    """Every member is there and can be called as Hermes will."""
    bad = 0
    for name, parameters in CALLS[target.kind].items():
        method = getattr(made, name, None)
        written = f"{name}({', '.join(('self', *parameters))})"
        if not callable(method):
            bad += 1
            yield Finding(
                "shape",
                "problem",
                f"{type(made).__name__} has no method {name}",
                f"define {written}, as in hermes.{target.kind}",
            )
            continue
        try:
            inspect.signature(method).bind(*parameters)
        except TypeError as error:
            bad += 1
            yield Finding(
                "shape",
                "problem",
                f"{type(made).__name__}.{name} cannot be called as Hermes does: {error}",
                f"give it the signature {written}",
            )
    if not bad:
        yield Finding("shape", "ok", f"{type(made).__name__} has every method of the contract")


def check_capabilities(target: Target, made: Any) -> Findings:
    """Its claims are declared."""
    kind = CONTRACTS[target.kind].Capabilities
    claims = getattr(made, "capabilities", None)
    if not isinstance(claims, kind):
        yield Finding(
            "capabilities",
            "problem",
            f"{type(made).__name__}.capabilities is {claims!r}",
            f"declare what it can do: capabilities = hermes.spi.{target.kind}.Capabilities(...)",
        )
        return
    claimed = [field.name for field in dataclasses.fields(kind) if getattr(claims, field.name)]
    yield Finding("capabilities", "ok", ", ".join(claimed) or "claims none")


def check_options(attribute: str, made: Any) -> Findings:
    """Options are a struct, in which each has a default and a docstring."""
    kind = getattr(made, attribute, None)
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        yield Finding(
            attribute,
            "problem",
            f"{type(made).__name__}.{attribute} is {kind!r}",
            "name a class derived from msgspec.Struct, empty if there are no options",
        )
        return
    options = describe_options(kind)
    claims = getattr(made, "capabilities", None)
    if getattr(claims, "datagrams", False) and "intercept" not in {o.name for o in options}:
        yield Finding(
            attribute,
            "problem",
            "it claims datagrams, but has no option 'intercept'",
            "add it to the options of both ends, and pass what is sent through hermes.net.interception",
        )
    for option in options:
        if not option.text:
            yield Finding(
                attribute,
                "problem",
                f"the option {option.name!r} has no docstring",
                f'put one below it in {kind.__name__}: """What it does, and in which unit."""',
            )
        if option.default is None:
            yield Finding(
                attribute,
                "warning",
                f"the option {option.name!r} has no default, so the scheme alone is never a URL",
                "give it one that suits most",
            )
    if all(option.text and option.default is not None for option in options):
        names = ", ".join(option.name for option in options)
        yield Finding(attribute, "ok", names or "none")


def check_probe(made: Any) -> Findings:
    """The plugin reports quickly whether it can work on this machine."""
    begun = own_time_ns()
    try:
        obstacle = made.probe()
    except (Exception, SystemExit) as error:
        yield Finding(
            "probe",
            "problem",
            f"it raises {_told(error)}",
            "return None if it can work here, else a sentence that says why not and what to do",
        )
        return
    took = own_time_ns() - begun
    if obstacle is not None and not isinstance(obstacle, str):
        yield Finding(
            "probe",
            "problem",
            f"it returns {obstacle!r}",
            "return None if it can work here, else a sentence that says why not and what to do",
        )
    elif took > PROBE_MAX_NS:
        yield Finding(
            "probe",
            "problem",
            f"it took {took / 1e6:.0f} ms, and may take {PROBE_MAX_NS / 1e6:.0f}",
            "look at what is on this machine only: no network, no child process",
        )
    elif obstacle is not None:
        yield Finding("probe", "warning", f"it cannot work here: {obstacle}", "that is its cure")
    else:
        yield Finding("probe", "ok", "it can work here")


def check_other(target: Target, module: ModuleType) -> Findings:
    """A plugin implements hooks that exist; a command is one of click's."""
    if target.kind == "command":
        yield from check_command(target, module)
        return
    try:
        manager = pluggy.PluginManager("hermes")
        manager.add_hookspecs(hookspecs)
        manager.register(module)
        manager.check_pending()
    except Exception as error:
        yield Finding(
            "hooks", "problem", f"it raises {_told(error)}", "docs/hooks.md lists those there are"
        )
        return
    hooks = [caller.name for caller in manager.get_hookcallers(module) or []]
    if hooks:
        yield Finding("hooks", "ok", ", ".join(sorted(hooks)))
    else:
        yield Finding(
            "hooks",
            "problem",
            f"{module.__name__} implements no hook",
            "decorate a function that is named after a hook with hermes.spi.hooks.hookimpl",
        )


def check_command(target: Target, module: ModuleType) -> Findings:
    """A click command, or a module with one called ``command``."""
    import click

    found: Any = module
    for part in filter(None, target.module.partition(":")[2].split(".")):
        found = getattr(found, part, None)
    if not isinstance(found, click.Command):  # a group has a method of that name
        found = getattr(found, "command", found)
    if isinstance(found, click.Command):
        yield Finding("command", "ok", found.get_short_help_str())
    else:
        yield Finding(
            "command",
            "problem",
            f"{target.module} is not a click command and has none called 'command'",
            "decorate a function called command with @click.command()",
        )


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _cure_of(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return (
            f"install the module {error.name!r}; if not everybody needs it, import it in the "
            "factory and let probe say that it is missing"
        )
    return "run `python -X dev -c 'import ...'` with that module to see where"


def _first_line(text: str | None) -> str:
    return (text or "").strip().splitlines()[0]


def _signals() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in signal.valid_signals()}


def _written() -> list[int]:
    """How much has gone to stdout and stderr, which the parent process may have made files."""
    sys.stdout.flush()
    sys.stderr.flush()
    return [os.fstat(descriptor).st_size for descriptor in (1, 2)]


def _differences(before: dict[Any, Any], after: dict[Any, Any]) -> list[Any]:
    return [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]


def _sources(module: ModuleType) -> Iterator[Path]:
    """The Python files of the package that ``module`` is or belongs to, or its own file."""
    places = getattr(sys.modules.get(module.__package__ or ""), "__path__", None)
    if places:
        for place in places:
            yield from sorted(Path(place).rglob("*.py"))
    elif module.__file__:
        yield Path(module.__file__)


def _imported(file: Path) -> Iterator[tuple[str, int]]:
    """Every module that ``file`` imports, and the line."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def main(target: str, report: TextIO) -> None:
    """Look at ``target`` (JSON) and write what is found."""
    wanted = msgspec.json.decode(target, type=Target)
    sys.path[:0] = wanted.paths
    for finding in validate(wanted):
        report.write(msgspec.json.encode(finding).decode() + "\n")
        report.flush()
    report.write(f"{END}\n")


if __name__ == "__main__":
    with Path(sys.argv[2]).open("a", encoding="utf-8") as report:
        main(sys.argv[1], report)
