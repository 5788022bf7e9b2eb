"""No reader lets anything out but what it read or one line about what is wrong."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.reliability import fuzz
from tests.reliability.figures import record

FEW, MANY, ALL = 250, 125_000, 1_000_000


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", fuzz.FUZZERS)
def test_readers_return_or_refuse(name, tmp_path):
    report = fuzz.run(name, FEW, seed=0, folder=tmp_path)
    assert not report.failures, report.failures[0]
    assert report.accepted and report.refused  # else the damage is too large or small


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_readers_return_or_refuse_a_million_inputs():
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "NPROC": "1"}
    count = max(MANY, -(-ALL // len(fuzz.FUZZERS)))
    told = []
    for name in fuzz.FUZZERS:
        command = [sys.executable, "-m", "tests.reliability.fuzz", "--reader", name]
        done = subprocess.run(
            [*command, "--count", str(count), "--seed", "1"],
            env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr[-3000:]
        told.append(done.stdout)
    print(*told, sep="")
    total = count * len(fuzz.FUZZERS)
    record("fuzzed readers", f"{total:,} inputs, 0 other errors, none over 2 s")


def test_the_same_seed_gives_the_same_inputs(tmp_path):
    fuzzer = fuzz.FUZZERS["config"](tmp_path)
    one, other = ([fuzzer.make(fuzz.Random(n)) for n in range(9)] for _ in range(2))
    assert one == other


def test_the_fuzzer_notices_another_error_and_too_long_a_time(tmp_path, monkeypatch):
    def read(content):
        raise KeyError("oh")

    fuzzer = fuzz.Fuzzer(lambda rng: b"", read)
    monkeypatch.setitem(fuzz.FUZZERS, "broken", lambda folder: fuzzer)
    assert "KeyError" in fuzz.run("broken", 1, 0, tmp_path).failures[0][1]
    monkeypatch.setattr(fuzz, "LIMIT_SECONDS", -1.0)
    monkeypatch.setitem(fuzz.FUZZERS, "slow", lambda _: fuzzer._replace(read=len))
    assert "took" in fuzz.run("slow", 1, 0, tmp_path).failures[0][1]
