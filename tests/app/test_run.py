"""`linsey run` and `linsey.compat`: programs that import Flax run on linsey."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pickle
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import flax.linen
import jax.numpy as jnp
import pytest

import linsey.linen
import linsey.treex
import linsey.typing
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

    assert ours.linen.Dense is linear.Dense is linsey.linen.Dense
    assert linear is ours.linen.linear
    assert linsey.linen.__spec__.name == linsey.linen.__name__ == "linsey.linen"
    assert (linear.__name__, linear.__spec__.name) == ("flax.linen.linear",) * 2
    assert linear.__file__ == linsey.linen.linear.__file__
    assert ours.core.meta is ours.linen.meta
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
        "import flax.linen; print(flax.linen.Dense.__module__)\n"
        "try: import flax.nnx\n"
        "except ModuleNotFoundError as e: print('Install' in str(e))\n"
        "linsey.compat.uninstall()\n"
        "try: import flax.linen\n"
        "except ModuleNotFoundError: print('gone')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    expected = ["linsey.linen.linear.dense", "True", "gone"]
    assert done.stdout.split() == expected, done.stderr


@pytest.mark.parametrize(
    "statement",
    [
        "import flax.treex",
        "import flax.app.cli",
        "from flax import ops",
        "import flax.no_such_module",
        "import flax.linen.no_such_module",
    ],
)
def test_what_is_not_offered_is_named(installed, statement):
    with pytest.raises(ModuleNotFoundError, match=r"linsey does not offer `flax\.\w+"):
        exec(statement, {})


def test_an_attribute_that_is_not_there(installed):
    import flax as ours
    import flax.linen as nn

    assert isinstance(ours, types.ModuleType)
    with pytest.raises(AttributeError, match=r"flax\.nowhere"):
        ours.nowhere  # noqa: B018
    with pytest.raises(
        AttributeError, match=r"'flax.linen' has no attribute 'nothing'"
    ):
        nn.nothing  # noqa: B018
    assert not hasattr(ours, "ops")
    assert "ops" not in dir(ours)


def test_nnx_is_the_real_one_beside_linen(tmp_path):
    program = """
        import pickle, sys

        import flax.linen as nn
        import jax.numpy as jnp
        from flax import nnx

        assert nnx is sys.modules["flax.nnx"]
        assert nnx.Linear.__module__ == "flax.nnx.nn.linear"
        assert nn.Dense.__module__ == "linsey.linen.linear.dense"
        layer = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
        assert nnx.state(layer)["kernel"].shape == (2, 3)
        assert pickle.loads(pickle.dumps(nnx.Linear)) is nnx.Linear
        # Modules of linsey run inside of the real bridge.
        wrapped = nnx.bridge.ToNNX(nn.Dense(3), rngs=nnx.Rngs(0))
        print(wrapped.lazy_init(jnp.ones((1, 2)))(jnp.ones((4, 2))).shape)
    """
    (tmp_path / "main.py").write_text(textwrap.dedent(program))
    done = run(tmp_path, "main.py")
    assert done.stdout == "(4, 3)\n", done.stderr


def test_nnx_that_was_imported_before_is_not_run_again(tmp_path):
    program = """
        import flax.nnx as before

        from linsey import compat

        compat.install()
        from flax import nnx

        assert nnx is before and nnx.bridge is before.bridge
        import flax.linen

        print(flax.linen.Dense.__module__)
    """
    (tmp_path / "main.py").write_text(textwrap.dedent(program))
    command = [sys.executable, str(tmp_path / "main.py")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "linsey.linen.linear.dense\n", done.stderr


def test_treex_is_served_too(installed):
    import treeo
    import treex as tx
    from treex.utils import _check_rejit

    assert tx.Linear is linsey.treex.Linear
    assert treeo.Tree is tx.Tree is linsey.treex.Tree
    assert callable(_check_rejit)
    assert importlib.metadata.version("treex") == tx.__version__ == "0.6.12"
    assert tx.treeo is sys.modules["treex.treeo"]


def test_metadata_and_files_are_answered(installed):
    import flax as ours

    distribution = importlib.metadata.distribution("Flax")
    assert distribution.metadata["Name"] == "flax"
    assert distribution.version == ours.version.__version__ == compat.FLAX_VERSION
    assert any(line.startswith("jax") for line in distribution.requires or [])
    files = importlib.metadata.files("flax") or []
    assert {"flax/__init__.py", "flax/linen/module/base.py"} <= set(map(str, files))
    assert all(file.locate().exists() for file in files[:5])
    assert Path(ours.__file__) == Path(linsey.__file__)
    assert list(ours.__path__) == list(linsey.__path__)
    assert importlib.util.find_spec("flax.linen").origin == linsey.linen.__file__


def test_star_and_borrowed_names(installed):
    names: dict[str, object] = {}
    exec("from flax.linen import *", names)
    assert names["Dense"] is linsey.linen.Dense
    exec("from flax.linen.normalization import Array, Axes, jnp, lax", names)
    exec("from flax.linen.transforms import Module, functools", names)
    assert names["jnp"] is jnp
    assert names["Array"] is linsey.typing.Array
    assert names["Module"] is linsey.linen.Module


CHILDREN = """
import multiprocessing, subprocess, sys

