import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from linsey.app.config import OptimizerOptions
from linsey.app.optimizers import check_names, make_optimizer, make_schedule
from linsey.errors import InputError


@pytest.mark.parametrize("name", ["cosine", "constant", "step"])
def test_schedules_rise_to_the_peak_and_fall(name):
    options = OptimizerOptions(schedule=name, lr=0.8, epochs=10, warmup_epochs=2)
    schedule = make_schedule(options, steps_per_epoch=4)
    rates = [float(schedule(step)) for step in range(40)]
    assert 0 < rates[0] < rates[3] < rates[7] < rates[8] == pytest.approx(0.8)
    assert max(rates) == pytest.approx(0.8)
    last = {"cosine": 0.002, "constant": 0.8, "step": 0.008}[name]
    assert rates[-1] == pytest.approx(last, rel=0.5 if name == "cosine" else 1e-5)


def test_warm_up_is_shorter_than_the_run():
    options = OptimizerOptions(epochs=1, warmup_epochs=50, lr=1.0)
    assert float(make_schedule(options, 10)(9)) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_optimizers_decay_kernels_only_and_clip(name):
    options = OptimizerOptions(optimizer=name, lr=0.1, warmup_epochs=0, clip_norm=1.0,
                               weight_decay=0.5, schedule="constant")  # fmt: skip
    optimizer = make_optimizer(options, make_schedule(options, 1))
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    decays = name != "adam"
    assert (np.asarray(updates["kernel"]) < 0).all() == decays
    assert not np.asarray(updates["bias"]).any()
    huge = jax.tree.map(lambda p: 1e6 * jnp.ones_like(p), params)
    updates, _ = optimizer.update(huge, optimizer.init(params), params)
    assert max(float(abs(u).max()) for u in jax.tree.leaves(updates)) < 0.2


def options(**given) -> OptimizerOptions:
    return OptimizerOptions(warmup_epochs=0, **given)


PARAMS = {"kernel": jnp.full((2, 2), 0.5), "bias": jnp.ones(2)}
GRADS = jax.tree.map(lambda p: 0.3 * p + 0.1, PARAMS)


def first_updates(optimizer):
    return optimizer.update(GRADS, optimizer.init(PARAMS), PARAMS)[0]


@pytest.mark.parametrize(
    ("name", "texts", "expected"),
    [
        ("lion", ("b1=0.8", "weight_decay=0.1"),
         lambda rate: optax.lion(rate, b1=0.8, weight_decay=0.1)),
        ("rmsprop", ("decay=0.5", "centered=true"),
         lambda rate: optax.rmsprop(rate, decay=0.5, centered=True)),
        ("muon", (), optax.contrib.muon),
        # Takes a number, not a schedule.
        ("sm3", (), lambda rate: optax.sm3(0.1)),
    ],
)  # fmt: skip
def test_optimizers_of_optax_are_what_optax_has(name, texts, expected):
    given = options(
        optimizer=f"optax:{name}", optimizer_arg=texts, lr=0.1, schedule="constant"
    )
    found = make_optimizer(given, schedule := make_schedule(given, 4))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        first_updates(found), first_updates(expected(schedule)),
    )  # fmt: skip


def test_gradients_are_clipped_before_an_optimizer_of_optax():
    given = options(optimizer="optax:sgd", lr=1.0, schedule="constant", clip_norm=0.01)
    updates = first_updates(make_optimizer(given, make_schedule(given, 1)))
    assert float(optax.tree.norm(updates)) == pytest.approx(0.01, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "texts", "warmup", "expected"),
    [
        ("exponential_decay", ("decay_rate=0.1",), 0,
         optax.exponential_decay(0.4, 20, 0.1)),
        ("linear_schedule", ("end_value=0.1", "transition_steps=5"), 0,
         optax.linear_schedule(0.4, 0.1, 5)),
        ("warmup_cosine_decay_schedule", ("end_value=0.01",), 1,
         optax.warmup_cosine_decay_schedule(0.4 / 5, 0.4, 4, 20, 0.01)),
        ("cosine_onecycle_schedule", (), 1, optax.cosine_onecycle_schedule(20, 0.4)),
        ("piecewise_constant_schedule", ("boundaries_and_scales={7: 0.5}",), 0,
         optax.piecewise_constant_schedule(0.4, {7: 0.5})),
    ],
)  # fmt: skip
def test_schedules_of_optax_get_peak_and_length_of_the_run(
    name, texts, warmup, expected
):
    given = OptimizerOptions(
        schedule=f"optax:{name}", schedule_arg=texts, lr=0.4, epochs=5,
        warmup_epochs=warmup,
    )  # fmt: skip
    found = make_schedule(given, 4)
    for step in (0, 1, 6, 8, 19):
        assert float(found(step)) == pytest.approx(float(expected(step)), rel=1e-5)


