"""Layers: the Linen layers as objects."""

import sys

from linsey.treex.nn import linear, recurrent
from linsey.treex.nn.dropout import Dropout
from linsey.treex.nn.flax_module import FlaxModule
from linsey.treex.nn.flow import MLP, Flatten, Lambda, Sequential, sequence
from linsey.treex.nn.haiku_module import HaikuModule
from linsey.treex.nn.linear import Conv, ConvTranspose, Embed, Linear
from linsey.treex.nn.norm import BatchNorm, GroupNorm, LayerNorm
from linsey.treex.nn.recurrent import GRU

__all__ = [
    "GRU",
    "MLP",
    "BatchNorm",
    "Conv",
    "ConvTranspose",
    "Dropout",
    "Embed",
    "Flatten",
    "FlaxModule",
    "GroupNorm",
    "HaikuModule",
    "Lambda",
    "LayerNorm",
    "Linear",
    "Sequential",
    "recurrent",
    "sequence",
]

# The convolutions used to be in a file of their own, which pickles name.
sys.modules[f"{__name__}.conv"] = linear
