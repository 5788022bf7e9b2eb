"""All ranks stop at the same call of `step`, however far apart they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linsey.distributed import life
from linsey.distributed.agreement import Agreement
from linsey.distributed.wire import Message


class Ranks:
    """Ranks with their keepers, one event at a time, in the order of a test."""

    def __init__(self, calls: list[int]) -> None:
        self.words = [[0] * 16 for _ in calls]
        for words, count in zip(self.words, calls, strict=True):
            words[life.CALLS] = count
        self.answers: list[list[tuple[int, int]]] = [[] for _ in calls]
        self.mail: list[list[Message]] = [[] for _ in calls]
        self.agreement = Agreement(self.tell_all)

    def tell_all(self, message: Message) -> None:
        for box in self.mail:
            box.append(message)

    def calls(self) -> dict[int, int]:
        return {n: words[life.CALLS] for n, words in enumerate(self.words)}

    def run(self, n: int) -> None:
        """A rank calls `step`, unless it waits in the last call."""
        words = self.words[n]
        count = words[life.CALLS]
        if words[life.WAITS] == count and words[life.PROPOSED] == count:
            if words[life.DECIDED] == count:
                self.act(n, count)
            return
        words[life.CALLS] = count = count + 1
        if words[life.PROPOSED] == count:
            words[life.WAITS] = count
            if words[life.DECIDED] == count:
                self.act(n, count)

    def act(self, n: int, count: int) -> None:
        self.answers[n].append((count, self.words[n][life.ACTION]))
        self.words[n][life.WAITS] = 0

    def keep(self, n: int) -> None:
        """A keeper does what the oldest message says."""
        if not self.mail[n]:
            return
        words = self.words[n]
        match self.mail[n].pop(0):
            case Message("propose", _, (at, action)):
                words[life.ACTION], words[life.PROPOSED] = action, at
                has_room = words[life.CALLS] < at or words[life.WAITS] == at
                self.agreement.reply(n, at, has_room, self.calls())
            case Message("decide", _, (at,)):
                words[life.DECIDED] = at


@given(
    st.lists(st.integers(2, 9), min_size=1, max_size=4),
    st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=60),
)
def test_all_ranks_stop_at_the_same_call(calls, events):
    ranks = Ranks(calls)
    ranks.agreement.ask(life.STOP)
    ranks.agreement.advance(ranks.calls())
    for is_rank, number in events:
        (ranks.run if is_rank else ranks.keep)(number % len(calls))
    for _ in range(2000):  # from here on all get their turn, the keepers first
        for number in range(len(calls)):
            ranks.keep(number)
            ranks.run(number)
        if all(ranks.answers):
            break
    first = {answers[0] for answers in ranks.answers}
    assert len(first) == 1
    assert first.pop()[1] == life.STOP


def test_what_is_asked_after_a_decision_is_done_later():
    ranks = Ranks([3, 3])
    ranks.agreement.ask(life.SAVE)
    ranks.agreement.advance(ranks.calls())
    for number in (0, 1, 0):
        ranks.keep(number)
    ranks.run(0)
    assert ranks.answers == [[(4, life.SAVE)], []]
    ranks.agreement.ask(life.SAVE)
    for _ in range(10):
        ranks.agreement.advance(ranks.calls())
        for number in (0, 1):
            ranks.keep(number)
            ranks.run(number)
    assert ranks.answers[0] == ranks.answers[1]
    assert len(ranks.answers[0]) == 2


@pytest.mark.parametrize("last", [life.SAVE, life.STOP])
def test_one_action_follows_the_other(last):
    ranks = Ranks([3, 5])
    ranks.agreement.ask(life.SAVE)
    ranks.agreement.advance(ranks.calls())
    ranks.agreement.ask(last)
    for _ in range(100):
        for number in (0, 1):
            ranks.keep(number)
            ranks.run(number)
        ranks.agreement.advance(ranks.calls())
    assert ranks.answers[0] == ranks.answers[1]
    expected = [life.SAVE] if last == life.SAVE else [life.SAVE, life.STOP]
    assert [action for _, action in ranks.answers[0]][: len(expected)] == expected
