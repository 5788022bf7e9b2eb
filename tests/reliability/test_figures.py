"""The page quotes what the tests measured."""

import pytest

from tests.reliability import figures

PAGE = """Text.
<!-- figures -->
| test | passes if | figure |
|---|---|---|
| kills | all resume | old |
| flips | all caught | 7 of 7 |
<!-- end -->
| kills | elsewhere | old |"""


def test_figures_go_into_their_rows(tmp_path, monkeypatch):
    assert figures.rows(PAGE) == ["kills", "flips"]
    filled = figures.filled(PAGE, {"kills": "3 of 3"})
    assert "| kills | all resume | 3 of 3 |" in filled
    assert "| flips | all caught | 7 of 7 |" in filled
    assert "| kills | elsewhere | old |" in filled
    with pytest.raises(ValueError, match="other"):
        figures.filled(PAGE, {"other": "1"})


def test_figures_are_recorded_only_where_that_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.delenv(figures.VARIABLE, raising=False)
    figures.record("kills", "1 of 1")
    monkeypatch.setenv(figures.VARIABLE, str(tmp_path / "f.jsonl"))
    figures.record("kills", "2 of 2")
    assert (tmp_path / "f.jsonl").read_text().count("\n") == 1
