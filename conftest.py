"""Set-up shared by every test: source doctests, documentation snippets, `tests/`.

The environment is fixed before anything imports jax: tests run on the CPU, with one
XLA thread per process, so that results do not depend on the number of cores and
parallel workers do not fight over them.

Most of the time of the tests is compilation, and most of their memory is compiled
programs. All processes of a run share one folder of these on disk, which is gone after
the run, and a worker whose memory grows lets go of those that it holds.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import gc
import inspect
import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("NPROC", "1")
for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_threads, "1")

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # else a worker, or a user's choice
    _programs = tempfile.mkdtemp(prefix="linsey-tests-")
    atexit.register(shutil.rmtree, _programs, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _programs
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402
from sybil import Sybil  # noqa: E402
from sybil.parsers.myst import PythonCodeBlockParser, SkipParser  # noqa: E402

import linsey.linen  # noqa: E402
from tests.loopback import forbid_other_networks  # noqa: E402

collect_ignore = ["docs/conf.py"]  # imports Sphinx, which tests do without

# Tests pass without a network, so none of them may use one.
forbid_other_networks()


def strictly(function):
    """Makes a function that runs where JAX promotes neither dtypes nor ranks."""

    @functools.wraps(function)
    def call(*args: object, **kwargs: object) -> object:
        with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
            return function(*args, **kwargs)

    return call


def layers(cls: type) -> Iterator[type]:
    """The classes of linsey under a class."""
    for subclass in cls.__subclasses__():
        if subclass.__module__.startswith("linsey."):
            yield subclass
        yield from layers(subclass)


# What a layer of linsey computes in a test, it computes under strict promotion: it
# promotes where it means to, by `linsey.promotion`, and nowhere else. The modules of a
# test and the oracles promote as they like. `tests/ops` does so with the face of `ops`.
for _name in dir(linsey.linen):
    getattr(linsey.linen, _name)  # imports what is imported when it is asked for
for _layer in layers(linsey.linen.Module):
    for _name, _method in list(vars(_layer).items()):
        if inspect.isfunction(_method) and (_name[0] != "_" or _name == "__call__"):
            setattr(_layer, _name, strictly(_method))

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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of the cases of a test that is marked `thinned(n)` only each n-th is fast.

    Cases that are slow by themselves do not count, so that some are always fast.
    """
    cases: Counter[str] = Counter()
    for item in items:
        if item.get_closest_marker("slow"):
            continue
        for marker in item.iter_markers("thinned"):
            name = item.nodeid.partition("[")[0]
            if cases[name] % marker.args[0]:
                item.add_marker("slow")
            cases[name] += 1


def pytest_make_parametrize_id(val: object) -> str | None:
    """Names cases by their text, without addresses, which differ between workers."""
    if isinstance(val, dict | list | tuple):
        return re.sub(r" at 0x[0-9a-f]+", "", str(val))
    return None


LARGE_WORKER = 2500  # MiB
ROOM = 600  # MiB for the programs of the next tests, where what is imported fills it
_large = LARGE_WORKER


def resident_memory() -> float:
    """The memory of this process in MiB, 0 where the system does not tell."""
    try:
        with open("/proc/self/statm") as pages:
            return int(pages.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return 0.0


def pytest_runtest_teardown(item: object, nextitem: object) -> None:
    """Lets go of compiled programs before a worker grows too large.

    PyTorch and the packages of other people's programs may fill a worker by themselves.
    It has room all the same: to let go after each test costs more than most tests.
    """
    global _large
    if "jax" in sys.modules and resident_memory() > _large:
        sys.modules["jax"].clear_caches()
        gc.collect()
        if sys.platform == "linux":
            # glibc keeps what is freed; `malloc_trim` gives it back to the system.
            getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: None)(0)
        _large = max(LARGE_WORKER, resident_memory() + ROOM)
