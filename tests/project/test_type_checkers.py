"""What type checkers see of linsey: right lines pass, wrong ones are reported.

`typed/right.py` holds lines as users write them. In `typed/wrong.py` each line that
means nothing ends in `# error`; every checker must report these lines and no other.
pyrefly is locked and always runs; mypy and basedpyright run where they are installed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "typed"
RIGHT, WRONG = FOLDER / "right.py", FOLDER / "wrong.py"
BIN = Path(sys.executable).parent

Finding = tuple[str, int, str]
"""The name of a file, a line, and what a checker reports there."""


def run(program: str, *arguments: str | Path, folder: Path) -> str:
    done = subprocess.run(
        [BIN / program, *arguments], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode in (0, 1), done.stderr  # 1 says that there are errors
    return done.stdout


def pyrefly(folder: Path) -> list[Finding]:
    found = json.loads(
        run(
            *("pyrefly", "check", "--output-format", "json"),
            *("--python-interpreter-path", sys.executable, RIGHT, WRONG),
            folder=folder,
        )
    )["errors"]
    return [
        (Path(error["path"]).name, error["line"], error["description"])
        for error in found
        if error["severity"] == "error"
    ]


def mypy(folder: Path) -> list[Finding]:
    """As strict as it can be; optax has no types for mypy."""
    text = run(
        *("mypy", "--strict", "--ignore-missing-imports", "--output", "json"),
        *("--config-file=", "--cache-dir", folder, "--python-executable"),
        *(sys.executable, RIGHT, WRONG),
        folder=folder,
    )
    found = map(json.loads, text.splitlines())
    return [
        (Path(error["file"]).name, error["line"], error["message"])
        for error in found
        if error["severity"] == "error" and error["code"] != "import-untyped"
    ]


def basedpyright(folder: Path) -> list[Finding]:
    """With the rule that a name must be exported by the module that offers it."""
    config = {
        "include": [str(FOLDER)],
        "pythonVersion": f"{sys.version_info.major}.{sys.version_info.minor}",
        "typeCheckingMode": "standard",
        "reportPrivateImportUsage": "error",
        "reportPrivateLocalImportUsage": "error",
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(config))
    text = run(
        *("basedpyright", "--outputjson", "--pythonpath", sys.executable),
        *("--project", folder),
        folder=folder,
    )
    found = json.loads(text)["generalDiagnostics"]
    return [
        (
            Path(error["file"]).name,
            error["range"]["start"]["line"] + 1,
            error["message"],
        )
        for error in found
        if error["severity"] == "error"
    ]


CHECKERS: dict[str, Callable[[Path], list[Finding]]] = {
    "pyrefly": pyrefly,
    "mypy": mypy,
    "basedpyright": basedpyright,
}
# mypy reads all of jax anew, which takes it ten seconds.
NAMES = ["pyrefly", pytest.param("mypy", marks=pytest.mark.slow), "basedpyright"]


@pytest.fixture(scope="module", params=NAMES)
def findings(request, tmp_path_factory) -> list[Finding]:
    name = request.param
    if not (BIN / name).exists():
        pytest.skip(f"{name} is not installed")
    return CHECKERS[name](tmp_path_factory.mktemp(name))


def test_right_lines_have_no_errors(findings):
    assert [error for error in findings if error[0] == RIGHT.name] == []


def test_exactly_the_wrong_lines_are_reported(findings):
    lines = enumerate(WRONG.read_text().splitlines(), 1)
    marked = {number for number, line in lines if line.endswith("  # error")}
    assert marked
    assert {line for file, line, _ in findings if file == WRONG.name} == marked
