"""The hub of a job, which knows the state of all ranks and ends the job if one fails.

It is part of the keeper of rank 0. Nothing here opens a connection or reads a clock:
the keeper passes in the messages and the time.

A job ends in an order that leaves the cause last on the screen. First, all ranks end
except the failed one and rank 0; then the failed rank, which prints its traceback; and
last rank 0, because its process runs JAX's coordination service, without which JAX
would end all others itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from linsey.distributed import stacks
from linsey.distributed.agreement import Agreement
from linsey.distributed.wire import Message

_SILENT_TICKS = 80  # ticks of 0.25 s without a message: the machine is gone
_GAP = 5.0  # seconds without a tick: the hub itself, or its machine, was stopped
_STACKS_SECONDS = 2.0
_CAUSE_SECONDS = 1.0
_OTHERS_SECONDS = 2.5
_CULPRIT_SECONDS = 2.5
FAILED = 1
"""The exit code of a job if the failed rank has no exit code of its own."""


@dataclass
class Rank:
    """The state of a rank, as far as the hub knows."""

    send: Callable[[Message], None]
    host: str = ""
    calls: int = 0
    step: int = 0
    age: float = 0.0
    limit: float = 0.0
    is_stopped: bool = False
    doing: str = ""
    has_left: bool = False
    is_gone: bool = False
    silent: int = 0
    stacks: str | None = None

    @property
    def place(self) -> str:
        """A description of how far the rank is, for messages."""
        where = f"at step {self.step}" if self.calls else "before the first step"
        return f"{where}, in {self.doing}" if self.doing else where


@dataclass
class End:
    """The reason why the job ends.

    Attributes:
        rank: the rank that caused it.
        reason: a description for people.
        code: the exit code of all ranks.
        speaks: whether that rank is alive and prints its own error.
    """

    rank: int
    reason: str
    code: int = FAILED
    speaks: bool = False


class Hub:
    """The state of a job whose ranks have met.

    Args:
        ranks: all ranks by number.
        show: prints a text for the user.
    """

    def __init__(self, ranks: dict[int, Rank], show: Callable[[str], None]) -> None:
        self.ranks = ranks
        self._show = show
        self._agreement = Agreement(self._tell_all)
        self._end: End | None = None
        self._likely: End | None = None  # unless a better cause is found
        self._phase = ""
        self._suspects: dict[int, Rank] = {}
        self._deadline = math.inf
        self._limit = 0.0
        self._watched_since = 0.0
        self._last_tick = 0.0

    @property
    def is_ending(self) -> bool:
        """Whether the job ends because of a failure."""
        return self._end is not None

    @property
    def is_over(self) -> bool:
        """Whether all ranks are gone."""
        return all(rank.is_gone for rank in self.ranks.values())

    def take(self, message: Message, now: float) -> None:
        """Process a message from a keeper."""
        rank = self.ranks[message.rank]
        rank.silent = 0
        match message:
            case Message("status", _, (calls, step, age, limit, left, stopped), doing):
                rank.calls, rank.step, rank.doing = calls, step, doing
                rank.age, rank.limit = age / 1000, limit / 1000
                rank.has_left, rank.is_stopped = bool(left), bool(stopped)
            case Message("ask", _, (action,)):
                self._agreement.ask(action)
                self._advance()
            case Message("reply", _, (at, has_room, calls)):
                rank.calls = max(rank.calls, calls)
                self._agreement.reply(message.rank, at, bool(has_room), self._calls())
            case Message("stacks"):
                rank.stacks = message.text
            case Message("failed", number, (code, is_echo), text):
                end = End(number, f"rank {number} failed: {text}", code, speaks=True)
                if not is_echo:
                    self._finish(end, now)
                elif self._likely is None and self._end is None:
                    self._likely = end
                    self._deadline = now + _CAUSE_SECONDS
            case Message("left"):
                rank.has_left = True

    def lose(self, number: int, now: float) -> None:
        """Record that the keeper of a rank, and therefore the rank, is gone."""
        rank = self.ranks[number]
        rank.is_gone = True
        if not rank.has_left:
            reason = f"rank {number} was killed or crashed, {rank.place}"
            self._finish(End(number, reason), now)

    def tick(self, now: float) -> None:
        """Check all ranks. Call this four times a second."""
        if now - self._last_tick > _GAP:
            self._watched_since = now
        self._last_tick = now
        if self._end is not None:
            self._go_on_ending(now)
            return
        for number, rank in self.ranks.items():
            rank.silent += 1
            if rank.silent > _SILENT_TICKS and not rank.is_gone:
                end = End(number, f"nothing is heard of rank {number} on {rank.host}")
                self._finish(end, now)
        if self._likely is not None and now > self._deadline:
            self._finish(self._likely, now)
        self._advance()
        self._watch(now)

    # --- joint actions of all ranks -----------------------------------------------

    def _calls(self) -> dict[int, int]:
        ranks = self.ranks.items()
        return {n: rank.calls for n, rank in ranks if not rank.has_left}

    def _advance(self) -> None:
        if calls := self._calls():
            self._agreement.advance(calls)

    def _tell_all(self, message: Message) -> None:
        for rank in self.ranks.values():
            rank.send(message)

    # --- ranks that are stuck -----------------------------------------------------

    def _watch(self, now: float) -> None:
        if self._phase == "stacks":
            names = self._suspects.keys()
            are_there = all(self.ranks[n].stacks is not None for n in names)
            if are_there or now > self._deadline:
                self._judge(now)
            return
        ranks = [rank for rank in self.ranks.values() if not rank.has_left]
        limit = max((rank.limit or math.inf for rank in ranks), default=math.inf)
        if limit < self._limit:
            self._watched_since = now  # earlier delays were allowed
        self._limit = limit
        watched = now - self._watched_since
        if any(min(rank.age, watched) > limit for rank in ranks):
            self._phase, self._deadline = "stacks", now + _STACKS_SECONDS
            # Copy the state now: asking a rank for its stacks may get it going again.
            self._suspects = {
                n: replace(rank) for n, rank in self.ranks.items() if not rank.has_left
            }
            for rank in ranks:
                rank.stacks = None
                rank.send(Message("stacks"))

    def _judge(self, now: float) -> None:
        """Find the stuck ranks by the stacks of all, unless one is just compiling."""
        self._phase = ""
        ranks = self._suspects
        for number, rank in ranks.items():
            rank.stacks = self.ranks[number].stacks or "(none)"
        is_compiling = any(stacks.is_compiling(r.stacks or "") for r in ranks.values())
        if is_compiling and not any(rank.is_stopped for rank in ranks.values()):
            self._watched_since = now
            return
        for number, rank in ranks.items():
            title = f"--- stack of rank {number}, {rank.place}"
            self._show(f"{title}\n{rank.stacks}")
        numbers = blamed(ranks)
        rank = ranks[numbers[0]]
        silence = max(ranks[n].age for n in numbers)
        who = " and ".join(f"rank {n}" for n in numbers)
        how = ", stopped by a signal" if rank.is_stopped else ""
        left = [n for n, one in self.ranks.items() if one.has_left]
        alone = f", and rank {left[0]} has left" if left else ""
        reason = (
            f"{who} gave no sign of life for {silence:.0f} s, {rank.place}{how}{alone}"
        )
        self._finish(End(numbers[0], reason), now)

    # --- the end ------------------------------------------------------------------

    def _finish(self, end: End, now: float) -> None:
        if self._end is not None:
            return
        self._end, self._phase = end, "others"
        self._deadline = now + _OTHERS_SECONDS
        for number, rank in self.ranks.items():
            if number == end.rank and end.speaks:
                continue
            if number == 0:  # immediately, before the failed rank prints its error
                self._show(farewell(0, end.reason))
            else:
                rank.send(Message("end", end.rank, (end.code,), end.reason))
        self._go_on_ending(now)

    def _go_on_ending(self, now: float) -> None:
        end = self._end
        assert end is not None
        others = {
            n for n in self.ranks if n != 0 and not (n == end.rank and end.speaks)
        }
        if self._phase == "others" and (self._are_gone(others) or now > self._deadline):
            self._phase, self._deadline = "culprit", now + _CULPRIT_SECONDS
            if end.speaks:
                self.ranks[end.rank].send(Message("speak"))
        if self._phase == "culprit":
            is_done = not end.speaks or self._are_gone({end.rank})
            if is_done or now > self._deadline:
                self._phase = "last"
                self._tell_all(Message("end", end.rank, (end.code,)))

    def _are_gone(self, numbers: set[int]) -> bool:
        return all(self.ranks[number].is_gone for number in numbers)


def farewell(rank: int, reason: str) -> str:
    """Return the message that explains why a rank ends."""
    return f"linsey: rank {rank} ends: {reason}"


def blamed(ranks: dict[int, Rank]) -> list[int]:
    """Return the ranks that block a job that makes no progress.

    These are the ranks stopped by a signal, if any. Otherwise they are the ranks that
    are least far among those that do not wait inside JAX, for an array or for others.

    Args:
        ranks: all ranks that have not left, with their stacks.
    """
    stopped = [n for n, rank in ranks.items() if rank.is_stopped]
    if stopped:
        return stopped
    numbers = [
        n for n, rank in ranks.items() if not stacks.is_in_jax(rank.stacks or "")
    ]
    numbers = numbers or list(ranks)
    least = min(ranks[n].calls for n in numbers)
    return [n for n in numbers if ranks[n].calls == least]
