"""Set-up shared by every test: source doctests, documentation snippets, `tests/`.

The environment is fixed before anything imports jax: tests run on the CPU, with one
XLA thread per process, so that results do not depend on the number of cores and
parallel workers do not fight over them.
"""

from __future__ import annotations

import os
import re

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("NPROC", "1")
for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_threads, "1")

import hypothesis  # noqa: E402
from sybil import Sybil  # noqa: E402
from sybil.parsers.myst import PythonCodeBlockParser, SkipParser  # noqa: E402

# Runs are reproducible everywhere; compile times make deadlines meaningless.
hypothesis.settings.register_profile(
    "linsey", deadline=None, derandomize=True, max_examples=50, database=None
)
hypothesis.settings.load_profile("linsey")

# Every Python block of the README and the documentation is a test. A block that
# pytest should not run is preceded by `<!--- skip: next -->`.
pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=["README.md", "docs/**/*.md", "CONTRIBUTING.md"],
).pytest()


def pytest_make_parametrize_id(val: object) -> str | None:
    """Names cases by their text, without addresses, which differ between workers."""
    if isinstance(val, dict | list | tuple):
        return re.sub(r" at 0x[0-9a-f]+", "", str(val))
    return None
