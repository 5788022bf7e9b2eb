"""Where a CPU computes in another way than XLA, and what users read where it cannot."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from linsey.extras import install_hint
from linsey.ops.cpu import dispatch


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(dispatch, "_installed", lambda: True)


def test_kernels_need_a_cpu_and_arrays_on_one_device(monkeypatch, installed):
    assert dispatch.kernels_usable()
    monkeypatch.setattr(dispatch.jax, "device_count", lambda: 2)
    assert not dispatch.kernels_usable() and not dispatch.is_whole()
    monkeypatch.undo()
    monkeypatch.setattr(dispatch.jax, "default_backend", lambda: "gpu")
    assert not dispatch.kernels_usable() and not dispatch.on_cpu()


def test_kernels_are_not_used_under_a_mesh(installed):
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((1,), ("data",), axis_types=auto)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        assert not dispatch.is_whole()


def test_the_number_of_threads_is_what_xla_is_told(monkeypatch):
    monkeypatch.setenv("NPROC", "7")
    dispatch.threads.cache_clear()
    assert dispatch.threads() == 7
    monkeypatch.delenv("NPROC")
    dispatch.threads.cache_clear()
    assert dispatch.threads() >= 1


def test_the_environment_switches_kernels_off(monkeypatch):
    dispatch._installed.cache_clear()
    monkeypatch.setenv(dispatch.SWITCH, "0")
    assert not dispatch.kernels_usable()
    dispatch._installed.cache_clear()


def test_the_warning_says_what_to_do():
    assert str(dispatch.KernelsUnavailableWarning("OSError: full.")) == (
        "linsey's kernels for CPUs cannot be used, XLA computes instead: "
        "OSError: full. Install the versions that the kernels know, "
        f"`{install_hint('cpu')}`, or set LINSEY_KERNELS=0 to do without kernels."
    )


def test_channels_are_summed_by_a_kernel_if_they_are_last_and_fill_vectors():
    if not dispatch.kernels_usable():
        pytest.skip("needs numba and Linux")
    x = jax.ShapeDtypeStruct((64, 32, 64), jnp.float32)
    assert dispatch.takes_channels(x, (0, 1))
    assert not dispatch.takes_channels(x, (1, 2))
    assert not dispatch.takes_channels(x, (0,))
    half = jax.ShapeDtypeStruct(x.shape, jnp.bfloat16)
    assert not dispatch.takes_channels(half, (0, 1))
    odd = jax.ShapeDtypeStruct((64, 32, 63), jnp.float32)
    assert not dispatch.takes_channels(odd, (0, 1))
    assert dispatch.channel_lanes((0, 64)) is None