def where(_):
    import flax.linen
    return flax.linen.Dense.__module__

if __name__ == "__main__":
    import flax.linen, jax
    from flax.linen.normalization import _l2_normalize
    jax.tree_leaves([1])
    jax.tree_leaves([1])
    hasattr(flax.linen, "nowhere")
    from flax import nnx
    nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    assert nnx.Module.__module__ == "flax.nnx.module"
    assert flax.linen.Module.__module__ == "linsey.linen.module.base"
    print(flax.linen.Conv.__name__, flax.nnx is nnx)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(*pool.map(where, [1]))
    line = "import flax.linen as nn, sys; print(nn.Dense.__module__, sys.of_the_site)"
    print(subprocess.check_output([sys.executable, "-c", line], text=True))
"""


@pytest.mark.slow
def test_children_nnx_report_and_old_jax(tmp_path, monkeypatch):
    (tmp_path / "main.py").write_text(CHILDREN)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import sys; sys.of_the_site = 1"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=os.pathsep)
    done = run(tmp_path, "--old-jax", "--report", "main.py")
    dense = "linsey.linen.linear.dense"
    assert done.stdout.split() == ["Conv", "True", dense, dense, "1"], done.stderr
    lines = done.stderr.splitlines()
    assert sum("JAX has removed `jax.tree_leaves`" in line for line in lines) == 1
    report = lines[lines.index("linsey run: 3 names of Flax and treex used.") :]
    assert report[1] == "  flax.linen: Conv, Module"
    assert any("_l2_normalize (also used by" in line for line in report)
    assert "  flax.linen: nowhere" in report
    assert report[-1] == "  jax.tree_leaves: jax.tree.leaves"


@pytest.mark.slow
def test_pytest_runs_on_linsey_and_misuse_warns(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import flax.linen as nn, jax, jax.numpy as jnp, pytest\n"
        "def test_one_row():\n"
        "    norm, x = nn.BatchNorm(use_running_average=False), jnp.ones((1, 3))\n"
        "    variables = norm.init(jax.random.key(0), x)\n"
        "    step = lambda x: norm.apply(variables, x, mutable=['batch_stats'])[0]\n"
        "    with pytest.warns(UserWarning, match='one value per channel'):\n"
        "        assert jax.eval_shape(step, x).shape == (1, 3)\n"
    )
    arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = run(tmp_path, *arguments)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
    done = run(tmp_path, "--misuse=error", *arguments)
    assert done.returncode == 1
    assert "SingleValuePerChannelError" in done.stdout


@pytest.mark.parametrize("options", [["--nothing"], ["--misuse", "loud"], ["--misuse"]])
def test_options_that_are_not_there(linsey, options):
    result = linsey("run", *options, "main.py")
    assert result.code == 2
    assert options[0] in result.error


def test_help_lists_the_options(linsey):
    result = linsey("run", "--help")
    assert result.code == 0
    for option in ("--old-jax", "--report", "--misuse", "-m"):
        assert option in result.out


def test_pickles_refer_to_modules_of_an_alias(installed):
    import flax.linen as nn

    data = pickle.dumps(nn)
    assert pickle.loads(data) is nn
    compat.uninstall()
    assert pickle.loads(data) is linsey.linen
