"""What an import costs beyond `import jax`, each time in a new process.

An import is Python in one thread, from files that are cached: the clock is processor
time, so that other processes do not count.
Run with `python -m benchmarks.import_time`.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

from benchmarks import harness

# What each functional face is called.
MODULES = ("linsey.linen", "flax.linen", "haiku", "equinox")
PROGRAM = """
import time
import jax
start = time.process_time()
import {module}
print(time.process_time() - start)
"""


def seconds_to_import(module: str) -> float:
    """Measure the import of a module in a process that has imported jax."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(module=module)],
        check=True,
        capture_output=True,
        text=True,
        # An empty value lets Python keep its bytecode, as it does for users.
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "PYTHONDONTWRITEBYTECODE": "",
        },  # fmt: skip
    )
    return float(done.stdout)


def run(rounds: int) -> list[harness.Row]:
    """Time all modules, interleaved, after one round that fills the file caches."""
    times: dict[str, list[float]] = {}
    for module in MODULES:
        package = module.partition(".")[0]
        if importlib.util.find_spec(package) is None:
            harness.missing(module, ImportError(f"{package} is not installed"))
        else:
            times[module] = []
            seconds_to_import(module)
    for _ in range(rounds):
        for module, seconds in times.items():
            seconds.append(seconds_to_import(module))
    return [
        harness.summarise(
            "import, after jax",
            module,
            seconds,
            None,
            "<= 0.1 s" if module == "linsey.linen" else None,
        )
        for module, seconds in times.items()
    ]


if __name__ == "__main__":
    harness.main("import_time", "import beyond `import jax`", run, rounds=7)
