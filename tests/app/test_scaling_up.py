"""What the page Scaling up tells people to type, typed with one process."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from linsey.app.config import TrainConfig
from linsey.app.options import parse_train
from tests.app.runs import final

PAGE = (Path(__file__).parents[2] / "docs/guides/scaling_up.md").read_text()
TINY = 'model = "mlp"\nwidth = 2\ndepth = 1\nepochs = 1\n'
# What a launcher tells the only process that it starts.
LAUNCHERS = {
    "srun": {
        "SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "localhost", "SLURM_PROCID": "0",
        "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_LOCALID": "0",
    },
    "mpirun": {
        "OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0",
        "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    },
}  # fmt: skip


def lines() -> list[str]:
    """The lines of the page that call the command."""
    blocks = re.findall(r"```(?:bash|console)\n(.*?)```", PAGE, re.S)
    joined = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ") for line in joined if "linsey " in line]


def taken_apart(line: str) -> tuple[list[str], list[str]]:
    """What stands before `linsey`, and its arguments."""
    words = shlex.split(line)
    for word in words:
        if word.startswith("--command="):
            return words[:1], taken_apart(word.removeprefix("--command="))[1]
    place = words.index("linsey")
    return words[:place], words[place + 1 :]


def need_options(arguments: list[str]) -> None:
    """Skip lines whose options do not exist yet."""
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    for option in ("coordinator", "step_timeout"):
        name = "--" + option.replace("_", "-")
        if any(word.startswith(name) for word in arguments) and option not in known:
            pytest.skip(f"{name} is no option yet")
    launch = importlib.util.find_spec("linsey.app.commands.launch")
    if arguments[0] == "launch" and launch is None:
        pytest.skip("`linsey launch` is no command yet")


def alone(arguments: list[str], out: Path) -> list[str]:
    """The same arguments for one process on this machine."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{found.getsockname()[1]}"
    changed = " ".join(arguments)
    for pattern, value in {
        r"--out \S+": f"--out {out}",
        r"launch -n \d+": "launch -n 1",
        r"--coordinator=\S+": f"--coordinator={address}",
        r"--processes=\d+": "--processes=1",
        r"--rank=\d+": "--rank=0",
    }.items():
        changed = re.sub(pattern, value, changed)
    return changed.split()


def test_the_page_names_every_way_to_start():
    starts = {
        taken_apart(line)[0][0] if taken_apart(line)[0] else "" for line in lines()
    }
    assert starts == {"", "srun", "mpirun", "gcloud"}
    commands = {taken_apart(line)[1][0] for line in lines()}
    assert commands == {"train", "launch"}


@pytest.mark.parametrize("line", lines())
def test_options_of_the_page_are_those_of_the_command(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("photos.toml").write_text(re.search(r"```toml\n(.*?)```", PAGE, re.S)[1])
    _, arguments = taken_apart(line)
    need_options(arguments)
    options = arguments[arguments.index("train") + 1 :]
    config = parse_train(options)
    assert config.model == "resnet" and config.batch_size == 256
    assert config.shard_params == ("--shard-params" in options)


@pytest.mark.slow
@pytest.mark.parametrize("line", lines())
def test_lines_of_the_page_train_with_one_process(line, tmp_path):
    launcher, arguments = taken_apart(line)
    need_options(arguments)
    (tmp_path / "photos.toml").write_text(TINY)
    command = [sys.executable, "-m", "linsey", *alone(arguments, tmp_path / "run")]
    environment = LAUNCHERS.get(launcher[0], {}) if launcher else {}
    subprocess.run(
        command, check=True, cwd=tmp_path, env=os.environ | environment,
        stdout=subprocess.DEVNULL, timeout=120,
    )  # fmt: skip
    assert final(tmp_path / "run").step > 0
