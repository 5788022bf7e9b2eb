"""What a program may use after an import of Flax without importing it."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import linsey.compat
linsey.compat.install()
import flax.training.checkpoints
import jax, orbax
assert orbax.checkpoint.PyTreeCheckpointer and jax.experimental.multihost_utils
assert jax.experimental.pjit.pjit and jax.experimental.layout
linsey.compat.uninstall()
assert "__getattr__" not in vars(orbax)
"""


def test_submodules_that_flax_imports_are_attributes():
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-500:]


def test_what_is_not_there_is_missed_as_before():
    import linsey.compat

    linsey.compat.install()
    try:
        import jax.experimental

        with pytest.raises(AttributeError, match=r"'jax.experimental' has no"):
            _ = jax.experimental.no_such_module
    finally:
        linsey.compat.uninstall()
