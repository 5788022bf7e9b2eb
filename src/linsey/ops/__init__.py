"""Numerics: pure functions of arrays, for use with any library of modules.

The names listed here are the public interface; the files behind them may change. Inputs
have the layout of the layers: examples first, channels last.
"""

from linsey.ops.attention import attention_scores as attention_scores
from linsey.ops.attention import combine_masks as combine_masks
from linsey.ops.attention import make_attention_mask as make_attention_mask
from linsey.ops.attention import make_causal_mask as make_causal_mask
from linsey.ops.attention import mask_scores as mask_scores
from linsey.ops.attention import softmax as softmax
from linsey.ops.attention import weighted_values as weighted_values
from linsey.ops.batch_norm import batch_norm as batch_norm
from linsey.ops.batch_norm import ema as ema
from linsey.ops.batch_norm import renorm_schedule as renorm_schedule
from linsey.ops.conv import conv as conv
from linsey.ops.conv import conv_transpose as conv_transpose
from linsey.ops.deferred import Deferred as Deferred
from linsey.ops.dot import attend as attend
from linsey.ops.dot import dense as dense
from linsey.ops.dot import dense_general as dense_general
from linsey.ops.dot import lookup as lookup
from linsey.ops.dropout import dropout as dropout
from linsey.ops.fp8 import dequantize as dequantize
from linsey.ops.fp8 import fp8_scaled_dot_general as fp8_scaled_dot_general
from linsey.ops.fp8 import quantize as quantize
from linsey.ops.merging import merge_moments as merge_moments
from linsey.ops.moments import Moments as Moments
from linsey.ops.moments import moments as moments
from linsey.ops.normalize import normalize as normalize
from linsey.ops.pool import avg_pool as avg_pool
from linsey.ops.pool import max_pool as max_pool
from linsey.ops.pool import min_pool as min_pool
from linsey.ops.pool import pool as pool
from linsey.ops.sequences import flip_sequences as flip_sequences
from linsey.ops.spectral import spectral_norm as spectral_norm

# A function hides the file of its name: `from linsey.ops.moments import ...` works, but
# `linsey.ops.moments` is the function.
__all__ = sorted(name for name, value in globals().items() if callable(value))
