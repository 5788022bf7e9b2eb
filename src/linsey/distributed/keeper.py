"""The keeper of a rank: a small separate process that slightly outlives the rank.

It notices immediately when its rank dies, for whatever reason. It can end a rank that
is stopped by a signal, or that waits in a library forever. It can print messages even
if JAX ends the process of the rank. The keeper of rank 0 contains the hub, to which all
other keepers are connected. Keepers import neither JAX nor NumPy.

    rank 1 -- keeper 1 --\
                          keeper 0, with the hub -- rank 0
    rank 2 -- keeper 2 --/

A keeper ends when its rank ends, and a rank ends when its keeper does.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial

from linsey.distributed import life, stacks
from linsey.distributed.hub import Hub, Rank, farewell
from linsey.distributed.life import Life
from linsey.distributed.meeting import Meeting, Refused, enter
from linsey.distributed.wire import Channel, Message

_TICK = 0.25
_LOOK_SECONDS = 0.005  # between a proposal and the check how far the rank is
_GRACE = 1.0  # for a rank to end itself
_SILENT_TICKS = 80
_LAST_SECONDS = 5.0


def say(text: str) -> None:
    """Print lines for the user; ignore errors if nobody reads them.

    Control characters are escaped, so that text from ranks cannot control the terminal.
    """
    shown = (c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
    try:
        sys.stderr.write("".join(shown) + "\n")
        sys.stderr.flush()
    except OSError:
        pass


class Keeper:
    """The state and the actions of a keeper.

    Args:
        rank: number of the rank.
        process: process ID of the rank, the parent of this process.
        link: the connection to the rank.
        hub: the connection to the hub.
        signs: the signs of life of the rank.
        stack_file: descriptor of the file for the stacks of the rank.
    """

    def __init__(
        self, rank: int, process: int, link: Channel, hub: Channel, signs: Life,
        stack_file: int,
    ) -> None:  # fmt: skip
        self.rank = rank
        self._process = process
        self.link = link
        self.hub = hub
        self._life = signs
        self._stacks = stack_file
        self._kill_at = 0.0
        self._silent = 0
        self._is_ending = False

    def take_from_rank(self) -> None:
        """Forward the messages of the rank."""
        for message in self.link.receive():
            self.hub.send(message._replace(rank=self.rank))
        if not self.link.is_open:
            self._report()
            if self._life.words[life.LEFT]:
                self.hub.send(Message("left", self.rank))
            self.hub.close()

    def take_from_hub(self) -> None:
        """Process the messages of the hub; if the hub is gone, end the rank."""
        self._silent = 0
        for message in self.hub.receive():
            self._take(message)
        if not self.hub.is_open and not self._is_ending:
            self._end_without_hub()

    def _take(self, message: Message) -> None:
        words = self._life.words
        match message:
            case Message("propose", _, (at, action)):
                words[life.ACTION] = action
                words[life.PROPOSED] = at
                time.sleep(_LOOK_SECONDS)
                calls = words[life.CALLS]
                has_room = calls < at or words[life.WAITS] == at
                numbers = (at, int(has_room), calls)
                self.hub.send(Message("reply", self.rank, numbers))
            case Message("decide", _, (at,)):
                words[life.DECIDED] = at
            case Message("stacks"):
                text = stacks.take(self._process, self._stacks)
                self.hub.send(Message("stacks", self.rank, (), text))
            case Message("end", _, (code,), reason):
                if reason:
                    say(farewell(self.rank, reason))
                self._end(code)
            case Message("speak"):
                self.link.send(message)

    def _end_without_hub(self) -> None:
        if self._life.words[life.LEFT]:
            self._is_ending = True  # the others have left as well
            return
        say(farewell(self.rank, "rank 0 was killed, or its machine is gone"))
        self._end(1)

    def _end(self, code: int) -> None:
        self._is_ending = True
        self.link.send(Message("end", self.rank, (code,)))
        self._kill_at = self._kill_at or time.monotonic() + _GRACE

    def tick(self) -> None:
        """Report the state of the rank; kill it if it should have ended but did not."""
        now = time.monotonic()
        if self._kill_at and now > self._kill_at and os.getppid() == self._process:
            os.kill(self._process, signal.SIGKILL)
        self._silent += 1
        if self._silent > _SILENT_TICKS and not self._is_ending:
            self._end_without_hub()
        self._report()

    def _report(self) -> None:
        words = self._life.words
        age = time.monotonic() - words[life.SIGN] / 1e9
        numbers = (
            words[life.CALLS], words[life.STEP], int(1000 * age), words[life.LIMIT],
            words[life.LEFT], int(stacks.is_stopped(self._process)),
        )  # fmt: skip
        self.hub.send(Message("status", self.rank, numbers, self._life.doing))


class HubLoop:
    """The hub and its connections."""

    def __init__(self, channels: dict[int, Channel], hosts: dict[int, str]) -> None:
        self.channels = channels
        ranks = {n: Rank(channels[n].send, hosts[n]) for n in sorted(channels)}
        self.hub = Hub(ranks, say)

    def take(self, number: int) -> None:
        """Process the messages of the keeper of a rank."""
        channel = self.channels[number]
        for message in channel.receive():
            if message.rank == number:
                self.hub.take(message, time.monotonic())
        if not channel.is_open:
            channel.close()
            self.hub.lose(number, time.monotonic())

    def tick(self) -> None:
        """Tell the keepers that the hub is alive, and let it check the ranks."""
        for channel in self.channels.values():
            if channel.is_open:
                channel.send(Message("here"))
        self.hub.tick(time.monotonic())


def keep(keeper: Keeper, loop: HubLoop | None) -> None:
    """Watch a rank until it ends; the keeper of rank 0 also watches the job."""
    takers: dict[Channel, Callable[[], None]] = {
        keeper.link: keeper.take_from_rank,
        keeper.hub: keeper.take_from_hub,
    }
    if loop is not None:
        takers |= {c: partial(loop.take, n) for n, c in loop.channels.items()}
    selector = selectors.DefaultSelector()
    for channel in takers:
        selector.register(channel, selectors.EVENT_READ, channel)
    ticked, gone_at = 0.0, 0.0
    while True:
        for key, _ in selector.select(_TICK):
            if key.data.is_open:
                takers[key.data]()
        for channel in [channel for channel in takers if not channel.is_open]:
            selector.unregister(channel)
            del takers[channel]
        now = time.monotonic()
        if now - ticked >= _TICK:
            ticked = now
            keeper.tick()
            if loop is not None:
                loop.tick()
        if not keeper.link.is_open:
            gone_at = gone_at or now
            if loop is None or loop.hub.is_over:
                return
            if loop.hub.is_ending and now - gone_at > _LAST_SECONDS:
                return


def main(link_number: int) -> None:
    """Run a keeper.

    Args:
        link_number: descriptor of the socket to the rank. The rank first sends its job.
    """
    link = Channel(socket.socket(fileno=link_number))
    ((_, rank, numbers, text),) = link.receive()
    processes, process, life_file, stack_file, milliseconds = numbers
    host, port, token = text.split("\n")
    signs = Life(life_file)
    loop = None
    try:
        if rank == 0:
            meeting = Meeting((host, int(port)), processes, token, milliseconds / 1000)
            hub, jax_port, channels, hosts = meeting.hold(link)
            loop = HubLoop(channels, hosts)
        else:
            hub, jax_port = enter(
                (host, int(port)), rank, processes, token, milliseconds / 1000, link
            )
    except Refused as refusal:
        link.send(Message("refused", rank, (), str(refusal)))
        return
    link.send(Message("welcome", rank, (jax_port,)))
    keep(Keeper(rank, process, link, hub, signs, stack_file), loop)
