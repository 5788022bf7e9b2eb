"""Recurrent networks: cells, which take one step, and layers, which scan them.

A *cell* maps `(carry, inputs)` to `(carry, outputs)` and makes the first carry with
`initialize_carry`. `RNN` scans a cell over time, `Bidirectional` runs two in opposite
directions.
"""

# ruff: noqa: F403 (programs also look here for what these files import)

import sys

from linsey.linen.recurrent.cells import *
from linsey.linen.recurrent.rnn import *

# Pickles of modules name the files of their classes; these were files once.
for _old in ("base", "bidirectional", "gated", "lstm"):
    _new = "rnn" if _old == "bidirectional" else "cells"
    sys.modules[f"{__name__}.{_old}"] = sys.modules[f"{__name__}.{_new}"]
