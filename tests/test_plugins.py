"""Discovery, lazy import and isolation of plugins."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest

from hermes.errors import PluginFailed, PluginNotFound
from hermes.plugins import Plugins, default_plugins, listing

Make = Callable[..., Plugins]

GOOD = """
from hermes.hookspecs import hookimpl
class T:
    api_version = {version}
    capabilities = None
    def probe(self): return {obstacle!r}
@hookimpl
def hermes_register_transports(register):
    register("{scheme}", T)
    {more}
"""


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Plugins made of module texts: ``make(name=text)`` installs each under its name."""
    monkeypatch.syspath_prepend(str(tmp_path))
    made: list[str] = []

    def build(group: str = "hermes.transports", **modules: str) -> Plugins:
        points = []
        for name, text in modules.items():
            module = f"plugin_under_test_{tmp_path.name}_{name}"
            (tmp_path / f"{module}.py").write_text(text)
            made.append(module)
            points.append(
                metadata.EntryPoint(name=name.replace("_", "."), value=module, group=group)
            )
        return Plugins(points)

    yield build
    for module in made:
        sys.modules.pop(module, None)


def good(scheme: str, version: int = 1, obstacle: str | None = None, more: str = "") -> str:
    """The text of a plugin that works, but for what is said."""
    return GOOD.format(scheme=scheme, version=version, obstacle=obstacle, more=more)


def test_installed_plugins_are_listed_with_their_maker() -> None:
    """The plugins that ship are listed by kind, name, distribution and version."""
    found = {(plugin.kind, plugin.name): plugin for plugin in listing()}

    assert {("transport", "tcp"), ("transport", "inproc"), ("storage", "mmap")} <= set(found)
    assert found["transport", "tcp"].distribution == "hermes-broker"
    assert found["transport", "tcp"].version


def test_listing_imports_nothing(make: Make) -> None:
    """A plugin that explodes when imported can be listed."""
    plugins = make(bomb="raise RuntimeError('boom')")

    assert [plugin.name for plugin in plugins.listing()] == ["bomb"]


def test_broken_neighbour_harms_nobody(make: Make) -> None:
    """A plugin that works is loaded beside one that cannot even be parsed."""
    plugins = make(good=good("good"), broken="this is not Python")

    assert plugins.transport("good").probe() is None


def test_scheme_with_a_plus_is_written_with_a_dot(make: Make) -> None:
    """The entry point ``zmq.tcp`` serves ``zmq+tcp``."""
    plugins = make(zmq_tcp=good("zmq+tcp"))

    assert plugins.names("transport") == ["zmq+tcp"]
    assert plugins.transport("zmq+tcp").api_version == 1


def test_unknown_name_suggests_and_lists() -> None:
    """A misspelt scheme names the one that was meant, and what is installed."""
    with pytest.raises(PluginNotFound, match=r"did you mean 'tcp'\?.*Installed: .*inproc"):
        default_plugins().transport("tpc")


def test_import_error_names_the_missing_module(make: Make) -> None:
    """A plugin whose dependency is missing says which module to install."""
    plugins = make(needy="import no_such_module_anywhere")

    with pytest.raises(PluginFailed, match="install the module 'no_such_module_anywhere'"):
        plugins.transport("needy")


@pytest.mark.parametrize("text", ["raise SystemExit(3)", "raise RuntimeError('x')", "def ("])
def test_failing_import_is_isolated(make: Make, text: str) -> None:
    """Whatever an import raises, even SystemExit, becomes PluginFailed with cause and cure."""
    plugins = make(bad=text)

    with pytest.raises(PluginFailed, match=r"could not be imported: .* To go on: "):
        plugins.transport("bad")


@pytest.mark.parametrize(
    ("version", "who"), [(2, "upgrade hermes-broker"), (0, "upgrade an unknown")]
)
def test_other_api_version_is_refused(make: Make, version: int, who: str) -> None:
    """A plugin written for another version of the SPI is refused, and told who must be upgraded."""
    plugins = make(other=good("other", version=version))

    with pytest.raises(PluginFailed, match=who):
        plugins.transport("other")


def test_obstacle_is_reported(make: Make) -> None:
    """What a plugin's probe says is what the user reads."""
    plugins = make(kernel=good("kernel", obstacle="it needs Linux 6.1"))

    with pytest.raises(PluginFailed, match=r"needs Linux 6.1"):
        plugins.transport("kernel")


def test_plugin_that_announces_something_else_is_refused(make: Make) -> None:
    """An entry point must announce what it is named after."""
    plugins = make(mine=good("yours"))

    with pytest.raises(PluginFailed, match="announces transport 'yours'"):
        plugins.transport("mine")


def test_scheme_registered_twice_is_refused(make: Make) -> None:
    """A plugin that registers one scheme twice is at fault."""
    plugins = make(twice=good("twice", more='register("twice", T)'))

    with pytest.raises(PluginFailed, match="registered twice"):
        plugins.transport("twice")


def test_hook_that_does_not_exist_is_refused(make: Make) -> None:
    """A misspelt hook is an error, not a plugin that silently does nothing."""
    text = "from hermes.hookspecs import hookimpl\n@hookimpl\ndef hermes_registr(register): pass\n"
    plugins = make(typo=text)

    with pytest.raises(PluginFailed, match="hermes_registr"):
        plugins.transport("typo")


def test_two_makers_of_one_name_are_refused(make: Make) -> None:
    """Two distributions that offer the same scheme are never chosen between silently."""
    point = metadata.EntryPoint(name="tcp", value="a_module", group="hermes.transports")
    other = metadata.EntryPoint(name="tcp", value="b_module", group="hermes.transports")

    with pytest.raises(PluginFailed, match="uninstall all but one"):
        Plugins([point, other]).transport("tcp")
