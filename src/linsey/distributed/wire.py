"""Messages between the processes of a job: one line of JSON each, over a socket.

Nothing in a message is executed, imported or opened: it is a kind, the number of a
rank, integers and a text. What is anything else closes the connection.
"""

from __future__ import annotations

import json
import socket
from typing import NamedTuple

_LONGEST = 1 << 22  # bytes of a line: stacks of many threads are far smaller
_SEND_SECONDS = 5.0


class Message(NamedTuple):
    """What one process tells another.

    Attributes:
        kind: what it is about.
        rank: whom it is about; -1 if nobody.
        numbers: what goes with the kind.
        text: for people.
    """

    kind: str
    rank: int = -1
    numbers: tuple[int, ...] = ()
    text: str = ""


class Channel:
    """One end of a connection.

    Args:
        connection: a connected socket, which belongs to the channel from now on.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(_SEND_SECONDS)
        self._connection = connection
        self._received = b""
        self.is_open = True

    def fileno(self) -> int:
        """Return the number of the socket, for `select`."""
        return self._connection.fileno()

    def send(self, message: Message) -> None:
        """Send a message; one that nobody can receive any more is dropped."""
        line = json.dumps(message).encode() + b"\n"
        try:
            self._connection.sendall(line)
        except OSError:
            pass  # whoever reads the other direction sees that it is closed

    def receive(self) -> list[Message]:
        """Wait for something to arrive; return the messages that are complete.

        `is_open` is false from the moment on when the other end is gone, or sent what
        is no message.
        """
        try:
            arrived = self._connection.recv(1 << 16)
        except TimeoutError:
            return []
        except OSError:
            arrived = b""
        self._received += arrived
        *lines, self._received = self._received.split(b"\n")
        if not arrived or len(self._received) > _LONGEST:
            self.is_open = False
        try:
            return [_parsed(line) for line in lines]
        except ValueError:
            self.is_open = False
            return []

    def wait(self, seconds: float | None) -> None:
        """Let `receive` wait that long at most, and `send` as well."""
        self._connection.settimeout(seconds)

    def close(self) -> None:
        """Close the connection."""
        self.is_open = False
        self._connection.close()


def _parsed(line: bytes) -> Message:
    match json.loads(line):
        case [str(kind), int(rank), [*numbers], str(text)]:
            if all(isinstance(number, int) for number in numbers):
                return Message(kind, rank, tuple(numbers), text)
    raise ValueError("not a message")
