"""Numerics: pure functions of arrays, for use with any library of modules.

What is listed here is what there is to call; the files behind it may change. Inputs
have the layout of the layers: examples first, channels last.
"""

from linsey.ops.attention import (
    attention_scores,
    combine_masks,
    make_attention_mask,
    make_causal_mask,
    mask_scores,
    softmax,
    weighted_values,
)
from linsey.ops.batch_norm import batch_norm, ema, renorm_schedule
from linsey.ops.conv import conv, conv_transpose
from linsey.ops.deferred import Deferred
from linsey.ops.dot import attend, dense, dense_general, lookup
from linsey.ops.dropout import dropout
from linsey.ops.fp8 import dequantize, fp8_scaled_dot_general, quantize
from linsey.ops.moments import Moments, merge_moments, moments
from linsey.ops.normalize import normalize
from linsey.ops.pool import avg_pool, max_pool, min_pool, pool
from linsey.ops.sequences import flip_sequences
from linsey.ops.spectral import spectral_norm

# A function hides the file of its name: `from linsey.ops.moments import ...` works, and
# `linsey.ops.moments` is the function.
__all__ = [
    "Deferred",
    "Moments",
    "attend",
    "attention_scores",
    "avg_pool",
    "batch_norm",
    "combine_masks",
    "conv",
    "conv_transpose",
    "dense",
    "dense_general",
    "dequantize",
    "dropout",
    "ema",
    "flip_sequences",
    "fp8_scaled_dot_general",
    "lookup",
    "make_attention_mask",
    "make_causal_mask",
    "mask_scores",
    "max_pool",
    "merge_moments",
    "min_pool",
    "moments",
    "normalize",
    "pool",
    "quantize",
    "renorm_schedule",
    "softmax",
    "spectral_norm",
    "weighted_values",
]
