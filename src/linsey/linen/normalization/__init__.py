"""Normalization layers: values of mean 0 and variance 1, then scaled and shifted.

They differ in the values that share a mean and a variance: those of one channel in a
batch (`BatchNorm`), of one example (`LayerNorm`, `RMSNorm`), of a group of channels of
one example (`GroupNorm`), or of one channel of one example (`InstanceNorm`). Only the
first keeps a state, for evaluation. `SpectralNorm` and `WeightNorm` normalize the
weights of another layer instead.
"""

from linsey.linen.normalization.batch import BatchNorm as BatchNorm
from linsey.linen.normalization.example import GroupNorm as GroupNorm
from linsey.linen.normalization.example import InstanceNorm as InstanceNorm
from linsey.linen.normalization.example import LayerNorm as LayerNorm
from linsey.linen.normalization.example import RMSNorm as RMSNorm
from linsey.linen.normalization.reparameterize import SpectralNorm as SpectralNorm
from linsey.linen.normalization.reparameterize import WeightNorm as WeightNorm
