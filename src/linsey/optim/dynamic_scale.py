"""Loss scaling, under the name that programs for `flax.optim` import."""

from __future__ import annotations

from linsey.training.dynamic_scale import DynamicScale, DynamicScaleResult

__all__ = ["DynamicScale", "DynamicScaleResult"]
