"""Proofs: planted mistakes are found and named, and what is right gives no alarm."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen as nn
from linsey.checkpoint import flatten, nest
from linsey.errors import ArgumentTypeError, MismatchError
from linsey.weights import Difference, Proof, prove, record
from tests.weights import nets

SQUARE = {
    nets.Mlp: "fc2/kernel",
    nets.Cnn: "pointwise/kernel",
    nets.ResNet: "layer_1/conv2/kernel",
    nets.Attentive: "fc2/kernel",
}
LAST = {
    nets.Mlp: "fc3",
    nets.Cnn: "bn2",
    nets.ResNet: "layer_0/bn2",
    nets.Attentive: "ln",
}
MISTAKES = {
    "momentum inverted": "bn1",
    "epsilon": "bn1",
    "transposed kernel": "",
    "mean and variance exchanged": "bn1",
    "forgotten layer": "",
}


def planted(net: Any, kind: str, variables: Any, x: Any) -> tuple[Any, Any, str]:
    """A module and variables with a mistake, and the layer where it is."""
    model, flat = net(), dict(flatten(variables))
    layer = "layer_0/bn1" if net is nets.ResNet else "bn1"
    if kind == "momentum inverted":
        model = net(momentum=1 - model.momentum)
    elif kind == "epsilon":
        model = net(epsilon=1e-3)
    elif kind == "transposed kernel":
        path = f"params/{SQUARE[net]}"
        flat[path] = jnp.swapaxes(flat[path], -1, -2)
        layer = SQUARE[net].removesuffix("/kernel")
    elif kind == "mean and variance exchanged":
        mean, var = f"batch_stats/{layer}/mean", f"batch_stats/{layer}/var"
        # A variance is positive, also where it is by mistake.
        flat[mean], flat[var] = flat[var], flat[mean]
    elif kind == "forgotten layer":
        layer = LAST[net]
        initial = flatten(model.init(jax.random.key(7), x))
        flat |= {p: a for p, a in initial.items() if f"/{layer}/" in p}
    return model, nest(flat), layer


@functools.cache
def reference(net: Any) -> tuple[Any, Any, Any]:
    x = nets.example(net)
    variables = positive_means(nets.random_variables(net(), x))
    return variables, x, record((net(), variables), x)


def positive_means(variables: Any) -> Any:
    """So that a mean in place of a variance gives numbers."""
    flat = flatten(variables).items()
    return nest({p: abs(a) + 0.1 if p.endswith("mean") else a for p, a in flat})


@pytest.mark.thinned(6)
@pytest.mark.parametrize("kind", MISTAKES)
@pytest.mark.parametrize("net", nets.EXAMPLES)
def test_a_planted_mistake_is_found_and_named(net, kind):
    variables, x, recorded = reference(net)
    model, wrong, layer = planted(net, kind, variables, x)
    proof = prove((model, wrong), recorded, x)
    assert not proof.is_equal
    assert {cause.kind for cause in proof.causes} == {kind}
    assert layer in {cause.layer for cause in proof.causes}
    if kind != "momentum inverted":
        assert proof.first.ours == layer
    assert f"probably {kind}" in str(proof)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("net", nets.EXAMPLES)
def test_what_is_right_gives_no_alarm(net):
    variables, x, recorded = reference(net)
    proof = prove((net(), variables), recorded, x)
    assert proof.is_equal and proof.largest.value < 1e-6
    proof.raise_if_different()
    modes = {difference.mode for difference in proof.differences}
    assert modes == {"evaluation", "training", "statistics"}


def test_the_text_of_a_proof_names_the_first_layer_that_differs():
    variables, x, recorded = reference(nets.Mlp)
    model, wrong, _ = planted(nets.Mlp, "transposed kernel", variables, x)
    with pytest.raises(MismatchError) as caught:
        prove((model, wrong), recorded, x).raise_if_different()
    lines = str(caught.value).splitlines()
    assert lines[0] == "The models differ."
    assert lines[2].startswith("  they part at `fc2`, there `fc2`, by ")
    assert lines[-3:] == [
        "probably transposed kernel: `params/fc2/kernel` is theirs transposed by "
        "(1, 0)",
        "The variables are not those of the other model, or the module computes "
        "something else.",
        "Mend what is named above, and prove it again.",
    ]


def test_a_layer_without_arrays_that_is_forgotten_is_named():
    class Theirs(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(Squared(name="square")(nn.Dense(3)(x)))

    class Squared(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x * x

    x = np.ones((2, 3), np.float32)
    variables = nets.random_variables(Theirs(), x)
    proof = prove((Ours(), variables), (Theirs(), variables), x)
    (cause,) = proof.causes
    assert cause.kind == "forgotten layer" and "`square` (Squared)" in cause.text


class Ours(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.Dense(3)(x))


def test_a_layer_that_ours_does_not_have_is_named():
    class Theirs(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2, name="last")(Ours(name="ours")(x))

    x = np.ones((2, 3), np.float32)
    variables = nets.random_variables(Theirs(), x)
    inner = {"params": variables["params"]["ours"]}
    mapping = {"ours": ""}
    proof = prove((Ours(), inner), (Theirs(), variables), x, mapping=mapping)
    assert [(c.kind, c.layer) for c in proof.causes] == [("forgotten layer", "last")]


def test_the_variance_of_pytorch_is_told_from_that_of_flax():
    variables, x, recorded = reference(nets.Mlp)
    proof = prove((nets.Mlp(unbiased_variance=False), variables), recorded, x)
    assert [cause.kind for cause in proof.causes] == ["unbiased variance"]


def test_layers_that_are_called_twice_and_in_loops_are_compared_where_they_can_be():
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.Dense(3)
            x = nn.RNN(nn.GRUCell(3))(layer(layer(x)))
            return nn.remat(nn.Dense)(3, name="remat")(x)

    x = np.ones((2, 4, 3), np.float32)
    variables = nets.random_variables(Twice(), x)
    proof = prove((Twice(), variables), (Twice(), variables), x)
    names = [d.ours for d in proof.differences if d.mode == "evaluation"]
    assert names.count("Dense_0") == 2 and "remat" in names and proof.is_equal


def test_models_that_cannot_be_run_are_refused():
    x = np.ones((2, 3), np.float32)
    with pytest.raises(ArgumentTypeError) as caught:
        record(Ours(), x)
    assert str(caught.value) == (
        "A model of type `Ours` was given.\n"
        "What can be run is a `torch.nn.Module`, where torch is imported, or a pair of "
        "a Linen module and its variables.\n"
        "Write `(module, variables)`."
    )


def test_a_difference_that_rounding_explains_does_not_count():
    tolerances = {"evaluation": 1e-4, "training": 1e-3, "statistics": 1e-3}
    for rounding, is_equal in ((0.0, False), (1e-4, False), (1e-3, True)):
        found = Difference("training", "bn", "bn", 5e-3, rounding)
        assert Proof((found,), (), tolerances).is_equal is is_equal


def test_what_a_nudge_of_the_input_moves_is_measured_if_training_differs():
    class Model(nn.Module):
        slope: float = 1.0

        @nn.compact
        def __call__(self, x, train=False):
            x = nn.BatchNorm(not train, epsilon=1e-20, use_bias=False)(x)
            return x * self.slope if train else x

    # Values that are nearly the same: rounding is a part of their differences.
    x = (1 + 1e-6 * np.arange(8)[:, None]).astype(np.float32)
    variables = nets.random_variables(Model(), x)
    proof = prove((Model(), variables), (Model(1.01), variables), x)
    assert [d.rounding > 1e-2 for d in proof.differences if d.ours == "output"][1]
    assert proof.is_equal
    x = np.arange(8, dtype=np.float32)[:, None]
    proof = prove((Model(), variables), (Model(1.01), variables), x)
    assert proof.first.mode == "training" and not proof.is_equal


def test_records_of_results_alone_are_compared_by_names():
    variables, x, recorded = reference(nets.Mlp)
    results = {key: a for key, a in recorded.items() if key.startswith("evaluation")}
    model, wrong, layer = planted(nets.Mlp, "transposed kernel", variables, x)
    assert prove((nets.Mlp(), variables), results, x).is_equal
    proof = prove((model, wrong), results, x)
    assert proof.first.ours == layer and not proof.is_equal
    (cause,) = proof.causes
    assert (cause.kind, cause.layer) == ("computation", layer)
