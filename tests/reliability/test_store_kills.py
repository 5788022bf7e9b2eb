"""A writer that is killed loses nothing that it said to be saved."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability.figures import record


@pytest.mark.timeout(300)
def test_kill_storm(tmp_path, effort):
    trials = round(200 * effort)
    command = [sys.executable, "-m", "tests.reliability.kills", tmp_path, trials, 0]
    done = subprocess.run(
        list(map(str, command)),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith(f"{trials} of {trials}, "), done.stdout + done.stderr
    if effort == 1:
        record("a writer is killed at any instant", done.stdout.split(",")[0])
