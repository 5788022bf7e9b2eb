"""The names of the package are what it offers, whatever was imported before."""

from __future__ import annotations

import importlib
import pkgutil

from linsey import batch_stats


def test_no_file_stands_in_the_place_of_what_it_offers():
    offered = {name for name in dir(batch_stats) if name[0].isalpha()}
    offered &= set(batch_stats._FILES)
    for info in pkgutil.iter_modules(batch_stats.__path__):
        importlib.import_module(f"linsey.batch_stats.{info.name}")
    assert offered == set(batch_stats._FILES)
    assert all(callable(getattr(batch_stats, name)) for name in offered)
