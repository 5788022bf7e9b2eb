"""Recurrent networks: cells, which compute one step, and layers, which scan them.

A *cell* maps `(carry, inputs)` to `(carry, outputs)` and creates the first carry with
`initialize_carry`. `RNN` scans a cell over time, and `Bidirectional` runs two layers in
opposite directions.
"""

# ruff: noqa: F403 (programs also look here for names that these files import)

import sys

from linsey.linen.recurrent.cells import *
from linsey.linen.recurrent.rnn import *

# Pickles of modules name the files of their classes; these used to be files.
for _old in ("base", "bidirectional", "gated", "lstm"):
    _new = "rnn" if _old == "bidirectional" else "cells"
    sys.modules[f"{__name__}.{_old}"] = sys.modules[f"{__name__}.{_new}"]
