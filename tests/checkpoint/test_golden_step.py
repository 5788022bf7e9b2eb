"""A step in format 2, as it was written on the day of that format: read for ever.

`python -m tests.checkpoint.test_golden_step` wrote it. That of format 1 is part of
`golden_run.tar.gz`.
"""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest

from linsey.checkpoint import CheckpointStore, dtypes, flatten, open_checkpoint
from tests.checkpoint.steps import make_tree
from tests.reliability.figures import record

ARCHIVE = Path(__file__).with_name("golden_step.tar.gz")
DIGEST = "917450b2c4fc557223105044bc3395662f7893874e9a4a97ec69fe0d3be399ed"


def golden_tree() -> dict:
    every = {
        name: np.arange(6).reshape(2, 3).astype(dtypes._DTYPES[name])
        for name in [*dtypes.CODES, "complex128", "int4", "uint4", "float8_e4m3"]
    }
    return make_tree() | {"every": every, "a/b": {"~": np.zeros(())}}


def digest(arrays: dict) -> str:
    found = hashlib.sha256()
    for name, array in sorted(flatten(arrays).items()):
        found.update(f"{name} {array.dtype} {array.shape}".encode())
        found.update(np.asarray(array).tobytes())
    return found.hexdigest()


@pytest.mark.timeout(60)
def test_every_bit_of_an_old_step_is_the_one_that_was_written(tmp_path):
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    checkpoint = open_checkpoint(tmp_path / "step_00000042+1")
    assert (checkpoint.step, checkpoint.revision) == (42, 1)
    assert checkpoint.metadata == {
        "note": "golden",
        "losses": [0.5, 1e-3],
        "none": None,
    }
    assert str(checkpoint.arrays["every/int4"]) == "int4[2,3]"
    assert checkpoint.read()["batch_stats"] == {}
    assert digest(checkpoint.restore(golden_tree())) == DIGEST
    record("checkpoints of each format that was ever written", "2 of 2 formats")


if __name__ == "__main__":
    folder = Path(tempfile.mkdtemp())
    for note in ("first", "golden"):
        metadata = {"note": note, "losses": [0.5, 1e-3], "none": None}
        CheckpointStore(folder).save(42, golden_tree(), metadata, replace=True)
    with tarfile.open(ARCHIVE, "w:gz") as archive:
        archive.add(folder / "step_00000042+1", "step_00000042+1")
    print(digest(golden_tree()))
