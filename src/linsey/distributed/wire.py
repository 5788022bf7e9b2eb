"""Messages between the processes of a job: one line of JSON each, over a socket.

Nothing in a message is executed, imported or opened: it consists of a kind, the number
of a rank, integers and a text. Anything else closes the connection.
"""

from __future__ import annotations

import json
import socket
from typing import NamedTuple

_LONGEST = 1 << 22  # bytes in a line; even stacks of many threads are far smaller
_SEND_SECONDS = 5.0


class Message(NamedTuple):
    """A message from one process to another.

    Attributes:
        kind: kind of the message.
        rank: the rank that it concerns; -1 if none.
        numbers: integers, whose meaning depends on the kind.
        text: a text, usually for people.
    """

    kind: str
    rank: int = -1
    numbers: tuple[int, ...] = ()
    text: str = ""


class Channel:
    """One end of a connection.

    Args:
        connection: a connected socket, which the channel takes over.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(_SEND_SECONDS)
        self._connection = connection
        self._received = b""
        self.is_open = True

    def fileno(self) -> int:
        """Return the descriptor of the socket, for `select`."""
        return self._connection.fileno()

    def send(self, message: Message) -> None:
        """Send a message, or drop it if the connection is broken."""
        line = json.dumps(message).encode() + b"\n"
        try:
            self._connection.sendall(line)
        except OSError:
            pass  # the next `receive` notices that the connection is closed

    def receive(self) -> list[Message]:
        """Wait until something arrives, and return the complete messages.

        `is_open` becomes False if the other end is gone, or if it sent something that
        is not a message.
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
        """Set the longest time that `receive` and `send` wait; `None` for no limit."""
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
