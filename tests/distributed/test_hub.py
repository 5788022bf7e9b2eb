"""The hub decides who failed, and in which order the ranks end."""

from __future__ import annotations

import pytest

from linsey.app import compiling, devices
from linsey.checkpoint import group
from linsey.distributed.hub import Hub, Rank, blamed
from linsey.distributed.wire import Message

IN_JAX = 'Current thread 0x1 (most recent call first):\n  File "/a/jax/_src/array.py"\n'
ASLEEP = 'Thread 0x2:\n  File "x"\n\nThread 0x1:\n  File "/home/loop.py", line 3\n'
COMPILING = 'Thread 0x1:\n  File "/a/jax/_src/compiler.py", line 3 in compile\n'


class Job:
    """A hub, what it sent, and a clock."""

    def __init__(self, size: int) -> None:
        self.sent: list[list[str]] = [[] for _ in range(size)]
        self.said: list[str] = []
        self.now = 100.0
        ranks = {
            n: Rank(lambda m, n=n: self.sent[n].append(m.kind), host=f"host{n}")
            for n in range(size)
        }
        self.hub = Hub(ranks, self.said.append)
        self.hub.tick(self.now)

    def status(self, rank, calls=5, age=0.0, limit=10.0, left=0, stopped=0, doing=""):
        numbers = (calls, 4, int(1000 * age), int(1000 * limit), left, stopped)
        self.hub.take(Message("status", rank, numbers, doing), self.now)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.hub.tick(self.now)


def test_the_others_end_before_the_rank_that_failed_speaks():
    job = Job(3)
    job.hub.take(Message("failed", 1, (2, 0), "ValueError: x"), job.now)
    assert job.sent == [[], [], ["end"]]
    job.hub.lose(2, job.now)
    job.pass_time(0.1)
    assert job.sent == [[], ["speak"], ["end"]]
    job.hub.lose(1, job.now)
    job.pass_time(0.1)
    assert job.sent[0] == ["end"]  # last, since it holds JAX's service


def test_who_does_not_end_in_time_is_not_waited_for():
    job = Job(2)
    job.hub.take(Message("failed", 0, (2, 0), "ValueError: x"), job.now)
    job.pass_time(3)
    assert job.sent[0] == ["speak"]
    job.pass_time(3)
    assert job.sent[0] == ["speak", "end"]


def test_death_of_a_rank_is_the_cause_of_errors_in_collectives():
    job = Job(3)
    job.hub.take(Message("failed", 0, (1, 1), "Gloo: connection reset"), job.now)
    assert job.sent == [[], [], []]
    job.status(2, calls=7, doing="training")
    job.hub.lose(2, job.now + 0.1)
    assert job.sent[1] == ["end"]
    assert job.said == [
        "linsey: rank 0 ends: rank 2 was killed or crashed, at step 4, in training"
    ]


def test_error_in_a_collective_is_the_cause_if_nothing_else_is():
    job = Job(2)
    job.hub.take(Message("failed", 1, (1, 1), "Gloo: timed out"), job.now)
    job.pass_time(0.5)
    assert job.said == []
    job.pass_time(1)
    assert job.said == ["linsey: rank 0 ends: rank 1 failed: Gloo: timed out"]


def test_rank_that_left_in_good_order_may_end():
    job = Job(2)
    job.status(1, left=1)
    job.hub.lose(1, job.now)
    job.pass_time(1)
    assert job.sent[0] == []


def test_silence_ends_the_job_only_after_the_limit_of_every_rank():
    job = Job(2)
    job.status(0, age=0)
    job.status(1, limit=100)  # in its first step, or allowed to take longer
    for _ in range(30):
        job.pass_time(1)
        job.status(0, age=60)
        job.status(1, limit=100)
    assert job.sent[0] == []
    job.status(1, limit=10)
    for second in range(1, 10):  # counted from here on
        job.pass_time(1)
        job.status(0, age=60 + second)
        job.status(1, age=second)
    assert job.sent[0] == []
    for _ in range(3):
        job.pass_time(1)
        job.status(0, age=70)
        job.status(1, age=11)
    assert job.sent[0] == ["stacks"]
    job.hub.take(Message("stacks", 0, (), IN_JAX), job.now)
    job.hub.take(Message("stacks", 1, (), ASLEEP), job.now)
    job.pass_time(0.1)
    assert "end" in job.sent[1]
    assert [text.split("\n")[0] for text in job.said] == [
        "--- stack of rank 0, at step 4", "--- stack of rank 1, at step 4",
        "linsey: rank 0 ends: rank 1 gave no sign of life for 11 s, at step 4",
    ]  # fmt: skip


def test_rank_that_compiles_is_not_stuck():
    job = Job(1)
    while not job.sent[0]:
        job.pass_time(1)
        job.status(0, age=60)
    assert job.sent[0] == ["stacks"]
    job.hub.take(Message("stacks", 0, (), COMPILING), job.now)
    for _ in range(9):
        job.pass_time(1)
        job.status(0, age=60)
    assert job.sent[0] == ["stacks"]


def test_time_in_which_the_machine_slept_does_not_count():
    job = Job(1)
    job.status(0)
    job.pass_time(1000)
    job.status(0, age=1000)
    job.pass_time(0.25)
    assert job.sent[0] == []


def rank(calls: int, stacks: str, is_stopped: bool = False) -> Rank:
    return Rank(print, calls=calls, stacks=stacks, is_stopped=is_stopped)


def test_blamed_is_who_is_stopped_or_not_in_jax_or_least_far():
    assert blamed({0: rank(4, IN_JAX), 1: rank(5, IN_JAX, True)}) == [1]
    assert blamed({0: rank(4, IN_JAX), 1: rank(5, ASLEEP)}) == [1]
    assert blamed({0: rank(5, IN_JAX), 1: rank(4, IN_JAX)}) == [1]
    assert blamed({0: rank(5, ASLEEP), 1: rank(5, ASLEEP)}) == [0, 1]


@pytest.mark.parametrize("module", [compiling, devices, group])
def test_who_calls_a_compiled_function_waits_inside_jax(module):
    """It waits for the others in C++, so JAX itself has no frame in the stacks."""
    waiting = f'Thread 0x1:\n  File "{module.__file__}", line 85 in fetch\n'
    assert blamed({0: rank(5, waiting), 1: rank(5, ASLEEP)}) == [1]
