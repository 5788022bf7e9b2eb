"""Recurrent networks: cells, which take one step, and layers, which scan them.

A *cell* maps `(carry, inputs)` to `(carry, outputs)` and makes the first carry with
`initialize_carry`. `RNN` scans a cell over time, `Bidirectional` runs two in opposite
directions. `lstm`, `gated` and `conv` hold the cells, `base` what they share.
"""

from linsey.core.frozen_dict import FrozenDict
from linsey.linen.activation import sigmoid, tanh
from linsey.linen.dtypes import promote_dtype
from linsey.linen.initializers import zeros
from linsey.linen.linear import Conv, Dense, default_kernel_init
from linsey.linen.module import Module, compact, nowrap
from linsey.linen.recurrent.base import (
    A,
    Carry,
    CarryHistory,
    Output,
    RNNCellBase,
)
from linsey.linen.recurrent.bidirectional import Bidirectional, RNNBase
from linsey.linen.recurrent.conv import ConvLSTMCell
from linsey.linen.recurrent.gated import GRUCell, MGUCell, SimpleCell
from linsey.linen.recurrent.lstm import DenseParams, LSTMCell, OptimizedLSTMCell
from linsey.linen.recurrent.rnn import RNN
from linsey.ops.sequences import flip_sequences
from linsey.typing import (
    Array,
    Dtype,
    Initializer,
    InOutScanAxis,
    PrecisionLike,
    PRNGKey,
)

__all__ = [
    "A",
    "Array",
    "Bidirectional",
    "Carry",
    "CarryHistory",
    "Conv",
    "ConvLSTMCell",
    "Dense",
    "DenseParams",
    "Dtype",
    "FrozenDict",
    "GRUCell",
    "InOutScanAxis",
    "Initializer",
    "LSTMCell",
    "MGUCell",
    "Module",
    "OptimizedLSTMCell",
    "Output",
    "PRNGKey",
    "PrecisionLike",
    "RNN",
    "RNNBase",
    "RNNCellBase",
    "SimpleCell",
    "compact",
    "default_kernel_init",
    "flip_sequences",
    "nowrap",
    "promote_dtype",
    "sigmoid",
    "tanh",
    "zeros",
]
