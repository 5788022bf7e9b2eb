"""Recurrent networks: cells, which take one step, and layers, which scan them.

A *cell* maps `(carry, inputs)` to `(carry, outputs)` and makes the first carry with
`initialize_carry`. `RNN` scans a cell over time, `Bidirectional` runs two in opposite
directions.
"""

# ruff: noqa: F403 (each file lists the names that it offers)

import sys

from jax import Array as Array

from linsey.core.frozen_dict import FrozenDict as FrozenDict
from linsey.linen.activation import sigmoid as sigmoid
from linsey.linen.activation import tanh as tanh
from linsey.linen.dtypes import promote_dtype as promote_dtype
from linsey.linen.initializers import zeros as zeros
from linsey.linen.linear import Conv as Conv
from linsey.linen.linear import Dense as Dense
from linsey.linen.linear import default_kernel_init as default_kernel_init
from linsey.linen.module import Module as Module
from linsey.linen.module import compact as compact
from linsey.linen.module import nowrap as nowrap
from linsey.linen.recurrent.cells import *
from linsey.linen.recurrent.cells import DenseParams as DenseParams
from linsey.linen.recurrent.rnn import RNN as RNN
from linsey.linen.recurrent.rnn import Bidirectional as Bidirectional
from linsey.linen.recurrent.rnn import RNNBase as RNNBase
from linsey.ops.sequences import flip_sequences as flip_sequences
from linsey.typing import Dtype as Dtype
from linsey.typing import Initializer as Initializer
from linsey.typing import InOutScanAxis as InOutScanAxis
from linsey.typing import PrecisionLike as PrecisionLike
from linsey.typing import PRNGKey as PRNGKey

# Pickles of modules name the files of their classes; these were files once.
for _old in ("base", "bidirectional", "gated", "lstm"):
    _new = "rnn" if _old == "bidirectional" else "cells"
    sys.modules[f"{__name__}.{_old}"] = sys.modules[f"{__name__}.{_new}"]
