from __future__ import annotations

import jax
import pytest

from linsey.ops.cpu import dispatch


@pytest.fixture
def small(monkeypatch):
    """Lets kernels compute arrays of any size."""
    for threshold in "LARGE_CONVOLUTION", "LARGE_SUMS", "LARGE_COMBINATION":
        monkeypatch.setattr(dispatch, threshold, 0)
    jax.clear_caches()
    yield
    jax.clear_caches()