def test_schedules_of_optax_without_a_rise_get_one():
    given = OptimizerOptions(
        schedule="optax:polynomial_schedule", lr=1.0, epochs=5, warmup_epochs=1,
        schedule_arg=("end_value=0.0", "power=2"),
    )  # fmt: skip
    found = make_schedule(given, 4)
    rates = [float(found(step)) for step in (0, 3, 4, 12)]
    np.testing.assert_allclose(rates, [0.2, 0.8, 1.0, 0.25], rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"optimizer": "adm"}, r"--optimizer: no such name: expected sgd, adam, adamw,"
         r" or optax:NAME of what optax has, found 'adm' \(did you mean adam\?\)"),
        ({"optimizer": "lion"}, r"found 'lion' \(did you mean optax:lion\?\)"),
        ({"optimizer": "optax:lino"}, r"found 'optax:lino' \(did you mean optax:lion"),
        ({"optimizer": "optax:lion", "optimizer_arg": ("b3=1",)},
         "optimizer-arg: optax:lion has no such argument: .*'b3' .did you mean b[12]"),
        ({"optimizer": "optax:lion", "optimizer_arg": ("b1",)},
         "--optimizer-arg: not an argument: expected NAME=VALUE, found b1"),
        ({"optimizer": "optax:lion", "optimizer_arg": ("b1=1", "b1=2")}, "there twice"),
        ({"optimizer": "optax:lion", "optimizer_arg": ("b1=high",)},
         r"--optimizer-arg: optax:lion\(b1='high'\) cannot be used: TypeError"),
        ({"optimizer": "optax:lion", "optimizer_arg": ("learning_rate=1",)},
         r"a learning rate of its own \(--lr and --schedule decide it\)"),
        ({"optimizer": "optax:lbfgs"}, r"optax:lbfgs\(\) cannot be used: .*missing 3"),
        ({"optimizer": "optax:dpsgd"}, "needs the arguments l2_norm_clip, noise"),
        ({"optimizer": "optax:lion", "weight_decay": 0.5},
         r"--weight-decay: not used by .*\(--optimizer-arg weight_decay=0.5, if"),
        ({"optimizer_arg": ("b1=1",)}, r"--optimizer-arg: nothing takes it: .*b1=1"),
        ({"schedule_arg": ("b1=1",)}, r"--schedule-arg: nothing takes it: .*b1=1"),
        ({"schedule": "cosin"}, r"--schedule: .*found 'cosin' \(did you mean cosine"),
        ({"schedule": "exponential_decay"}, r"did you mean optax:exponential_decay\?"),
        ({"schedule": "optax:exponential_decay"},
         r"needs the argument decay_rate \(--schedule-arg decay_rate=\.\.\.\)"),
        ({"schedule": "optax:cosine_decay_schedule", "schedule_arg": ("alpha=x",)},
         r"--schedule-arg: optax:cosine_decay_schedule\(alpha='x'\) cannot be used"),
    ],
)  # fmt: skip
def test_wrong_names_and_arguments_are_refused_in_a_line(given, error):
    with pytest.raises(InputError, match=error) as caught:
        check_names(options(**given))
    assert "\n" not in str(caught.value)


def test_the_line_that_a_refusal_suggests_works():
    given = options(schedule="optax:exponential_decay", lr=0.5)
    with pytest.raises(InputError):
        check_names(given)
    check_names(options(schedule="optax:exponential_decay",
                        schedule_arg=("decay_rate=0.1",)))  # fmt: skip
