"""The agreement on the call of `step` at which all ranks stop, or save, together.

Ranks run ahead of each other, and a message does not reach all of them at the same
time. Therefore the hub proposes a call that, as far as it knows, no rank has made yet:
one more than the highest count. Each keeper writes this number where its rank can see
it, and then checks how far the rank is. A rank that reaches the proposed call waits for
the decision. If all ranks are still before the call, or wait in it, the proposal is
accepted. If a rank has passed it, a later call is proposed, and waiting ranks continue.
The ranks themselves never reply, so a rank that waits for another one in a collective
cannot block a decision.
"""

from __future__ import annotations

from collections.abc import Callable

from linsey.distributed.life import STOP
from linsey.distributed.wire import Message

_FARTHER = 4
"""The factor by which a proposal is farther ahead after a missed one."""


class Agreement:
    """The actions that were requested from the ranks, and the current proposal.

    Args:
        tell_all: sends a message to the keepers of all ranks.
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
        """Request that all ranks save or stop, after earlier requests are done."""
        is_under_way = action == self._action and not self._is_decided
        if action not in self._asked and not is_under_way:
            self._asked.append(action)

    def advance(self, calls: dict[int, int]) -> None:
        """Propose the next action, once all ranks have finished the last one.

        Args:
            calls: number of calls of `step` by each rank that has not left.
        """
        if self._is_decided and self._action != STOP and min(calls.values()) > self._at:
            self._action, self._is_decided = 0, False
        if self._asked and not self._action:
            self._action, self._ahead = self._asked.pop(0), 1
            self._propose(max(calls.values()))

    def reply(self, rank: int, at: int, has_room: bool, calls: dict[int, int]) -> None:
        """Process a keeper's reply whether its rank can still meet a proposal.

        Args:
            rank: the rank.
            at: the proposal.
            has_room: whether the rank can meet it.
            calls: number of calls of `step` by each rank that has not left.
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
