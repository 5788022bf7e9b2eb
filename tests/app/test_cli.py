import subprocess
import sys

import pytest

from linsey.app import cli
from linsey.app.commands import train
from linsey.extras import install_hint
from tests.app.runs import SMALL

NEVER_FOR_HELP = {"jax", "jaxlib", "optax", "orbax", "matplotlib", "flax", "PIL"}


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    code = f"""
import sys
from linsey.app import cli
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
    for name in ("train", "eval", "inspect", "summary"):
        assert f"  {name} " in result.out
    assert linsey().code == 2


def test_version(linsey):
    result = linsey("--version")
    assert (result.code, result.out.split()[0]) == (0, "linsey")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (
            ["fly"],
            "no such command: expected train, eval, inspect, convert, summary, run, "
            "found fly",
        ),
        (
            ["train", "--model", "vit"],
            "invalid choice 'vit' for argument '--model'. Expected one of "
            "('mlp', 'cnn', 'resnet') (linsey train --help)",
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
            "--lr: out of range: expected a positive number, found nan",
        ),
        (
            ["train", "--batch-size", "-1"],
            "--batch-size: out of range: expected at least 1, found -1",
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
            "no.toml: No such file or directory",
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
    assert result.out == ""
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
