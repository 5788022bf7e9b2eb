import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from linsey.checkpoint import open_checkpoint
from linsey.errors import InputError
from tests.checkpoint.steps import assert_same_bits, files_of, flip, make_tree


def test_restore_of_save_is_identity(store):
    checkpoint = store.newest()
    assert checkpoint.step == 7
    assert checkpoint.metadata == {"note": 0.1}
    assert_same_bits(checkpoint.restore(make_tree(seed=1)), make_tree())


def test_template_may_be_abstract(store):
    template = jax.eval_shape(lambda: jax.tree.map(jax.numpy.asarray, make_tree()))
    assert_same_bits(store.newest().restore(template), make_tree())


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.floats(0, 1, exclude_max=True),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 7),
)
def test_any_flipped_bit_is_refused(store, which, position, bit):
    files = [path for path in files_of(store.path(7)) if path.stat().st_size]
    path = files[int(which * len(files))]
    flip(path, position, bit)
    try:
        with pytest.raises(InputError) as caught:
            store.newest()
        assert str(path) in str(caught.value)
        assert "no older step is intact" in str(caught.value)
    finally:
        flip(path, position, bit)
    assert store.newest().step == 7


def test_every_difference_from_the_template_is_listed(store):
    template = make_tree()
    template["params"]["Dense_0"]["kernel"] = np.zeros((3, 5), np.float32)
    template["params"]["flag"] = np.zeros((), np.int32)
    template["params"]["new"] = np.zeros(2, np.float32)
    del template["noise"]
    with pytest.raises(InputError) as caught:
        store.newest().restore(template)
    assert str(caught.value) == (
        f"{store.path(7)}: checkpoint of another model: "
        "`params/Dense_0/kernel` is float32[3,4], not float32[3,5]; "
        "`params/flag` is bool[], not int32[]; "
        "`params/new` is missing; `noise` is not expected "
        "(use the options the checkpoint was written with)"
    )


def test_save_does_not_replace_a_step(store):
    with pytest.raises(OSError):
        store.save(7, make_tree(3), {})
    assert_same_bits(store.newest().restore(make_tree()), make_tree())


def test_open_needs_a_folder_and_a_known_step(store, tmp_path):
    with pytest.raises(InputError, match="no such checkpoint"):
        open_checkpoint(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"no such step: expected one of \[7\]"):
        store.open(3)
