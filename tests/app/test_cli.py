import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

from linsey.app import cli, commands, exit_codes
from linsey.app.commands import train
from linsey.app.exit_codes import NotFiniteError
from linsey.app.stopping import Stopped
from linsey.errors import DiskError, InputError
from linsey.extras import install_hint
from tests.app.runs import SMALL

ROOT = Path(cli.__file__).parents[3]
NEVER_FOR_HELP = {"jax", "jaxlib", "optax", "orbax", "matplotlib", "flax", "PIL"}


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    code = f"""
import sys
from linsey.app import cli, exit_codes
try:
    cli.main({arguments!r})
except SystemExit as end:
    assert not end.code
print("HEAVY", sorted({NEVER_FOR_HELP!r} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "HEAVY []" in done.stdout


def test_overview_names_every_command(linsey):
    result = linsey("--help")
    assert result.code == 0
    modules = {module.name for module in pkgutil.iter_modules(commands.__path__)}
    shown = re.findall(r"^  ([a-z]+) ", result.out, re.M)
    assert set(shown) == modules == set(cli._COMMANDS)
    assert len(shown) == len(modules)
    guide = (ROOT / "docs/guides/command.md").read_text()
    assert set(re.findall(r"^\| `linsey ([a-z]+)", guide, re.M)) == modules
    assert linsey().code == 2


def test_exit_codes_are_told_in_the_help_and_in_the_guide(linsey):
    guide = (ROOT / "docs/guides/command.md").read_text()
    shown = linsey("--help").out
    for code, _ in exit_codes.TABLE:
        assert f"\n  {code:<11} " in shown
        assert f"\n| {code} | " in guide


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (InputError("wrong", file="a"), 2, "linsey: error: a: wrong\n"),
        (NotFiniteError("step 3"), 5, "linsey: error: step 3\n"),
        (
            DiskError(OSError(28, "No space left on device"), "a", free=7, needed=9),
            6,
            "linsey: error: a: cannot write: No space left on device (ENOSPC): "
            "9 bytes are needed, 7 are free\n",
        ),
        (OSError(5, "Input/output error", "b"), 6, "linsey: error: b: cannot write: "),
        (Stopped("SIGINT"), 75, ""),
    ],
)
def test_each_error_has_its_exit_code(linsey, monkeypatch, error, code, shown):
    def fail(arguments):
        raise error

    monkeypatch.setattr(cli, "_load", lambda name: fail)
    result = linsey("train")
    assert result.code == code
    assert result.err.startswith(shown)
    assert result.err.count("\n") <= 1


def test_what_is_unexpected_keeps_its_traceback(linsey, monkeypatch):
    monkeypatch.setattr(cli, "_load", lambda name: lambda arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # Python shows it, and exits with 1
        linsey("train")


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_version(linsey, option):
    result = linsey(option)
    assert (result.code, result.out.split()[0]) == (0, "linsey")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (
            ["fly"],
            "no such command: expected train, eval, predict, export, inspect, audit, "
            "recalibrate, fold, convert, new, summary, launch, run, found fly",
        ),
        (
            ["train", "--model", "vit"],
            "--model: no name of a model: expected mlp, cnn, resnet, one such as "
            "resnet50, FILE.py:NAME or package.module:NAME, found vit",
        ),
        (
            ["train", "--modle", "mlp"],
            "Unrecognized options: --modle, mlp; did you mean --model? "
            "(linsey train --help)",
        ),
        (
            ["train", "--lr", "0"],
            "--lr: out of range: expected a positive number, found 0.0",
        ),
        (
            ["train", "--lr", "nan"],
            "--lr: out of range: expected a finite number, found nan",
        ),
        (
            ["train", "--batch-size", "-1"],
            "--batch-size: out of range: expected 1 to 16,777,216, found -1",
        ),
        (
            ["train", "--resume"],
            "--resume: which run? (name its folder with --out)",
        ),
        (
            ["train", "--data", "nowhere.npz"],
            "{cwd}/nowhere.npz: --data: no such file or folder",
        ),
        (
            ["train", "--config", "no.toml"],
            "no.toml: no such file",
        ),
        (["eval", "nowhere"], "nowhere: no such folder"),
        (["inspect", "."], ".: no checkpoint in this folder"),
        (
            ["summary", "--model", "cnn", "--shape", "5"],
            "--model: a cnn needs images: expected examples (height, width, "
            "channels), found examples (5,) (use --model mlp)",
        ),
        (
            ["summary", "--depth", "4"],
            "--depth: more stages than the image can be halved: expected at most 3 "
            "for images of 8 x 8, found 4",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(linsey, tmp_path, arguments, error):
    result = linsey(*arguments)
    assert result.code == 2
    assert result.error == error.format(cwd=tmp_path)
    # What is about to be done is told before the data are looked for.
    assert result.out.count("\n") == (2 if "--data" in arguments else 0)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_with_the_line_that_installs_it(linsey, monkeypatch):
    def fail(name):
        raise ModuleNotFoundError("No module named 'tyro'", name="tyro")

    monkeypatch.setattr(cli.importlib, "import_module", fail)
    result = linsey("train")
    assert result.code == 2
    line = install_hint("train")
    assert " tyro" in line
    assert result.error == f"the command needs `tyro` ({line})"


def test_a_package_that_is_missed_later_is_named_in_one_line(
    linsey, blobs, monkeypatch
):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    result = linsey("train", "--data", blobs, *SMALL, "--tensorboard", "--out", "run")
    assert result.code == 2
    assert result.error == (
        "`SummaryWriter` needs `tensorboardX`, which is not installed. It comes with "
        "the packages of linsey's extra `tensorboard`. "
        f"Write `{install_hint('tensorboard')}`."
    )


def test_threads_after_jax_is_refused(linsey, monkeypatch):
    monkeypatch.setenv("NPROC", "2")
    train.set_threads(2)
    assert "too late" in linsey("train", "--threads", 3).error


def test_summary_counts_what_is_learned_and_what_is_kept(linsey):
    result = linsey("summary", "--model", "mlp", "--width", 2, "--shape", 5)
    assert result.code == 0
    lines = [line.split() for line in result.out.splitlines()]
    assert ["Dense_0", "Dense", "float32", "(64,", "8)", "40"] in lines
    assert ["BatchNorm_1", "BatchNorm", "float32", "(64,", "8)", "16", "16"] in lines
    assert lines[-1] == ["total", "226", "32"]


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["-V"]])
def test_closed_pipe_ends_quietly(arguments):
    """As `linsey --help | head -1`, whose reader is gone before all is written."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "linsey", *arguments],
        stdout=writing, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode in (0, 141)
