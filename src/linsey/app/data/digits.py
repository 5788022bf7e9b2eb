"""The handwritten digits that ship with linsey (see NOTICE in this folder)."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from linsey.app.config import DataOptions
from linsey.app.data.dataset import Dataset, make_dataset

_FILE = Path(__file__).with_name("digits.csv.gz")


def load_digits(options: DataOptions) -> Dataset:
    """1797 grey images of 8 x 8 pixels, values 0 to 16, in 10 classes."""
    with gzip.open(_FILE) as file:
        table = np.loadtxt(file, np.uint8, delimiter=",")
    images, labels = table[:, :64].reshape(-1, 8, 8, 1), table[:, 64]
    return make_dataset("digits", (images, labels), None, options)
