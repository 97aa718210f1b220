"""A broker inside of a program: its threads use it in memory, other programs over TCP.

Prints what the other program, here `hermes pub`, has sent, and two of the broker's own figures:

    the other program says: hello
    streams: default
    messages kept: 1
"""

import subprocess
import sys

import hermes

WAIT_S = 10


def main() -> None:
    broker = hermes.Broker(
        listeners=["inproc:", "tcp://127.0.0.1:0"],
        storage="memory:",
        limits={"connections": 100},
    )
    with broker:  # serves in a thread of its own until the block ends
        inside, outside = (listener.url for listener in broker.listeners)
        with hermes.connect(inside) as client, client.subscribe("greetings") as greetings:
            command = [sys.executable, "-m", "hermes", "pub", "greetings", "hello"]
            subprocess.run([*command, "--url", outside], check=True)
            message = greetings.receive(timeout=WAIT_S)
            print("the other program says:", bytes(message.payload).decode())

        streams = broker.streams()
        print("streams:", *(stream["name"] for stream in streams))
        print("messages kept:", sum(stream["messages"] for stream in streams))


if __name__ == "__main__":
    main()
