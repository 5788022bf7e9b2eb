"""At which call of `step` all ranks stop, or save, together.

Ranks run ahead of each other, and no message reaches all of them at one instant. So
the hub proposes a call that no rank has made yet, as far as it knows: one more than the
highest count. Each keeper writes that number where its rank sees it and then looks how
far the rank is. A rank that gets there waits for the decision. If all are still before
that call, or wait in it, the proposal is decided; if one has passed it, a later one
takes its place, and whoever waited goes on. No rank has to answer anything: one that
waits for another in a collective cannot hold up a decision.
"""

from __future__ import annotations

from collections.abc import Callable

from linsey.distributed.life import STOP
from linsey.distributed.wire import Message

_FARTHER = 4
"""How much farther ahead than before a proposal is that follows a missed one."""


class Agreement:
    """What the ranks were asked for, and how far they are with it.

    Args:
        tell_all: sends a message to the keeper of every rank.
    """

    def __init__(self, tell_all: Callable[[Message], None]) -> None:
        self._tell_all = tell_all
        self._asked: list[int] = []
        self._action = 0
        self._ahead = 1
        self._replies: dict[int, bool] = {}
        self._is_decided = False
        self._at = 0

    def ask(self, action: int) -> None:
        """Have all ranks save or stop, as soon as what was asked before is done."""
        is_under_way = action == self._action and not self._is_decided
        if action not in self._asked and not is_under_way:
            self._asked.append(action)

    def advance(self, calls: dict[int, int]) -> None:
        """Propose what is asked for, once the last action is behind all ranks.

        Args:
            calls: how often each rank that has not left called `step`.
        """
        if self._is_decided and self._action != STOP and min(calls.values()) > self._at:
            self._action, self._is_decided = 0, False
        if self._asked and not self._action:
            self._action, self._ahead = self._asked.pop(0), 1
            self._propose(max(calls.values()))

    def reply(self, rank: int, at: int, has_room: bool, calls: dict[int, int]) -> None:
        """Take the answer of a keeper: whether its rank can still meet a proposal.

        Args:
            rank: whose.
            at: the proposal.
            has_room: whether it can.
            calls: how often each rank that has not left called `step`.
        """
        if at != self._at or self._is_decided:
            return
        self._replies[rank] = has_room
        if not has_room:
            self._ahead *= _FARTHER
            self._propose(max(calls.values()))
        elif calls.keys() <= self._replies.keys():
            self._is_decided = True
            self._tell_all(Message("decide", numbers=(self._at,)))

    def _propose(self, passed: int) -> None:
        self._at = max(passed, self._at) + self._ahead
        self._replies = {}
        self._tell_all(Message("propose", numbers=(self._at, self._action)))
