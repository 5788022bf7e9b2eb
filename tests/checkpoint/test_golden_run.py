"""A run that linsey 0.1.0 wrote: it is read, evaluated and resumed for ever.

`golden_run.tar.gz` is the folder of `linsey train --model mlp --width 1 --depth 1
--epochs 2 --batch-size 256`, as it was after the first of the two epochs.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest

from linsey.app import cli
from linsey.checkpoint import CheckpointStore, flatten, format_1
from linsey.errors import InputError
from tests.checkpoint.steps import files_of, flip

ARCHIVE = Path(__file__).with_name("golden_run.tar.gz")
DIGEST = "8ceef2e2b11e9b94770dc740ed3d0ec4768dd20cce05b35b35c12bf110152ab6"


@pytest.fixture
def run(tmp_path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "run"


def test_every_bit_of_the_arrays_is_the_one_that_was_written(run):
    checkpoint = CheckpointStore(run / "checkpoints").newest()
    assert checkpoint.step == 5
    assert checkpoint.metadata["cursor"]["best_step"] == 5
    assert str(checkpoint.arrays["params/Dense_0/kernel"]) == "float32[64,4]"
    digest = hashlib.sha256()
    for name, array in sorted(flatten(checkpoint.read()).items()):
        digest.update(name.encode())
        digest.update(np.asarray(array).tobytes())
    assert digest.hexdigest() == DIGEST


def test_every_file_of_an_old_step_is_vouched_for(run):
    store = CheckpointStore(run / "checkpoints")
    for path in files_of(store.path(5)):
        flip(path, 0.5, 3)
        with pytest.raises(InputError, match=f"{path}: "):
            store.open(5)
        flip(path, 0.5, 3)
    (store.path(5) / "state" / "extra").touch()
    with pytest.raises(InputError, match="extra: a file that is not in the manifest"):
        store.open(5)


def test_a_change_while_orbax_reads_is_caught(run, monkeypatch):
    store = CheckpointStore(run / "checkpoints")
    read = format_1._read

    def read_and_change(folder):
        tree = read(folder)
        flip(folder / "state" / "manifest.ocdbt", 0.5, 3)
        return tree

    monkeypatch.setattr(format_1, "_read", read_and_change)
    with pytest.raises(InputError, match="manifest.ocdbt: the file is not the one"):
        store.open(5)


def test_the_run_is_evaluated_as_it_was(run, capsys):
    assert cli.main(["eval", str(run)]) == 0
    loss, step = re.search(
        r"loss (\S+), step (\d+) of", capsys.readouterr().out
    ).groups()
    assert step == "5"
    np.testing.assert_allclose(float(loss), 2.2402, rtol=1e-3)


@pytest.mark.filterwarnings("ignore")
def test_the_run_goes_on_where_it_stopped(run, capsys):
    assert cli.main(["train", "--resume", "--out", str(run)]) == 0
    assert "step     10/10" in capsys.readouterr().out
    kinds = [
        json.loads(line)["kind"] for line in (run / "metrics.jsonl").open().readlines()
    ]
    assert kinds == ["start", "eval", "eval", "resume", "train", "eval", "final"]
    assert CheckpointStore(run / "checkpoints").steps() == [5, 6, 8, 10]
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    # The order of sums depends on jax and the number of threads.
    np.testing.assert_allclose(last["loss"], 1.98419, rtol=1e-2)
