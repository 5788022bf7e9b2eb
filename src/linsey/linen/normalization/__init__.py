"""Normalization layers: bring values to mean 0 and variance 1, then scale and shift.

They differ in which values share a mean and a variance: the values of one channel in a
batch (`BatchNorm`), of one example (`LayerNorm`, `RMSNorm`), of a group of channels of
one example (`GroupNorm`), or of one channel of one example (`InstanceNorm`). Only batch
norm keeps state, for evaluation. `SpectralNorm` and `WeightNorm` normalize the weights
of another layer instead.
"""

# ruff: noqa: F403 (each file lists the names that it offers)

from linsey.linen import dtypes as dtypes
from linsey.linen import initializers as initializers
from linsey.linen.module import Module as Module  # programs look for it here too
from linsey.linen.module import compact as compact
from linsey.linen.module import merge_param as merge_param
from linsey.linen.normalization.batch import BatchNorm as BatchNorm
from linsey.linen.normalization.example import *
from linsey.linen.normalization.reparameterize import *
