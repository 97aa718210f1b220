"""The fixtures that Hermes gives to other people's tests."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import hermes
from hermes.broker import Broker
from hermes.errors import Closed

pytestmark = pytest.mark.slow

READY_MAX_S = 0.05
TRIES = 10
DEADLINE_S = 60


def run(place: Path, module: str, *arguments: str) -> str:
    """Run a test module as its own project; returns what pytest printed."""
    (place / "test_it.py").write_text(module)
    (place / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments, "test_it.py"],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    return done.stdout + done.stderr


def test_a_broker_and_its_client(hermes_broker: Broker, hermes_client: hermes.Client) -> None:
    """The client is connected to the broker, which listens in this process and keeps everything in
    memory."""
    with hermes_client.publisher("a") as publisher:
        publisher.send(b"x")

    (stream,) = hermes_broker.streams()
    assert stream["messages"] == 1
    assert hermes_broker.url.startswith("inproc:")
    assert hermes_broker.storage_url.startswith("memory:")


def test_every_test_has_its_own(hermes_client: hermes.Client) -> None:
    """Messages of another test are not there."""
    (stream,) = hermes_client.streams()

    assert stream["messages"] == 0


@pytest.mark.hermes_broker(listeners=["tcp://127.0.0.1:0"], idle="spin")
class TestMarked:
    """The nearest marker wins, setting by setting."""

    def test_of_the_class(self, hermes_broker: Broker) -> None:
        """A class's marker holds for its tests."""
        assert hermes_broker.url.startswith("tcp://127.0.0.1:")
        assert hermes_broker.config.idle == "spin"

    @pytest.mark.hermes_broker(idle="block")
    def test_of_the_test(self, hermes_broker: Broker) -> None:
        """A test's marker overrides what it names, and no more."""
        assert hermes_broker.url.startswith("tcp://127.0.0.1:")
        assert hermes_broker.config.idle == "block"

    @pytest.mark.parametrize(
        "hermes_broker", ["inproc://mine", {"listeners": ["inproc://mine"]}], indirect=True
    )
    def test_of_the_parameter(self, hermes_broker: Broker) -> None:
        """A parameter is nearer still: a URL, or settings."""
        assert hermes_broker.url == "inproc://mine"


@pytest.mark.timing
def test_it_is_ready_in_under_50_ms() -> None:
    """From nothing to a connected client: tried until it is seen, because the machine may be busy;
    what is imported once is not counted."""
    took = []
    while len(took) < TRIES and min(took, default=READY_MAX_S) >= READY_MAX_S:
        begun = time.perf_counter()
        with Broker(listeners=["inproc:"], storage="memory:", idle="block") as broker:
            hermes.connect(broker.url).close()
            took.append(time.perf_counter() - begun)

    assert took[-1] < READY_MAX_S, sorted(took)


def test_both_are_closed_after_the_test(tmp_path: Path) -> None:
    """Nothing is left behind: not the client, not the broker, not its thread."""
    module = """
import threading
import pytest
from hermes.errors import Closed

kept = []

def test_use(hermes_broker, hermes_client):
    kept.extend([hermes_broker, hermes_client])

def test_after():
    broker, client = kept
    assert client.closed
    with pytest.raises(Closed):
        broker.stats()
    assert threading.active_count() == 1
"""
    assert "2 passed" in run(tmp_path, module, "-q", "-W", "error")


def test_who_does_not_use_them_does_not_load_them(tmp_path: Path) -> None:
    """A test run without the fixtures imports neither broker nor client nor the native core."""
    module = """
import sys

def test_nothing_is_loaded():
    loaded = [name for name in sys.modules if name.partition(".")[0] == "hermes"]
    assert set(loaded) <= {"hermes", "hermes.testing", "hermes.testing.pytest_plugin"}, loaded
"""
    assert "1 passed" in run(tmp_path, module, "-q", "-W", "error")


def test_a_marker_without_names_says_what_to_write(tmp_path: Path) -> None:
    """Settings have names; the error shows how."""
    module = """
import pytest

@pytest.mark.hermes_broker("tcp://127.0.0.1:0")
def test_it(hermes_broker):
    pass
"""
    assert 'hermes_broker(listeners=["tcp://127.0.0.1:0"])' in run(tmp_path, module)


def test_fixtures_are_listed(tmp_path: Path) -> None:
    """``pytest --fixtures`` and ``--markers`` explain them."""
    fixtures = run(tmp_path, "", "--fixtures", "-q")
    markers = run(tmp_path, "", "--markers")

    assert "A broker of the test's own" in fixtures
    assert "@pytest.mark.hermes_broker(**settings)" in markers


def test_a_closed_broker_is_closed(hermes_broker: Any) -> None:
    """A test may end its broker itself."""
    hermes_broker.close()

    with pytest.raises(Closed):
        hermes_broker.stats()
