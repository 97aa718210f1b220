"""Programs that end without closing their client: they end, and nothing is lost without a word."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

import hermes
from tests import processes

pytestmark = pytest.mark.slow

DEADLINE_S = 60.0
TRANSPORTS = ["tcp", "uring+tcp", "udp", "zmq+tcp"]
ENDINGS = {"": 0, "sys.exit(3)": 3, "raise RuntimeError('as is to be tested')": 1}

OPENED = """
import hermes, sys, threading
client = hermes.connect({url!r})
subscription = client.subscribe("other")
publisher = client.publisher("left", linger={linger})
for i in range(10):
    publisher.send(b"%d" % i)
"""
HELD = {
    "a module's variable": "",
    "a cycle": "client.me = publisher.me = client; publisher.other = publisher\ndel client, publisher, subscription",
    "nothing else than a publisher": "del client, subscription",
    "a daemon thread that waits": "threading.Thread(target=subscription.receive, daemon=True).start()",
    "a daemon thread in a loop": """
def loop():
    for _ in subscription: pass
threading.Thread(target=loop, daemon=True).start()
""",
    "a finalizer": """
class Last:
    def __del__(self, publisher=publisher, error=hermes.HermesError):
        try:
            publisher.send(b"late")
        except error:
            pass
last = Last()
""",
}


@pytest.fixture(params=TRANSPORTS)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL at which a broker listens."""
    with hermes.Broker(listeners=[f"{request.param}://127.0.0.1:0"], storage="memory:") as broker:
        yield broker.url


def ended(program: str) -> subprocess.CompletedProcess[str]:
    """A program that has ended by itself."""
    return processes.run("-c", program, capture_output=True, text=True, timeout=DEADLINE_S)


def arrived(subscription: hermes.Subscription) -> list[bytes]:
    """The ten messages that a program has left."""
    return [subscription.receive(DEADLINE_S).payload for _ in range(10)]


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_lingers_is_sent_at_the_end_of_a_program(url: str, ending: str):
    """However a program ends, its status is its own and what it had sent arrives, each once."""
    linger = None if url.startswith("zmq") else 30.0
    with hermes.connect(url) as client:
        subscription = client.subscribe("left")

        done = ended(OPENED.format(url=url, linger=linger) + ending)

        assert done.returncode == ENDINGS[ending], done.stderr
        assert arrived(subscription) == [b"%d" % i for i in range(10)]
    assert "Traceback" not in done.stderr or "as is to be tested" in done.stderr


@pytest.mark.parametrize("held", HELD)
def test_a_client_is_closed_whatever_holds_it(url: str, held: str):
    """Nothing that still refers to a client, or uses it, keeps the program from ending."""
    linger = None if url.startswith("zmq") else 30.0
    with hermes.connect(url) as client:
        subscription = client.subscribe("left")

        done = ended(OPENED.format(url=url, linger=linger) + HELD[held])

        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        assert arrived(subscription) == [b"%d" % i for i in range(10)]


@pytest.mark.parametrize("scheme", ["inproc", *TRANSPORTS])
def test_a_broker_in_the_same_program_ends_behind_its_clients(scheme: str):
    """Neither was closed: the client has everything acknowledged, then the broker stops."""
    where = "inproc://here" if scheme == "inproc" else f"{scheme}://127.0.0.1:0"
    linger = None if scheme.startswith("zmq") else 30.0
    program = (
        f"import hermes\nbroker = hermes.Broker(listeners=[{where!r}], storage='memory:').start()\n"
        + OPENED.replace("{url!r}", "broker.url").format(linger=linger)
    )

    done = ended(program)

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_what_cannot_be_sent_is_told(tmp_path: object):
    """With the broker gone, a program that ends says how many messages of which publisher are lost."""
    broker = hermes.Broker(listeners=["tcp://127.0.0.1:0"], storage="memory:").start()
    program = OPENED.format(url=broker.url, linger=30.0) + (
        "print('sent', flush=True)\ninput()\nclient.timeout = 0.5\n"
    )
    with processes.start(
        *("-c", program),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "sent\n"
        broker.abort()
        broker.close()

        _, said = process.communicate("\n", timeout=DEADLINE_S)

    assert "10 messages of the publisher of 'left'" in said
    assert process.returncode == 0


def test_a_client_that_is_dropped_tells_what_it_had_not_sent(broker: hermes.Broker):
    """The last reference closes the connection at once, with a word about what lingered."""
    program = f"""
import hermes, warnings
from tests import processes
client = hermes.connect({broker.url!r})
publisher = client.publisher("left", linger=30)
publisher.send(b"x")
del client, publisher
print("on we go")
"""
    done = ended(program)

    assert "1 messages of the publisher of 'left'" in done.stderr
    assert done.stdout == "on we go\n"
