"""What files brought along is shown, and neither commands a terminal nor marks up."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from linsey.app import page, terminal
from linsey.app.commands.inspect import _drawn
from linsey.app.progress import progress
from tests.app.runs import SMALL
from tests.reliability.figures import record

NAMES = ["[/b]", "[red]c", "\x1b[2Jx", ":smile:", "<script>", "a\u202eb", "\x9b5m"]
SHOWN = ["[/b]", "[red]c", r"\x1b[2Jx", ":smile:", "<script>", r"a\u202eb", r"\x9b5m"]


def test_tables_show_names_as_they_are(capsys):
    terminal.show_table(NAMES, [NAMES], title="[bold]\x1b[2J")
    out = capsys.readouterr().out
    for shown in (*SHOWN, r"[bold]\x1b[2J"):
        assert out.count(shown) >= (2 if shown in SHOWN else 1)
    assert out.replace("\n", "").isprintable()


def test_trees_show_names_as_they_are():
    tree = {name: {name: np.zeros((0, 2)), "w": np.ones(2)} for name in NAMES}
    out = io.StringIO()
    Console(file=out, width=120).print(_drawn("\x1b[1m[red]", tree))
    for shown in (*SHOWN, r"\x1b[1m[red]"):
        assert shown in out.getvalue()
    assert out.getvalue().replace("\n", "").isprintable()


@pytest.mark.parametrize("has_bar", [False, True])
def test_lines_show_names_as_they_are(has_bar, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: has_bar, raising=False)
    with progress(0, 1, plain=not has_bar) as shown:
        shown.begin_part("[/b]", 0)
        shown.say("\n".join(NAMES))
    terminal.warn("\x1b[2J[/b]")
    out, err = capsys.readouterr()
    for name in SHOWN:
        assert name in out
    assert err == "linsey: warning: \\x1b[2J[/b]\n"


def test_pages_show_names_as_they_are():
    content = page.page(
        "\x1b<b>",
        page.table(NAMES, [NAMES]),
        page.paragraph("\x07"),
        page.matrix(NAMES, [[1] * len(NAMES)] * len(NAMES)),
        page.figures([("data:", '"\x1b<b>', page.caption(*NAMES))]),
    )
    text = content.decode()
    assert "<script>" not in text and "&lt;script&gt;" in text
    assert text.replace("\n", "").isprintable()
    assert r"\x1b&lt;b&gt;" in text


@pytest.mark.timeout(120)
def test_a_run_on_classes_of_any_name(linsey, tmp_path):
    from PIL import Image

    for number, name in enumerate(("[red]c", "[b]", "\x1b[2J", "<i>&")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(5):
            color = 40 * number + index
            Image.new("L", (4, 4), color).save(
                tmp_path / "data" / name / f"{index}.png"
            )
    options = (*SMALL[:6], "--epochs", 1, "--batch-size", 16, "--image-size", 4)
    run = linsey("train", "--data", "data", "--out", "run", *options)
    assert run.code == 0, run.err
    found = linsey("eval", "run")
    for text in (run.out, found.out, linsey("inspect", "run").out):
        assert text.replace("\n", "").isprintable()
    for shown in ("[red]c", "[b]", r"\x1b[2J", "<i>&"):
        assert shown in found.out
    assert r"\x1b[2J" in (tmp_path / "run" / "report.html").read_text()
    record("names in the output", f"{len(NAMES)} of {len(NAMES)} names")
