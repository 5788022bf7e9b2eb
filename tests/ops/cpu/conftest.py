from __future__ import annotations

import jax
import pytest

from linsey.ops.cpu import dispatch


@pytest.fixture
def small(monkeypatch):
    """Lets kernels compute arrays of any size."""
    for threshold in "CONVOLUTION", "SUMS", "EXAMPLES", "COMBINATION":
        monkeypatch.setattr(dispatch, f"LARGE_{threshold}", 0)
    jax.clear_caches()
    yield
    jax.clear_caches()
