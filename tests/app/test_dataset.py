import numpy as np
import pytest

from linsey.app.dataset import BatchOrder
from linsey.app.standardizer import Standardizer, StandardizerRecord
from linsey.errors import InputError
from linsey.schema import conform


def test_batches_from_a_step_are_the_rest_of_the_batches():
    whole = [indices.tolist() for indices in BatchOrder(10, 3, 7, 0, 9)]
    for first in range(9):
        rest = [indices.tolist() for indices in BatchOrder(10, 3, 7, first, 9)]
        assert rest == whole[first:]
    for epoch in range(3):
        seen = sum(whole[3 * epoch : 3 * epoch + 3], [])
        assert len(set(seen)) == 9


def test_standardized_training_part_has_mean_0_and_deviation_1():
    x = np.random.default_rng(0).normal(5, 3, (50, 4, 4, 2)).astype(np.float32)
    x[..., 1] = 7  # a channel that does not vary
    standardize = Standardizer.fit(x)
    z = standardize(x)
    np.testing.assert_allclose(z[..., 0].mean(), 0, atol=1e-6)
    np.testing.assert_allclose(z[..., 0].std(), 1, atol=1e-6)
    assert not z[..., 1].any()
    record = conform(standardize.to_json(), StandardizerRecord, file=None)
    again = Standardizer.from_record(record)
    assert again(x).tobytes() == z.tobytes()


def test_standardizer_does_not_overflow_on_large_integers():
    x = np.full((4, 2), 2**62, np.int64)
    x[0] = 0
    assert np.isfinite(Standardizer.fit(x)(x)).all()


def test_values_whose_variance_overflows_are_refused():
    with pytest.raises(InputError, match="too large"):
        Standardizer.fit(np.asarray([[1e308], [-1e308]]))
