"""Programs and tests of other people's packages, unedited: the same as on Flax.

Each program beside this file uses models of a package from the registry, with random
weights; some packages bring tests. They run twice, by `python` on Flax and by
`linsey run`, in processes of their own. What is not installed is skipped; `make
test-all` has all.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
try:
    import measure
finally:
    sys.path.pop(0)


def need(package: str) -> None:
    if measure.version(package) is None:
        pytest.skip(f"{package} is not installed")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("program", measure.PROGRAMS)
def test_a_program_gives_the_numbers_it_gives_on_flax(program):
    need(measure.PROGRAMS[program])
    expected, differences = measure.compare_program(program)
    assert not differences
    assert len(expected) > 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("package", measure.SUITES)
def test_tests_of_a_package_that_pass_on_flax_pass(package):
    need(package)
    expected, differences = measure.compare_suite(package)
    assert not differences
    assert len(expected) > 5


def test_the_table_of_packages_is_the_one_that_was_measured():
    page = measure.PAGE.read_text()
    command = "python tests/programs/measure.py --write"
    assert measure.with_table(page) == page, f"run: {command}"
