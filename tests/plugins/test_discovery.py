"""Discovery, lazy import and isolation of plugins."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest

import hermes
from hermes.errors import PluginFailed, PluginNotFound, UsageError
from hermes.plugins.discovery import Installed, Plugins, default_plugins, listing

Make = Callable[..., Plugins]

GOOD = """
from hermes.spi.hooks import hookimpl
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
    """Any exception of an import, even SystemExit, becomes PluginFailed with its cause and what to do."""
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
    """The user reads what a plugin's probe says."""
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
    text = "from hermes.spi.hooks import hookimpl\n@hookimpl\ndef hermes_registr(register): pass\n"
    plugins = make(typo=text)

    with pytest.raises(PluginFailed, match="hermes_registr"):
        plugins.transport("typo")


def test_two_makers_of_one_name_are_refused(make: Make) -> None:
    """Two distributions that offer the same scheme are never chosen between silently."""
    point = metadata.EntryPoint(name="tcp", value="a_module", group="hermes.transports")
    other = metadata.EntryPoint(name="tcp", value="b_module", group="hermes.transports")

    with pytest.raises(PluginFailed, match="uninstall all but one"):
        Plugins([point, other]).transport("tcp")


# States, selection, registration.


def test_a_plugin_is_discovered_then_loaded_or_failed(make: Make) -> None:
    """Its state is known without importing it, and follows what its use came to."""
    plugins = make(good=good("good"), bad="1 / 0")
    rows = {row.name: row for row in plugins.listing()}
    before = {name: plugins.status(row).state for name, row in rows.items()}

    plugins.transport("good")
    with pytest.raises(PluginFailed):
        plugins.transport("bad")

    assert before == {"good": "discovered", "bad": "discovered"}
    assert plugins.status(rows["good"]).state == "loaded"
    assert plugins.status(rows["bad"]).state == "failed"
    assert "ZeroDivisionError" in plugins.status(rows["bad"]).reason


def test_a_failing_registration_does_not_spoil_the_next(make: Make) -> None:
    """A module with an unknown hook is not held against a plugin that is loaded after it."""
    typo = "from hermes.spi.hooks import hookimpl\n@hookimpl\ndef hermes_registr(register): pass\n"
    plugins = make(typo=typo, good=good("good"))

    with pytest.raises(PluginFailed):
        plugins.transport("typo")

    assert plugins.transport("good").probe() is None


@pytest.mark.parametrize(
    ("variable", "usable"),
    [
        (None, {"ours", "theirs", "other"}),
        ("", {"ours"}),
        ("theirs", {"ours", "theirs"}),
        (" theirs , other ", {"ours", "theirs", "other"}),
        ("-other", {"ours", "theirs"}),
        ("-ours,-other", {"theirs"}),
        ("theirs,-ours", {"theirs"}),
        ("-theirs,theirs", {"ours"}),
    ],
)
def test_the_environment_says_what_may_be_used(
    make: Make, monkeypatch: pytest.MonkeyPatch, variable: str | None, usable: set[str]
) -> None:
    """An allow-list bounds what others bring, an exclusion also what ships with Hermes."""
    environ = {} if variable is None else {"HERMES_PLUGINS": variable}
    points = make(ours=good("ours"), theirs=good("theirs"), other=good("other"))._points
    plugins = Plugins((point for found in points.values() for point in found), environ=environ)
    for name in ("ours",):
        monkeypatch.setattr(
            Installed, "built_in", property(lambda plugin, name=name: plugin.name == name)
        )

    works = set()
    for row in plugins.listing():
        if plugins.status(row).state != "disabled":
            works.add(row.name)
            plugins.transport(row.name)
        else:
            with pytest.raises(PluginFailed, match="HERMES_PLUGINS"):
                plugins.transport(row.name)

    assert works == usable


def test_an_excluded_plugin_is_not_imported(make: Make) -> None:
    """An excluded plugin does nothing, not even on import."""
    plugins = make(bomb="raise RuntimeError('boom')")
    plugins._environ = {"HERMES_PLUGINS": "-bomb"}

    with pytest.raises(PluginFailed, match="excluded by --no-plugin"):
        plugins.transport("bomb")


