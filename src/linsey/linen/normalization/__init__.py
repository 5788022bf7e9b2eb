"""Normalization layers: values of mean 0 and variance 1, then scaled and shifted.

They differ in the values that share a mean and a variance: those of one channel in a
batch (`BatchNorm`), of one example (`LayerNorm`, `RMSNorm`), of a group of channels of
one example (`GroupNorm`), or of one channel of one example (`InstanceNorm`). Only the
first keeps a state, for evaluation. `SpectralNorm` and `WeightNorm` normalize the
weights of another layer instead.
"""

from linsey.linen.normalization.batch import BatchNorm
from linsey.linen.normalization.group import GroupNorm, InstanceNorm
from linsey.linen.normalization.layer import LayerNorm, RMSNorm
from linsey.linen.normalization.spectral import SpectralNorm
from linsey.linen.normalization.weight import WeightNorm

__all__ = [
    "BatchNorm",
    "GroupNorm",
    "InstanceNorm",
    "LayerNorm",
    "RMSNorm",
    "SpectralNorm",
    "WeightNorm",
]
