"""The same bits on other cores, a fresh machine offline, and what saves cost."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from linsey.app.trainer import Trainer
from tests.app.runs import assert_same_run
from tests.reliability.figures import record

ROOT = Path(__file__).parents[2]
DEFAULT_STEPS = 660


def train(out: Path, cores: int, *options: object, **environment: str) -> None:
    """Train in a process that may use some of the cores."""
    chosen = ",".join(map(str, sorted(os.sched_getaffinity(0))[:cores]))
    variables = {key: value for key, value in os.environ.items() if key != "NPROC"}
    command = ["taskset", "-c", chosen, sys.executable, "-m", "linsey", "train"]
    done = subprocess.run(
        [*command, "--out", str(out), "--epochs", "2", *map(str, options)],
        env={**variables, **environment}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
@pytest.mark.skipif(shutil.which("taskset") is None, reason="needs taskset")
def test_same_bits_on_one_core_and_on_two(tmp_path):
    train(tmp_path / "one", 1, "--threads", 1)
    train(tmp_path / "two", 2, "--threads", 1)
    train(tmp_path / "variable", 2, NPROC="1")
    assert_same_run(tmp_path / "one", tmp_path / "two")
    assert_same_run(tmp_path / "one", tmp_path / "variable")
    train(tmp_path / "both", 2)
    train(tmp_path / "again", 2, "--threads", 2)
    assert_same_run(tmp_path / "both", tmp_path / "again")
    record("one core and two, with --threads 1", "the same bits")


def without_network() -> list[str]:
    """What runs a command where there is nothing but the loopback interface."""
    for unshare in (["unshare", "-n"], ["unshare", "-rn"]):
        try:
            if subprocess.run([*unshare, "true"], capture_output=True).returncode == 0:
                return unshare
        except FileNotFoundError:
            break
    pytest.skip("no network namespaces here")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fresh_machine_installs_from_the_lock_and_trains_offline(tmp_path):
    offline, python = without_network(), tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    start = time.monotonic()
    pip = [python, "-m", "pip", "install", "--quiet"]
    lock = ROOT / "requirements" / "train.txt"
    installed = subprocess.run(
        [*pip, "--require-hashes", "-r", lock], capture_output=True, text=True
    )
    if installed.returncode != 0:
        pytest.skip(f"the packages cannot be had here: {installed.stderr[-200:]}")
    own = [*pip, "--no-deps", "--no-build-isolation", ROOT]
    subprocess.run(own, check=True)
    install_time = time.monotonic() - start
    start = time.monotonic()
    variables = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(
        [*offline, tmp_path / "venv" / "bin" / "linsey", "train", "--out", "run"],
        cwd=tmp_path, env=variables, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = re.search(r"^test accuracy (\d\.\d+)", done.stdout, re.M)
    assert found and float(found[1]) >= 0.97
    train_time = time.monotonic() - start
    figure = (
        f"{install_time:.0f} s; {float(found[1]):.1%} in {train_time:.0f} s, offline"
    )
    record("a fresh machine installs and trains", figure)
    print(figure)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_goodput_with_a_save_every_50_steps(linsey, monkeypatch):
    """The part of the time of the default model that is not spent on saves."""
    spent = {"run": 0.0, "_save": 0.0}
    for name in spent:

        def timed(*arguments, function=getattr(Trainer, name), name=name):
            start = time.perf_counter()
            function(*arguments)
            spent[name] += time.perf_counter() - start

        monkeypatch.setattr(Trainer, name, timed)
    options = ("--checkpoint-every", 50, "--eval-every", DEFAULT_STEPS)
    assert linsey("train", *options, "--out", "run").code == 0
    goodput = 1 - spent["_save"] / spent["run"]
    figure = f"{goodput:.1%}; {spent['run']:.0f} s for {DEFAULT_STEPS} steps"
    record("goodput with a save every 50 steps", figure)
    print(figure)
    assert goodput >= 0.95
