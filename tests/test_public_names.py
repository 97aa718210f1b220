"""Names that ``import hermes`` offers, and what it costs."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import hermes
from hermes import errors


def test_every_public_name_is_there():
    """Each name of __all__ can be had, and dir() shows it."""
    for name in hermes.__all__:
        assert getattr(hermes, name) is not None
        assert name in dir(hermes)


CLIENT = """
    publisher subscribe query streams topics durables forget_durable stats ping limits
    url timeout connected closed close
"""
PUBLISHER = """
    send send_many send_frames send_rows flush resend sent acked ack publisher_id closed close
"""
SUBSCRIPTION = "receive messages batches positions commit pattern close"


def test_users_are_shown_what_is_theirs() -> None:
    """A client and what is made from it have the names that users call, each explained, and no
    others."""
    with (
        hermes.Broker(listeners=["inproc://names"], storage="memory:") as broker,
        hermes.connect(broker.url) as client,
        client.publisher("a") as publisher,
        client.subscribe("a") as subscription,
    ):
        shown = [_shown(thing) for thing in (client, publisher, subscription)]

    assert shown == [set(names.split()) for names in (CLIENT, PUBLISHER, SUBSCRIPTION)]
    for kind in (hermes.Client, hermes.Publisher, hermes.Subscription):
        for name in _shown(kind):
            assert inspect.getdoc(getattr(kind, name)), f"{kind.__name__}.{name} is not explained"


def _shown(thing: object) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_")}


def test_the_stub_has_the_same_names():
    """Type checkers see exactly what is there at run time."""
    stub = ast.parse(Path(hermes.__file__).with_suffix(".pyi").read_text())
    typed = {
        alias.asname
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    assert typed | {"__version__"} == set(hermes.__all__)


@pytest.mark.parametrize(
    "name",
    ["ConnectFailed", "ConnectionLost", "GapDetected", "HermesError", "Refused", "Timeout"],
)
def test_what_a_program_catches_is_at_hand(name: str) -> None:
    """An error to go on after is the same class from hermes as from hermes.errors."""
    assert getattr(hermes, name) is getattr(errors, name)
    assert issubclass(getattr(hermes, name), hermes.HermesError)


def test_a_program_catches_what_connecting_raises() -> None:
    """``except hermes.ConnectFailed`` needs no further import."""
    with pytest.raises(hermes.ConnectFailed):
        hermes.connect("inproc://nobody", timeout=1)


def test_an_unknown_name_is_an_attribute_error():
    """A misspelt name is told as of any module."""
    with pytest.raises(AttributeError, match="conect"):
        hermes.conect  # noqa: B018


def test_importing_hermes_loads_nothing():
    """``import hermes`` alone imports no other module of the package."""
    code = "import sys, hermes; print([m for m in sys.modules if m.startswith('hermes.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_importing_hermes_does_not_wait_for_typing() -> None:
    """A module that takes longer than the rest together is left to the code that needs it."""
    code = "import sys, hermes; print('typing' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(Path(hermes.__file__).parents[1])},
    )

    assert done.stdout.strip() == "False"


def test_the_headers_are_where_get_include_says():
    """A plugin finds the table of functions among the headers."""
    assert (Path(hermes.get_include()) / "hm_api.h").is_file()