def test_names_in_the_selection_that_nothing_has_are_told(make: Make) -> None:
    """A misspelt name is reported, with the one that was meant."""
    plugins = make(good=good("good"))
    plugins._environ = {"HERMES_PLUGINS": "goood,-nothing"}

    assert plugins.strangers() == [
        "HERMES_PLUGINS names 'goood', which is not installed; did you mean 'good'?",
        "HERMES_PLUGINS names 'nothing', which is not installed",
    ]


class Transport:
    """A transport of this file."""

    api_version = 1

    def probe(self) -> str | None:
        """None: it works."""
        return None


def test_a_transport_of_this_process_is_used_and_taken_back() -> None:
    """A registered transport is found by its scheme, listed, and gone when its block ends."""
    plugins = Plugins([])

    with plugins.register("transport", "mine", Transport):
        used = plugins.transport("mine")
        (row,) = plugins.listing()

    assert isinstance(used, Transport)
    assert (row.kind, row.name, row.distribution) == ("transport", "mine", "this process")
    with pytest.raises(PluginNotFound):
        plugins.transport("mine")


def test_a_taken_or_impossible_name_cannot_be_registered(make: Make) -> None:
    """A name that is installed or registered already, or no name at all, is refused."""
    plugins = make(good=good("good"))
    plugins.register("transport", "mine", Transport)

    for name, words in [("good", "there already"), ("mine", "there already"), ("No Name", "name")]:
        with pytest.raises(UsageError, match=words):
            plugins.register("transport", name, Transport)


def test_the_public_functions_register_with_what_is_installed() -> None:
    """`hermes.register_transport` and its like serve whatever looks plugins up afterwards."""
    with (
        hermes.register_transport("test-mine", Transport),  # type: ignore[arg-type]
        hermes.register_storage("test-mine", Transport),  # type: ignore[arg-type]
        hermes.register_plugin("test-mine", Transport),  # type: ignore[arg-type]
    ):
        kinds = {plugin.kind for plugin in listing() if plugin.name == "test-mine"}
        assert isinstance(default_plugins().transport("test-mine"), Transport)

    assert kinds == {"transport", "storage", "plugin"}
    assert not [plugin for plugin in listing() if plugin.name == "test-mine"]


def test_a_registered_transport_is_checked_like_any_other() -> None:
    """Version and probe count for it too."""
    plugins = Plugins([])

    class Old(Transport):
        api_version = 0

    plugins.register("transport", "old", Old)

    with pytest.raises(PluginFailed, match="speaks version 0"):
        plugins.transport("old")


def test_what_a_factory_makes_out_of_shape_is_its_own_fault(make: Make) -> None:
    """A thing without a version, or a factory that is none, is PluginFailed, whatever it is."""
    plugins = make(
        odd=good("odd").replace("api_version = 1", "pass"),
        none=good("none").replace('register("none", T)', 'register("none", None)'),
        word=good("word").replace("api_version = 1", "api_version = 'one'"),
    )

    for name, words in [
        ("odd", "AttributeError"),
        ("none", "cannot be called"),
        ("word", "version one"),
    ]:
        with pytest.raises(PluginFailed, match=words):
            plugins.transport(name)


def test_a_name_of_a_built_in_is_not_taken_over_in_the_same_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plugin that works, and announces a built-in's name too, is used for its own name only."""
    monkeypatch.syspath_prepend(str(tmp_path))
    text = good("hijack", more='register("tcp", T)')
    (tmp_path / "plugin_that_hijacks.py").write_text(text)
    ours = list(metadata.entry_points(group="hermes.transports"))
    theirs = [
        metadata.EntryPoint(name=name, value="plugin_that_hijacks", group="hermes.transports")
        for name in ("hijack", "tcp")
    ]
    plugins = Plugins([*theirs, *ours])

    used = plugins.transport("hijack")
    tcp = plugins.transport("tcp")

    assert type(used).__module__ == "plugin_that_hijacks"
    assert type(tcp).__module__.startswith("hermes_tcp")
    sys.modules.pop("plugin_that_hijacks")
