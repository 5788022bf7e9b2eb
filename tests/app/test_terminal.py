import os
import sys

from linsey.app.terminal import Progress, progress, say


def test_lines_where_there_is_no_terminal(capsys):
    with progress("title", 0, 10, plain=False) as shown:
        assert shown == Progress()
        shown.advance(5, 0.5)
        shown.say("a line [with brackets]")
    assert capsys.readouterr().out == "a line [with brackets]\n"


def test_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    with progress("title", 0, 10, plain=True) as shown:
        assert shown == Progress()
    with progress("title", 2, 10, plain=False) as shown:
        assert shown.bar is not None
        shown.advance(5, None)
        shown.advance(10, 0.25)
        shown.say("a line [with brackets]")
    text = capsys.readouterr().out
    assert "a line [with brackets]" in text
    assert "10/10" in text
    assert "loss 0.2500" in text


def test_nobody_reads_any_more():
    """What is printed then goes nowhere, now and later, and nothing fails."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stream:
        say("a line", stream)
        say("another", stream)
