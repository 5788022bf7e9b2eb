"""A tree with every kind of leaf, and what is done to the files of a step."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import jax
import ml_dtypes
import numpy as np

from linsey.checkpoint import manifest

DATA = manifest.file_name(0, 1)


def make_tree(seed: int = 0) -> dict:
    random = np.random.default_rng(seed)
    return {
        "step": np.int32(seed),
        "params": {
            "Dense_0": {"kernel": random.standard_normal((3, 4), np.float32)},
            "half": random.standard_normal(5).astype(ml_dtypes.bfloat16),
            "complex": random.standard_normal(2).astype(np.complex64),
            "empty": np.zeros((0, 3), np.float32),
            "flag": np.array(True),
        },
        "batch_stats": {},
        "opt_state": {"0": {}, "1": {"count": np.zeros((), np.int32)}},
        "noise": np.array([1, 2**32 - 1], np.uint32),
        "not_finite": np.array([np.nan, np.inf, -0.0], np.float32),
    }


def assert_same_bits(found: dict, expected: dict) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        one, other = np.asarray(one), np.asarray(other)
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tobytes() == other.tobytes()


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flip(path: Path, position: float, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] ^= 1 << bit
    path.write_bytes(content)


def reseal(folder: Path, change: Callable[[dict], dict]) -> None:
    """Change what a manifest says, and let its own hash match."""
    path = folder / manifest.NAME
    record = json.loads(path.read_bytes())
    del record["sha256"]
    body = json.dumps(change(record)).encode().removesuffix(b"}")
    sha256 = hashlib.sha256(body).hexdigest().encode()
    path.write_bytes(body + b',\n "sha256": "' + sha256 + b'"\n}\n')
