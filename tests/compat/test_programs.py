"""The generator of Linen programs makes what it says, the same at every run.

`python -m tests.compat.programs` runs its programs on Flax and on linsey and compares.
"""

from __future__ import annotations

from pathlib import Path

import jax
import pytest

from tests.compat.programs.check import check
from tests.compat.programs.generate import program
from tests.compat.programs.known import KNOWN
from tests.compat.programs.outcome import FLAX, run
from tests.compat.programs.reduce import reduce

SEED = 62
DOCUMENT = Path(__file__).parents[2] / "docs" / "compatibility.md"


@pytest.fixture(autouse=True, scope="module")
def no_programs_stay():
    """Each program compiles its own; none is used by later tests."""
    yield
    jax.clear_caches()


def test_a_program_is_a_function_of_seed_and_index():
    sources = [program(SEED, index).source() for index in range(20)]
    assert sources == [program(SEED, index).source() for index in range(20)]
    assert len(set(sources)) == 20


def test_many_programs_run_to_their_end():
    programs = [program(SEED, index) for index in range(20)]
    runs = [run(one.source(), FLAX, one.shape, numeric=False) for one in programs]
    assert sum(one.error is None for one in runs) > 8


@pytest.mark.thinned(2)
# Layers of linsey promote nothing in tests (see `conftest.py`), which a program before
# these does not take.
@pytest.mark.parametrize("index", range(36, 96))
def test_programs_agree(index):
    result = check(SEED, index)
    assert result.kind != "disagrees", f"{result.cause}\n{result.detail}"


@pytest.mark.thinned(3)
@pytest.mark.parametrize("index", range(10))
def test_programs_agree_in_numbers(index):
    result = check(SEED, index, numeric=True)
    assert result.kind != "disagrees", f"{result.cause}\n{result.detail}"


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.row)
def test_what_is_left_out_has_a_row_in_the_document(known):
    assert f"\n| {known.row}" in DOCUMENT.read_text()


def test_a_program_is_shortened_as_long_as_it_shows_the_same():
    source = program(SEED, 3).source() + "seen.append(41)\n"
    assert reduce(source, lambda text: "seen.append(41)" in text) == "seen.append(41)\n"
