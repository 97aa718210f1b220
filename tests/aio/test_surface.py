"""hermes and hermes.aio offer the same: names, parameters, words."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import hermes
from hermes import aio

KINDS = ["Client", "Publisher", "Subscription"]
MADE_FOR_LOOPS = {"aclose"}
"""Names that only the asynchronous classes have: contextlib.aclosing() calls it."""
NOT_WAITED_FOR = {"publisher", "subscribe", "messages", "batches"}
"""Calls that return something to be awaited, entered or iterated."""


def public(kind: type) -> dict[str, Any]:
    """The public members of a class, by name."""
    return {
        name: inspect.getattr_static(kind, name) for name in dir(kind) if not name.startswith("_")
    }


def test_the_modules_have_the_same_names() -> None:
    """All that ``hermes`` has, ``hermes.aio`` has: a program changes one import."""
    assert sorted(aio.__all__) == sorted(hermes.__all__)
    for name in aio.__all__:
        ours, theirs = getattr(aio, name), getattr(hermes, name)
        assert (ours is theirs) == (name not in {*KINDS, "connect"})
        assert name in dir(aio)


def test_the_stub_has_the_same_names() -> None:
    """Type checkers see exactly what is there at run time."""
    stub = ast.parse(Path(aio.__file__).with_suffix(".pyi").read_text())
    typed = {
        alias.asname
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    assert typed | {"__version__"} == set(aio.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A misspelt name is told as of any module."""
    with pytest.raises(AttributeError, match="conect"):
        aio.conect  # noqa: B018


def test_importing_it_loads_nothing() -> None:
    """``import hermes.aio`` alone imports no other module of the package."""
    code = "import sys, hermes.aio; print([m for m in sys.modules if m.startswith('hermes.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "['hermes.aio']"


@pytest.mark.parametrize("kind", KINDS)
def test_the_classes_have_the_same_names(kind: str) -> None:
    """A publisher of one world has the methods and properties of the other's."""
    ours, theirs = public(getattr(aio, kind)), public(getattr(hermes, kind))

    assert set(ours) - MADE_FOR_LOOPS == set(theirs)
    for name, member in theirs.items():
        assert isinstance(ours[name], property) == isinstance(member, property), name


def test_connect_takes_the_same() -> None:
    """Parameters, their order, defaults and types are those of ``hermes.connect``."""
    assert parameters(aio.connect) == parameters(hermes.connect)


@pytest.mark.parametrize("kind", KINDS)
def test_the_calls_take_the_same(kind: str) -> None:
    """Parameters, their order, defaults and types are the same."""
    for name, member in public(getattr(hermes, kind)).items():
        if inspect.isfunction(member):
            assert parameters(getattr(getattr(aio, kind), name)) == parameters(member), name


@pytest.mark.parametrize("kind", KINDS)
def test_what_waits_is_awaited(kind: str) -> None:
    """Every call is a coroutine function, but for those whose result is awaited or iterated."""
    for name, member in public(getattr(aio, kind)).items():
        if inspect.isfunction(member):
            waits = inspect.iscoroutinefunction(member)
            assert waits == (name not in NOT_WAITED_FOR), name


@pytest.mark.parametrize("kind", KINDS)
def test_the_words_are_the_same(kind: str) -> None:
    """Every member is explained; by the same text, or one of its own that names the same errors."""
    for name, theirs in public(getattr(hermes, kind)).items():
        ours = inspect.getdoc(inspect.getattr_static(getattr(aio, kind), name))
        words = inspect.getdoc(theirs)
        assert ours, name
        assert words is not None
        if ours != words:
            raised, known = ours.partition("Raises:")[2], words.partition("Raises:")[2]
            assert bool(raised) == bool(known), name


def parameters(call: Any) -> list[inspect.Parameter]:
    """The parameters of a call."""
    return list(inspect.signature(call).parameters.values())
