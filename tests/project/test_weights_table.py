"""The tables of the guide on weights are what the script writes, row by row."""

from __future__ import annotations

import re

import pytest

from tests.project.test_architecture import load_script

script = load_script("weights_table")


def test_figures_are_written_into_the_rows_of_their_table_alone():
    guide = script.GUIDE.read_text()
    names = script.rows(guide, "models")
    written = script.write(guide, "models", dict.fromkeys(names, "7.0e-09"))
    assert written.count("| 7.0e-09 |") == len(names) > 20
    assert script.part(written, "layers") == script.part(guide, "layers")
    with pytest.raises(SystemExit, match="rows and tests of models differ: .*`new`"):
        script.write(guide, "models", dict.fromkeys([*names, "`new`"], "7.0e-09"))


def test_every_architecture_has_a_row_with_a_figure_below_the_limit():
    pytest.importorskip("torch")
    from tests.models.test_torch import CASES

    guide = script.GUIDE.read_text()
    expected = {f"`{name}` of {library}" for library, name in CASES}
    assert script.rows(guide, "models") == expected
    figures = re.findall(r" (\S+) \|$", script.part(guide, "models"), re.M)
    assert 0 < max(float(figure) for figure in figures if figure[0].isdigit()) < 1e-4
