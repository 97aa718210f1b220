"""Objects that refer to a memoryview may become garbage in a circle, as all that an exception holds does.

CPython up to 3.12 crashes when its collector meets a memoryview that an address of cffi's exports: so
each of these runs in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

PRELUDE = """
import gc, sys
import hermes
from hermes.errors import HermesError
from hermes.native.decoder import Decoder, decode
from hermes.native.encoder import Encoder
from hermes.native.frames import HEADER_SIZE, decode_batch, encode_batch

gc.disable()
encoder = Encoder()
for number in range(2000):
    encoder.encode(b"x" * 100, topic="a")
memory = bytearray(encoder.view)

class Circle:
    def __init__(self, *held):
        self.held, self.me = held, self

def circle_of(call, *arguments, **named):
    try:
        Circle(call(*arguments, **named))
    except HermesError as error:
        error.me = error
"""
CASES = {
    "an index of frames": "circle_of(decode, memoryview(memory))",
    "frames that are not sound": "circle_of(decode, memoryview(bytes(4096)))",
    "a batch that is not sound": "circle_of(decode_batch, memoryview(bytes(4096)))",
    "a decoder": "circle_of(lambda: list(Decoder(memoryview(memory))))",
    "a payload that is too large": (
        "circle_of(Encoder(message_max=10).encode, memoryview(memory), topic='a')"
    ),
    "a batch of a subscription": """
with hermes.Broker(listeners=["inproc://garbage"], storage="memory:") as broker:
    with hermes.connect(broker.url) as client, client.publisher("a") as publisher:
        subscription = client.subscribe("a", start="earliest")
        publisher.send_frames(memoryview(memory))
        publisher.flush()
        batch = next(iter(subscription.batches(timeout=60)))
        Circle(batch, batch.frames, decode(batch.frames), batch.topics, batch.payloads())
        del batch
""",
    "frames of a publisher whose broker is gone": """
broker = hermes.Broker(listeners=["tcp://127.0.0.1:0"], storage="memory:").start()
client = hermes.connect(broker.url, reconnect=0, timeout=5)
publisher = client.publisher("a")
subscription = client.subscribe("a")
publisher.send_frames(memoryview(memory))
broker.close()
failed = False
try:
    for _ in range(1000):
        publisher.send_frames(memoryview(memory), timeout=0.1)
except HermesError as error:
    failed = True
    Circle(error, sys.exc_info())
assert failed
try:
    client.close()
except HermesError:
    pass
""",
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_circle_of_views_is_collected(case: str) -> None:
    """A full collection after the circle has become garbage ends well."""
    script = f"{PRELUDE}\n{case}\ndel memory, encoder\nfor _ in range(3): gc.collect()\n"

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )

    assert done.returncode == 0, done.stderr[-2000:]
    assert "exported buffer" not in done.stderr
