"""What packages of the index do on Flax and on linsey, measured and put into a table.

`python tests/programs/measure.py` runs what is installed and keeps the counts in
`results.json`; with names of packages it runs these only. `--write` puts the counts of
that file into the table of `docs/compatibility.md`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

import numpy as np

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "compatibility.md"
RESULTS = HERE / "results.json"
START, END = (
    "<!-- packages: python tests/programs/measure.py --write -->",
    "<!-- end -->",
)

FLAX: list[str] = []
LINSEY = ["-m", "linsey", "run"]


class Suite(NamedTuple):
    """Tests that a package brings along.

    Attributes:
        files: their names, as the package lists them.
        without: a part of the names of tests that are left out, as for `pytest -k`.
    """

    files: tuple[str, ...]
    without: str = ""


# Programs beside this file, and the packages whose models they use.
PROGRAMS = {
    "brax_networks": "brax",
    "dopamine_networks": "dopamine-rl",
    "e3x_modules": "e3x",
    "evosax_networks": "evosax",
    "flaim_models": "flaim",
    "flaxmodels_zoo": "flaxmodels",
    "gated_linear_rnn": "flax-gated-linear-rnn",
    "hyper_nn_modules": "hyper-nn",
    "jax_models_zoo": "jax-models",
    "jax_resnet_step": "jax-resnet",
    "memorax_networks": "memorax",
    "nanodl_models": "nanodl",
    "netket_models": "netket",
    "numpyro_net": "numpyro",
    "ott_neural": "ott-jax",
    "rejax_networks": "rejax",
    "sbx_agents": "sbx-rl",
    "transformers_architectures": "transformers",
    "transformers_models": "transformers",
}
SUITES = {
    "aqtp": Suite(
        (
            "aqt/jax/v2/flax/aqt_flax_test.py",
            "aqt/jax/v2/flax/freezer_test.py",
            "aqt/jax/v2/flax/intercept/aqt_intercept_methods_test.py",
            "aqt/jax_legacy/jax/flax_layers_test.py",
            "aqt/jax_legacy/jax/get_bounds_test.py",
        )
    ),
    "bobbin": Suite(
        (
            "tests/cron_test.py",
            "tests/evaluation_test.py",
            "tests/tensorboard_test.py",
            "tests/training_test.py",
            "tests/var_util_test.py",
        )
    ),
    "clu": Suite(
        (
            "clu/metric_writers/utils_test.py",
            "clu/metrics_test.py",
            "clu/parameter_overview_test.py",
        )
    ),
    "scico": Suite(
        (
            "scico/test/flax/test_flax.py",
            "scico/test/flax/test_inv.py",
            "scico/test/flax/test_spectral.py",
            "scico/test/flax/test_traversal.py",
        )
    ),
}


def version(package: str) -> str | None:
    """The version that is installed, `None` if there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs Python without warnings and without a network."""
    settings = {
        **os.environ,
        "PYTHONWARNINGS": "ignore",
        "PYTHONPATH": str(HERE),
        "HF_HUB_OFFLINE": "1",
        "JAX_PLATFORMS": "cpu",
        # Packages have hundreds of programs to compile, and run each once.
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        **environment,
    }
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=settings
    )


def arrays(program: str, launcher: list[str], folder: Path) -> dict[str, np.ndarray]:
    """Runs a program, and reads what it saved."""
    result = folder / "result.npz"
    done = run([*launcher, str(HERE / f"{program}.py"), str(result)])
    assert done.returncode == 0, done.stderr
    return dict(np.load(result))


# Initial values of weight norm: a norm, taken in the program that draws what it is a
# norm of. Where XLA merges the two it rounds the last bits of both in another way.
NORMS = ("['weight_g']", "['weight_v']")


def difference(name: str, expected: np.ndarray, found: np.ndarray) -> str | None:
    """How two arrays differ, `None` if they are as equal as they should be."""
    if (found.dtype, found.shape) != (expected.dtype, expected.shape):
        return (
            f"{name}: {found.dtype}{found.shape}, not {expected.dtype}{expected.shape}"
        )
    # Initial values have the same bits; what is computed differs by rounding.
    initial = name.partition("[")[0].endswith(("init", "variables", "params"))
    tolerance = 0.0 if initial or expected.dtype.kind not in "fc" else 1e-5
    if initial and name.endswith(NORMS):
        tolerance = 2.0**-22
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    if np.allclose(found, expected, rtol=0, atol=tolerance * scale, equal_nan=True):
        return None
    return f"{name}: off by {np.abs(found - expected).max()}"


def compare_program(program: str) -> tuple[set[str], list[str]]:
    """The results of a program on Flax, and how those on linsey differ."""
    with tempfile.TemporaryDirectory() as folder:
        expected = arrays(program, FLAX, Path(folder))
        found = arrays(program, LINSEY, Path(folder))
    differences = [f"{name}: one has it" for name in expected.keys() ^ found.keys()]
    for name in expected.keys() & found.keys():
        said = difference(name, expected[name], found[name])
        differences += [said] if said else []
    return {name.partition("[")[0] for name in expected}, differences


def passed(package: str, launcher: list[str], folder: Path) -> set[str]:
    """Runs the tests of a package, and lists those that pass."""
    suite = SUITES[package]
    files = importlib.metadata.files(package) or []
    paths = [str(path.locate()) for path in files if str(path) in suite.files]
    report = folder / "report.xml"
    options = ["-p", "old_jax", "-p", "no:cacheprovider", "-q", "-W", "ignore"]
    options += ["--rootdir", str(folder), "-c", os.devnull, "--junitxml", str(report)]
    options += ["--import-mode", "importlib", "--continue-on-collection-errors"]
    if suite.without:
        options += ["-k", f"not ({suite.without})"]
    run([*launcher, "-m", "pytest", *options, *paths])
    cases = ElementTree.parse(report).iter("testcase")
    return {
        f"{case.get('classname')}.{case.get('name')}"
        for case in cases
        if not any(child.tag in ("failure", "error", "skipped") for child in case)
    }


def compare_suite(package: str) -> tuple[set[str], list[str]]:
    """The tests of a package that pass on Flax, and which of them fail on linsey."""
    with tempfile.TemporaryDirectory() as folder:
        expected = passed(package, FLAX, Path(folder))
        found = passed(package, LINSEY, Path(folder))
    return expected, sorted(expected - found)


def counts(expected: set[str], differences: list[str]) -> list[int]:
    """How many pass on Flax, and how many of them on linsey."""
    wrong = {said.partition("[")[0].partition(":")[0] for said in differences}
    return [len(expected), len(expected - wrong)]


def measure(names: list[str]) -> None:
    """Runs what is installed, all of it or some packages, and keeps the counts."""
    work = [(package, file, compare_program) for file, package in PROGRAMS.items()]
    work += [(package, package, compare_suite) for package in SUITES]
    for package, what, compare in work:
        installed = version(package)
        if installed is None or (names and package not in names):
            continue
        try:
            expected, differences = compare(what)
        except AssertionError as error:
            print(what, str(error)[-2000:])
            continue
        # Read again: others may measure other packages meanwhile.
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        results[what] = {
            "package": package,
            "version": installed,
            "kind": "tests" if package in SUITES else "models",
            "passes": counts(expected, differences),
        }
        print(what, results[what]["passes"], *differences[:20], sep="\n  ", flush=True)
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


def table() -> str:
    """The table of what was measured."""
    rows: dict[tuple[str, str, str], list[int]] = {}
    for result in json.loads(RESULTS.read_text()).values():
        key = (result["package"], result["version"], result["kind"])
        sums = rows.setdefault(key, [0, 0])
        rows[key] = [a + b for a, b in zip(sums, result["passes"], strict=True)]
    lines = [
        "| package | version | what runs | passes on Flax | passes on linsey |",
        "|---|---|---|---|---|",
    ]
    for (package, number, kind), (flax, linsey) in sorted(rows.items()):
        what = {"tests": "its own tests", "models": "results of its models"}[kind]
        lines.append(f"| {package} | {number} | {what} | {flax} | {linsey} |")
    return "\n".join(lines)


def with_table(page: str) -> str:
    """A page with the table between the two marks."""
    before, rest = page.split(START)
    return f"{before}{START}\n{table()}\n{END}{rest.partition(END)[2]}"


def main() -> None:
    """Measures, or writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages", nargs="*", help="packages to run, all if none")
    parser.add_argument("--write", action="store_true", help="write the table")
    options = parser.parse_args()
    if options.write:
        PAGE.write_text(with_table(PAGE.read_text()))
    else:
        measure(options.packages)


if __name__ == "__main__":
    main()
