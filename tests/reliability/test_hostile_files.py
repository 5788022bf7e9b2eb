"""Every file of the corpus is refused in one line, and nothing else happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.reliability import corpus
from tests.reliability.figures import record

SECONDS = 1.0


@pytest.fixture(scope="module")
def met(tmp_path_factory):
    """What happened to each file, all read in one other process."""
    folder = tmp_path_factory.mktemp("corpus")
    done = subprocess.run(
        [sys.executable, "-m", "tests.reliability.corpus", folder],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "NPROC": "1"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    lines = map(json.loads, done.stdout.splitlines())
    found = {line["name"]: line for line in lines}
    assert list(found) == [*corpus.GOOD, *corpus.CORPUS], done.stderr[-2000:]
    assert not list(folder.rglob("harmed"))
    return found


@pytest.mark.timeout(150)
def test_the_corpus_is_large_and_the_good_files_are_read(met):
    assert len(corpus.CORPUS) >= 150
    assert met["good step"]["code"] == met["good file"]["code"] == 0
    for name in ("good data", "good images"):  # the options refuse them afterwards
        assert "--batch-size: larger than the training data" in met[name]["error"]
    record("hostile files", f"{len(corpus.CORPUS)} of {len(corpus.CORPUS)} refused")


@pytest.mark.timeout(150)
@pytest.mark.parametrize("name", corpus.CORPUS)
def test_a_hostile_file_is_refused_in_a_line(met, name):
    found = met[name]
    assert found["code"] == 2, found
    told = found["error"].removesuffix("\n")
    assert told.startswith("linsey: error: ") and told.isprintable()
    assert "larger than the training data" not in told  # that is what good ones get
    said = found["out"].splitlines()  # what a training is about to do
    assert all(line.isprintable() for line in said)
    first_words = ["training", "reading", "importing", "building"]
    assert [line.split()[0] for line in said] == first_words[: len(said)]
    assert found["seen"] == []
    assert found["seconds"] < SECONDS
