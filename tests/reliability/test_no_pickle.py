"""Nothing that linsey reads is unpickled, evaluated or imported by name."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import linsey
from tests.app.runs import SMALL, make_blobs
from tests.reliability.figures import record

SOURCE = Path(linsey.__file__).parent
CALLS = {"eval", "exec", "pickle.load", "pickle.loads", "pickle.Unpickler",
         "marshal.load", "marshal.loads", "yaml.load", "shelve.open",
         "joblib.load"}  # fmt: skip
# Methods that linsey writes for a class, and annotations in the source of a class.
OWN_CODE = {
    ("treex/treeo/flatten.py", "exec"),
    ("treex/treeo/static.py", "exec"),
    ("treex/treeo/fields.py", "eval"),
}


def calls(path: Path):
    """What a file calls, by the name that is written there, and `allow_pickle`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)
            for keyword in node.keywords:
                is_false = getattr(keyword.value, "value", None) is False
                if keyword.arg == "allow_pickle" and not is_false:
                    yield "allow_pickle"


def test_the_source_has_no_call_that_runs_what_it_reads():
    found = {
        (path.relative_to(SOURCE).as_posix(), name)
        for path in SOURCE.rglob("*.py")
        for name in calls(path)
        if name in CALLS or name == "allow_pickle" or name == "np.load"
    }
    assert found <= OWN_CODE


# The hook is there before anything is imported; packages that are imported may unpickle
# what they brought along, reading of files may not.
PROGRAM = """
import sys
found = []
sys.addaudithook(lambda e, a: found.append(a) if e == "pickle.find_class" else None)
from linsey.app import cli
data, out, *small = sys.argv[1:]
run = ["train", "--data", data, "--out", out, *small]
assert cli.main(run) == 0
assert cli.main([*run, "--resume"]) == 0
assert cli.main(["eval", out]) == 0
assert cli.main(["inspect", out]) == 0
print("unpickled:", found)
print("modules:", *{name.split(".")[0] for name in sys.modules})
"""


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> str:
    """What a process printed that trained, resumed, evaluated and inspected."""
    folder = tmp_path_factory.mktemp("session")
    x, y = make_blobs()
    np.savez(folder / "blobs.npz", x=x, y=y)
    arguments = [folder / "blobs.npz", folder / "run", *map(str, SMALL)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        capture_output=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@pytest.mark.timeout(150)
def test_nothing_is_unpickled(session):
    assert "\nunpickled: []\n" in session
    record("no pickle", "0 unpickled")


@pytest.mark.timeout(150)
def test_no_framework_is_imported_on_the_way(session):
    modules = set(session.partition("\nmodules: ")[2].split())
    assert "jax" in modules
    assert not modules & {"sklearn", "flax", "torch", "tensorflow", "orbax"}


@pytest.mark.timeout(150)
def test_what_goes_into_a_pipe_is_plain_text(session):
    assert "\x1b" not in session and "\r" not in session
    assert "test accuracy" in session
