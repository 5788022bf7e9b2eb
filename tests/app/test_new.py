"""`linsey new` writes a file whose model trains as it is."""

from __future__ import annotations

import sys

import pytest

from tests.app.runs import evaluations


@pytest.fixture
def path(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.mark.slow
@pytest.mark.usefixtures("path")
def test_the_file_trains_by_the_line_that_is_printed(linsey, blobs, tmp_path):
    result = linsey("new", "net.py")
    assert result.code == 0
    told = result.out.strip().splitlines()[-1].split()
    assert told == ["linsey", "train", "--model", "net.py:Model"]
    options = ("--data", blobs, "--epochs", 1, "--batch-size", 32, "--out", "run",
               "--model-arg", "width=2")  # fmt: skip
    trained = linsey(*told[1:], *options)
    assert trained.code == 0, trained.err
    assert len(evaluations(tmp_path / "run")) == 2
    text = (tmp_path / "net.py").read_text()
    assert 'linsey.fit("net.py:Model"' in text
    again = linsey("new", "net.py")
    assert again.error == (
        "net.py: is there already (name another file; nothing was changed)"
    )
    assert (tmp_path / "net.py").read_text() == text


@pytest.mark.usefixtures("path")
def test_the_model_takes_images(linsey):
    assert linsey("new", "sub/net.py").code == 0
    result = linsey("summary", "--model", "sub/net.py:Model", "--shape", 8, 8, 1)
    assert result.code == 0, result.err
    assert "Conv_1" in result.out


def test_other_names_are_refused(linsey, tmp_path):
    assert "(name it net.py)" in linsey("new", "net.txt").error
    assert not list(tmp_path.iterdir())
