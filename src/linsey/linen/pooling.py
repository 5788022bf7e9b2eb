"""Pooling layers. They have no parameters: they are functions of `linsey.ops.pool`."""

from __future__ import annotations

from linsey.ops.pool import avg_pool, max_pool, min_pool, pool

__all__ = ["avg_pool", "max_pool", "min_pool", "pool"]
