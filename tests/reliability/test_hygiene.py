"""What the command imports, prints and leaves when it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from linsey.app import metrics_log
from tests.app.runs import SMALL

HEAVY = ("jax", "jaxlib", "numpy", "optax", "PIL", "matplotlib", "orbax", "flax")
HELP = f"""
import sys
from linsey.app import cli
try:
    cli.main(sys.argv[1:])
except SystemExit as end:
    assert not end.code
sys.exit(str([name for name in {HEAVY} if name in sys.modules]))
"""


@pytest.mark.timeout(60)
@pytest.mark.parametrize("command", [["--help"], ["train", "--help"]])
def test_help_imports_nothing_that_computes(command):
    done = subprocess.run(
        [sys.executable, "-c", HELP, *command], capture_output=True, text=True
    )
    assert done.stderr == "['numpy']\n" if command[0] == "train" else "[]\n"
    assert "usage:" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_log_and_the_output_are_whole_after_a_kill(blobs, tmp_path):
    options = [*map(str, SMALL), "--epochs", "100000"]
    command = [sys.executable, "-m", "linsey", "train", "--data", str(blobs), *options]
    run = tmp_path / "run"
    process = subprocess.Popen(
        [*command, "--out", str(run)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    lines = [process.stdout.readline() for _ in range(12)]
    os.kill(process.pid, signal.SIGKILL)
    rest, err = process.communicate()
    out = b"".join(lines) + rest
    assert err == b"" and b"\x1b" not in out and b"\r" not in out
    kinds = [record["kind"] for record in metrics_log.read(run / "metrics.jsonl")]
    assert kinds[0] == "start" and "eval" in kinds
