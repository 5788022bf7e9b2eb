"""Nothing is reported as saved before it is on the disk: what the system sees."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reliability.figures import record

pytestmark = pytest.mark.timeout(120)

SAVE = """
import sys
from collections.abc import Iterator
from pathlib import Path
import numpy as np
from linsey.checkpoint import CheckpointStore
store = CheckpointStore(Path(sys.argv[1], "new", "checkpoints"))
store.save(1, {"w": np.arange(9.0)}, {})
print("saved", flush=True)
store.save(1, {"w": np.arange(9.0)}, {}, replace=True)
print("saved", flush=True)
"""
TRACED = "openat,mkdir,write,fsync,fdatasync,rename,renameat,renameat2"
OPENED = re.compile(r"openat\(.*O_CREAT.* = \d+<(.+)>$")
CALL = re.compile(r"(write|fsync|fdatasync)\(\d+<(.+?)>")
NAMED = re.compile(r"(mkdir|rename\w*)\((.*)\) = 0$")
RESUMED = re.compile(r"<\.\.\. \w+ resumed>(.*)")
NAMES = re.compile(r'"([^"]*)"')


def completed(log: str) -> Iterator[str]:
    """The calls, each when it returned; threads interrupt each other's lines."""
    begun: dict[str, str] = {}
    for line in log.splitlines():
        thread, _, line = line.partition(" ")
        if line.endswith("<unfinished ...>"):
            begun[thread] = line.strip().removesuffix("<unfinished ...>")
        elif resumed := RESUMED.search(line):
            yield begun.pop(thread) + resumed[1]
        else:
            yield line.strip()


def audit(trace: Iterator[str], folder: Path) -> int:
    """Count the reports; before each, all that was created or renamed was synced."""
    reports = 0
    open_ends: dict[str, str] = {}  # what has to be synced, and why

    def note(path: str, why: str) -> None:
        if Path(path).is_relative_to(folder):
            open_ends[path] = why
            open_ends[os.path.dirname(path)] = f"{why}: {path}"

    for line in trace:
        if '"saved' in line:
            reports += 1
            assert not open_ends, open_ends
        if opened := OPENED.match(line):
            note(opened[1], "created")
        elif call := CALL.match(line):
            kind, path = call.groups()
            if kind == "write" and Path(path).is_relative_to(folder):
                open_ends[path] = "written"
            elif kind != "write":
                open_ends.pop(path, None)
        elif named := NAMED.match(line):
            kind, (*_, path) = named[1], NAMES.findall(named[2])
            if kind == "mkdir":
                note(path, "created")
                continue
            source = NAMES.findall(named[2])[0]
            inside = [p for p in open_ends if Path(p).is_relative_to(source)]
            assert not inside, f"renamed before it was synced: {inside}"
            open_ends[os.path.dirname(path)] = f"renamed: {path}"
    return reports


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_everything_is_synced_before_it_is_reported(tmp_path):
    log = tmp_path / "trace"
    (tmp_path / "disk").mkdir()
    command = ["strace", "-f", "-y", "-s", "9", "-e", f"trace={TRACED}", "-o", log]
    done = subprocess.run(
        [*command, sys.executable, "-c", SAVE, tmp_path / "disk"],
        capture_output=True,
        text=True,
    )
    if "ptrace" in done.stderr or "Operation not permitted" in done.stderr:
        pytest.skip("strace may not look")
    assert done.returncode == 0, done.stderr
    assert audit(completed(log.read_text()), tmp_path / "disk") == 2
    record("strace of a save", "0 files and 0 names without fsync")
