"""`linsey run` and `linsey.compat`: programs that import Flax run on linsey."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import types

import flax.linen
import pytest

import linsey.linen
from linsey import compat

PROGRAM = """
import sys
import importlib.metadata
import flax, flax.linen as nn
import flax.core.frozen_dict
from flax import struct, traverse_util
from flax.training import train_state
from flax.linen.normalization import BatchNorm
import beside

assert flax.__version__ == importlib.metadata.version("flax")
assert flax.core is flax.core.frozen_dict or flax.core.FrozenDict
assert issubclass(train_state.TrainState, struct.PyTreeNode)
print(nn.Dense.__module__, BatchNorm.__module__.split(".")[0], __name__, sys.argv[1:])
raise SystemExit(beside.CODE)
"""


@pytest.fixture
def installed():
    compat.install()
    yield
    compat.uninstall()


def run(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "linsey", "run", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("how", ["script", "module"])
def test_a_program_runs_unedited(tmp_path, how):
    (tmp_path / "programs").mkdir()
    folder = tmp_path / "programs" if how == "script" else tmp_path
    (tmp_path / "programs" / "main.py").write_text(PROGRAM)
    (folder / "beside.py").write_text("CODE = 3")
    program = ["programs/main.py"] if how == "script" else ["-m", "programs.main"]
    done = run(tmp_path, *program, "--epochs", "1")
    assert done.stdout.split(maxsplit=3) == [
        "linsey.linen.linear.dense", "linsey", "__main__", "['--epochs', '1']\n",
    ], done.stderr  # fmt: skip
    assert done.returncode == 3


def test_an_exception_is_shown_from_the_program_on(tmp_path):
    (tmp_path / "main.py").write_text("import flax\nopen('nowhere')")
    done = run(tmp_path, "main.py")
    first, place, *_ = done.stderr.splitlines()
    assert first.startswith("Traceback")
    assert "main.py" in place
    assert done.stderr.splitlines()[-1].startswith("FileNotFoundError")
    assert done.returncode == 1


@pytest.mark.parametrize("program", [["nowhere.py"], ["-m", "no.where"], ["-m"]])
def test_a_program_that_is_not_there(linsey, program):
    result = linsey("run", *program)
    compat.uninstall()
    assert result.code == 2
    assert result.error


def test_nothing_is_active_unless_asked_for():
    assert not compat.is_installed()
    import flax as real

    assert real.linen is flax.linen
    assert real.linen.Dense is not linsey.linen.Dense


def test_the_modules_are_those_of_linsey(installed):
    import flax as ours
    import flax.linen.linear as linear

    assert ours.linen is linsey.linen
    assert linear.Dense is linsey.linen.Dense
    assert linsey.linen.__spec__.name == "linsey.linen"
    assert ours.__version__ == importlib.metadata.version("flax")


def test_a_second_install_does_nothing(installed):
    compat.install()
    compat.uninstall()
    assert not compat.is_installed()


def test_uninstall_brings_the_real_one_back():
    real = sys.modules["flax.linen"]
    version = importlib.metadata.version("flax")
    compat.install()
    assert sys.modules.get("flax.linen") is not real
    compat.uninstall()
    assert sys.modules["flax.linen"] is real
    assert importlib.metadata.version("flax") == version


def test_it_works_where_flax_is_not_installed(tmp_path):
    program = (
        "import sys, importlib.abc\n"
        "class Hide(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'flax': raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hide())\n"
        "import linsey.compat; linsey.compat.install()\n"
        "import flax.linen; print(flax.linen.__name__)\n"
        "linsey.compat.uninstall()\n"
        "try: import flax.linen\n"
        "except ModuleNotFoundError: print('gone')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert done.stdout.split() == ["linsey.linen", "gone"], done.stderr


@pytest.mark.parametrize(
    "statement",
    [
        "from flax import nnx",
        "import flax.nnx",
        "import flax.nnx.bridge",
        "import flax.treex",
        "import flax.app.cli",
        "from flax import ops",
        "import flax.no_such_module",
        "import flax.linen.no_such_module",
    ],
)
def test_what_is_not_offered_is_named(installed, statement):
    with pytest.raises(
        ImportError, match=r"linsey does not offer `flax\.\w+"
    ) as caught:
        exec(statement, {})
    assert caught.value.name in statement.replace("from flax import ", "flax.")


def test_an_attribute_that_is_not_there(installed):
    import flax as ours

    assert isinstance(ours, types.ModuleType)
    assert not hasattr(ours, "nnx")
    with pytest.raises(AttributeError, match=r"flax\.nnx"):
        ours.nnx  # noqa: B018
