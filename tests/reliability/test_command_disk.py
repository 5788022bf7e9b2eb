"""A disk that refuses ends the command in one line, and nothing is lost by it."""

from __future__ import annotations

import contextlib
import io
import re
import resource
from pathlib import Path

import numpy as np
import pytest

from linsey.app import cli
from tests.reliability.figures import record
from tests.reliability.runs import OPTIONS, assert_one_history

POINTS = 50
LARGEST = 20_000  # bytes; every file of the run is smaller


@contextlib.contextmanager
def files_limited_to(size: int):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def run(*arguments: object) -> tuple[int, str]:
    """The exit code and the error; output goes to no file, whose size is limited."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = cli.main([*map(str, arguments)])
    return code, error.getvalue()


@pytest.mark.timeout(600)
def test_files_that_may_not_grow(whole, tmp_path, effort):
    """Refused at the options, the log, a checkpoint, the report; then there is room."""
    data = ("--data", whole.parent / "blobs.npz")
    points = round(POINTS * effort)
    refused: set[str] = set()
    for point, size in enumerate(np.geomspace(10, LARGEST, points + 2).astype(int)):
        out = tmp_path / f"run{point}"
        with files_limited_to(int(size)):
            code, error = run("train", *data, *OPTIONS, "--out", out)
        if code == 6:
            match = re.fullmatch(
                rf"linsey: error: {out}/(\S+): cannot \w+: File too large \(EFBIG\): "
                r"[\d,]+ bytes are needed, [\d,]+ are free\n",
                error,
            )
            assert match, error
            refused.add(re.sub(r"\d", "", Path(match[1]).parts[0]))
            again = (
                ("--resume",) if (out / "config.toml").exists() else (*data, *OPTIONS)
            )
            code, error = run("train", *again, "--out", out)
        assert (code, error) == (0, "")
        assert_one_history(out, whole)
    assert {"config.toml", "metrics.jsonl", "checkpoints"} - refused <= (
        set() if effort == 1 else {"config.toml", "metrics.jsonl"}
    )
    if effort == 1:
        record("the command meets a full disk", f"{points} of {points} points")
