"""A report prints, shows as HTML, and becomes JSON."""

from __future__ import annotations

import json
import math

from linsey.batch_stats import Finding, Report

NOTE = Finding("b", "dead_channel", "note", "One channel is constant.")
ERROR = Finding(
    "a", "nonfinite", "error", "NaN.", {"share": math.nan}, "line 1\nline 2"
)
REPORT = Report(
    "Audit", [NOTE, ERROR], ["layer", "gap"], [["a", 0.123456], ["b", None]]
)


def test_the_worst_comes_first():
    assert [one.layer for one in REPORT] == ["a", "b"]
    assert REPORT.errors == (ERROR,)
    assert REPORT.of_kind("dead_channel") == REPORT.of_layer("b") == (NOTE,)
    assert REPORT.summary == "Audit: 1 error, 1 note"
    assert Report("Audit").summary == "Audit: nothing found"


def test_text():
    text = str(REPORT)
    assert "layer     gap\na      0.1235\nb\n" in text
    assert "error: a: nonfinite\n  NaN.\n  line 1\n  line 2" in text


def test_what_comes_from_files_commands_no_terminal_and_no_browser():
    bad = Report("T", [Finding("\x1b[31m<b>", "k", "note", "m")])
    assert "\x1b" not in str(bad)
    assert "\x1b" not in bad._repr_html_()
    assert "&lt;b&gt;" in bad._repr_html_()


def test_json():
    found = json.loads(REPORT.to_json())
    assert found["findings"][0]["numbers"] == {"share": "nan"}
    assert found["rows"] == [["a", 0.123456], ["b", None]]
    assert "<table>" in REPORT._repr_html_()
