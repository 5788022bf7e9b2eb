import os
import sys

import pytest

from linsey.app.terminal import say, show_table


@pytest.fixture
def unread():
    """A stream that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stream:
        yield stream


def test_nobody_reads_any_more(unread):
    """What is printed then goes nowhere, now and later, and nothing fails."""
    say("a line", unread)
    say("another", unread)


def test_nobody_reads_a_table(unread, monkeypatch):
    monkeypatch.setattr(sys, "stdout", unread)
    show_table(["a"], [["b"]] * 10_000)
    show_table(["a"], [["b"]])
