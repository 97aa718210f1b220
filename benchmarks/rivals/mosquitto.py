"""MQTT through mosquitto and paho-mqtt: QoS 0, and QoS 1 with queues that have no end."""

from __future__ import annotations

import queue
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.rivals.common import await_listener, free_port, missing, program
from hermes.bench.contestant import Conditions, Measure
from hermes.bench.stage import READY_S, Stage

QUEUED = {0: "", 1: "max_queued_messages 0\nmax_inflight_messages 0\n"}
"""Settings of the server by QoS; 0 means: without limit."""


class User:
    """A client; paho's own thread moves its bytes, as its documentation advises."""

    def __init__(self, where: dict[str, Any], topic: str) -> None:
        import paho.mqtt.client as mqtt

        self._topic = topic.replace(".", "/")
        self._qos: int = where["qos"]
        self._happened: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self._client.max_queued_messages_set(0)
        self._client.on_connect = lambda *arguments: self._happened.put("connected")
        self._client.connect("127.0.0.1", where["port"])
        self._client.loop_start()
        self._happened.get(timeout=READY_S)

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()


class Publisher(User):
    """publish; the last one's acknowledgement (QoS 1) or leaving (QoS 0) stands for all."""

    def __init__(self, where: dict[str, Any], topic: str) -> None:
        super().__init__(where, topic)
        self._last: Any = None

    def send(self, payload: bytes) -> None:
        """Handed to the thread."""
        self._last = self._client.publish(self._topic, payload, self._qos)

    def burst(self, payload: bytes, count: int) -> None:
        """There is no call for many."""
        publish, topic, qos = self._client.publish, self._topic, self._qos
        for _ in range(count):
            self._last = publish(topic, payload, qos)

    def flush(self) -> None:
        """Wait for the last."""
        if self._last is not None:
            self._last.wait_for_publish(READY_S)


class Subscriber(User):
    """on_message, into a queue."""

    def __init__(self, where: dict[str, Any], topic: str) -> None:
        super().__init__(where, topic)
        self._client.on_subscribe = lambda *arguments: self._happened.put("subscribed")
        self._client.subscribe(self._topic, self._qos)
        self._happened.get(timeout=READY_S)
        self._messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._client.on_message = lambda client, data, message: self._messages.put(message.payload)

    def receive(self, timeout_s: float) -> bytes | None:
        """The next payload."""
        try:
            return self._messages.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def drain(self, timeout_s: float) -> int:
        """Take what the thread has put down."""
        if self.receive(timeout_s) is None:
            return 0
        count = 1
        while not self._messages.empty():
            self._messages.get()
            count += 1
        return count


@dataclass(frozen=True, slots=True)
class Mosquitto:
    """A server and a quality of service."""

    name: str
    note: str
    qos: int
    apis: Mapping[Measure, str]

    def obstacle(self) -> str | None:
        """paho-mqtt and the server."""
        return missing(["paho.mqtt"], ["mosquitto"])

    def serve(self, stage: Stage, conditions: Conditions) -> dict[str, Any]:
        """Start the server."""
        port = free_port()
        settings = stage.place / "mosquitto.conf"
        settings.write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n"
            + QUEUED[self.qos]
        )
        server = stage.start("mosquitto", program("mosquitto") or "", "-c", settings, core=0)
        await_listener(port, server)
        return {"port": port, "qos": self.qos}

    def publisher(self, where: dict[str, Any], topic: str) -> Publisher:
        """A user who sends."""
        return Publisher(where, topic)

    def subscriber(self, where: dict[str, Any], topic: str) -> Subscriber:
        """A user who receives."""
        return Subscriber(where, topic)


CALLS = "publish; on_message"
APIS: dict[Measure, str] = dict.fromkeys(("throughput", "fanout", "latency", "round_trip"), CALLS)  # type: ignore[arg-type]
QOS0 = Mosquitto("mosquitto QoS 0", "may drop", 0, APIS)
QOS1 = Mosquitto("mosquitto QoS 1", "acknowledged; queues without limit", 1, APIS)
DRIVERS = ("QOS0", "QOS1")
