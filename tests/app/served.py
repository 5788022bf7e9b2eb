"""Two small runs that the tests of prediction and export share."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from linsey.app import cli

COLUMNS = ("year", "size", "color, or none", "species")
COLORS = ("red", 'dark "blue"', "")
SPECIES = ("fire, wild", "water")


def table_rows(count: int = 60, seed: int = 0) -> list[dict[str, str]]:
    """Rows with a large mean, missing numbers, and text that is missing."""
    random, rows = np.random.default_rng(seed), []
    for index in range(count):
        kind = index % 2
        size = "" if index % 7 == 0 else f"{random.normal(4 * kind):.4f}"
        color = COLORS[(index // 2) % 3]
        values = (str(2015 + index % 9), size, color, SPECIES[kind])
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def write_table(path: Path, rows: list[dict[str, str]]) -> Path:
    with open(path, "x", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def pixels(kind: int, seed: int, size: int = 8) -> np.ndarray:
    """A noisy image, bright on one of two sides, in colors."""
    image = np.random.default_rng(seed).integers(0, 90, (size, size, 3))
    image[:, : size // 2] += 120 * kind
    image[:, size // 2 :] += 120 * (1 - kind)
    return image.astype("u1")


def train(folder: Path, data: Path, *options: object) -> Path:
    run = folder / "run"
    given = ("--data", data, *options, "--epochs", 2, "--out", run)
    assert cli.main(["train", *map(str, given)]) == 0
    return run


def train_on_table(folder: Path) -> Path:
    data = write_table(folder / "table.csv", table_rows())
    return train(
        folder, data, "--model", "mlp", "--width", 2, "--depth", 1,
        "--batch-size", 16, "--missing", "mean", "--target", "species",
    )  # fmt: skip


def train_on_images(folder: Path) -> Path:
    for kind, name in enumerate(("left, dark", "right")):
        (folder / "images" / name).mkdir(parents=True)
        for number in range(12):
            image = Image.fromarray(pixels(kind, 20 * kind + number))
            image.save(folder / "images" / name / f"{number}.png")
    return train(
        folder, folder / "images", "--model", "cnn", "--width", 4, "--depth", 1,
        "--batch-size", 8, "--image-size", 8, "--lr", 0.02,
    )  # fmt: skip
