import jax.numpy as jnp
import optax
import pytest

from linsey import serialization
from linsey.app.config import OptimizerOptions
from linsey.app.optimizer_state import in_words
from linsey.app.optimizers import make_optimizer, make_schedule
from tests.app.runs import SMALL

PARAMS = {"Dense_0": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}


def words(optimizer):
    return in_words(serialization.to_state_dict(optimizer.init(PARAMS)))


@pytest.mark.parametrize(
    ("name", "clip", "expected"),
    [
        ("sgd", 0, {"momentum (1/0/trace)", "steps counted (1/1/count)"}),
        ("sgd", 1, {"momentum (2/0/trace)", "steps counted (2/1/count)"}),
        (
            "adam", 0,
            {"first moments (0/0/mu)", "second moments (0/0/nu)",
             "steps counted (0/0/count)", "steps counted (0/1/count)"},
        ),
        (
            "adamw", 0,
            {"first moments (0/0/mu)", "second moments (0/0/nu)",
             "steps counted (0/0/count)", "steps counted (0/2/count)"},
        ),
    ],
)  # fmt: skip
def test_optimizers_of_the_command_in_words(name, clip, expected):
    options = OptimizerOptions(optimizer=name, clip_norm=clip)
    found = words(make_optimizer(options, make_schedule(options, 1)))
    assert found.keys() == expected
    part = next(value for key, value in found.items() if "mom" in key)
    assert part["Dense_0"]["kernel"].shape == (2, 2)


def test_states_inside_of_states_say_whose_they_are():
    optimizer = optax.multi_transform(
        {"slow": optax.sgd(0.1, 0.9), "fast": optax.adam(0.1)},
        {"Dense_0": {"kernel": "slow", "bias": "fast"}},
    )
    found = words(optimizer)
    assert any(key.startswith("momentum of slow (") for key in found)
    assert any(key.startswith("first moments of fast (") for key in found)


def test_what_is_not_known_keeps_its_name():
    state = {"0": {"whatever": {"w": 1.0}}, "1": {}, "2": 3}
    assert in_words(state) == {"w of whatever (0/whatever/w)": 1.0, "2": 3}


def test_inspect_names_the_momentum(linsey, blobs):
    linsey("train", "--data", blobs, *SMALL, "--out", "run")
    text = linsey("inspect", "run").out
    assert "── momentum (1/0/trace)" in text
    assert "── steps counted (1/1/count) int32 ()" in text
    assert "── 1\n" not in text
