"""PyTorch as the oracle: layers, networks, proofs, and where PyTorch is not at hand."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen as nn
from linsey.errors import MismatchError, UsageError
from linsey.weights import batch_norm_options, load, prove, record, to_torch
from tests.weights import nets
from tests.weights.test_prove import MISTAKES, planted

torch = pytest.importorskip("torch")
GUIDE = Path(__file__).parents[2] / "docs/guides/bringing_weights_along.md"
torch_nets = pytest.importorskip("tests.weights.torch_nets")
LARGEST = 1e-6  # about ten roundings in float32


def state_of(model) -> dict[str, np.ndarray]:
    return {name: array.numpy().copy() for name, array in model.state_dict().items()}


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def figures() -> dict[str, float]:
    """The differences that the guide states, by what is here."""
    table = GUIDE.read_text().split("<!-- layers:")[1].split("<!-- end -->")[0]
    rows = re.findall(r"^\| (`.*) \| .* \| (\S+) \|$", table, re.M)
    return {here: float(figure) for here, figure in rows}


def check_figure(name: str, ours, expected: np.ndarray) -> None:
    found = np.abs(np.asarray(ours) - expected).max() / np.abs(expected).max()
    print(f"{name}: {found:.1e}")  # which scripts/weights_table.py reads
    assert found < LARGEST


def to_channels_first(x: np.ndarray):
    return torch.tensor(np.moveaxis(x, -1, 1))


# The layer here as the guide names it, the layer there, the shape of the inputs.
LAYERS = {
    "`Dense`": (lambda: nn.Dense(4), lambda: torch.nn.Linear(3, 4), (2, 3)),
    "`Conv` of 1 axis": (
        lambda: nn.Conv(4, 3, padding="VALID"),
        lambda: torch.nn.Conv1d(3, 4, 3),
        (2, 7, 3),
    ),
    "`Conv` of 2 axes, strided and dilated": (
        lambda: nn.Conv(4, (3, 2), 2, ((1, 1), (1, 1)), kernel_dilation=2),
        lambda: torch.nn.Conv2d(3, 4, (3, 2), 2, 1, dilation=2),
        (2, 9, 9, 3),
    ),
    "`Conv` of 3 axes": (
        lambda: nn.Conv(4, (2, 3, 2), padding="VALID"),
        lambda: torch.nn.Conv3d(3, 4, (2, 3, 2)),
        (1, 4, 5, 4, 3),
    ),
    "`Conv` with groups": (
        lambda: nn.Conv(6, (3, 3), padding="VALID", feature_group_count=2),
        lambda: torch.nn.Conv2d(4, 6, 3, groups=2),
        (2, 5, 5, 4),
    ),
    "`Conv`, depthwise": (
        lambda: nn.Conv(8, (3, 3), padding="VALID", feature_group_count=4),
        lambda: torch.nn.Conv2d(4, 8, 3, groups=4),
        (2, 5, 5, 4),
    ),
    "`ConvTranspose`": (
        lambda: nn.ConvTranspose(4, (3, 3), (2, 2), ((1, 1), (1, 1))),
        lambda: torch.nn.ConvTranspose2d(3, 4, 3, 2, padding=1),
        (2, 5, 5, 3),
    ),
    "`ConvTranspose(transpose_kernel=True)`": (
        lambda: nn.ConvTranspose(4, (3, 2), (2, 2), "VALID", transpose_kernel=True),
        lambda: torch.nn.ConvTranspose2d(3, 4, (3, 2), 2),
        (2, 5, 5, 3),
    ),
    "`GroupNorm`": (
        lambda: nn.GroupNorm(2, epsilon=1e-5),
        lambda: torch.nn.GroupNorm(2, 4),
        (2, 5, 5, 4),
    ),
    "`LayerNorm`": (
        lambda: nn.LayerNorm(1e-5),
        lambda: torch.nn.LayerNorm(4),
        (2, 3, 4),
    ),
    "`RMSNorm`": (
        lambda: nn.RMSNorm(1e-5),
        lambda: torch.nn.RMSNorm(4, 1e-5),
        (2, 3, 4),
    ),
    "`BatchNorm`": (
        lambda: nn.BatchNorm(True, momentum=0.9),
        lambda: torch.nn.BatchNorm2d(4),
        (2, 5, 5, 4),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_with_loaded_weights_computes_what_pytorch_computes(name):
    make_ours, make_theirs, shape = LAYERS[name]
    ours, x = make_ours(), images(*shape)
    theirs = torch_nets.randomize(make_theirs()).eval()
    state = state_of(theirs)
    variables, report = load(ours, state, x)
    assert report.is_complete
    turned = len(shape) > 3 or name == "`Conv` of 1 axis"
    with torch.no_grad():
        expected = theirs(to_channels_first(x) if turned else torch.tensor(x)).numpy()
    expected = np.moveaxis(expected, 1, -1) if turned else expected
    check_figure(name, ours.apply(variables, x), expected)
    back = to_torch(ours, variables, x, like=state)
    assert all(back[key].tobytes() == state[key].tobytes() for key in state)


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn"])
def test_a_recurrent_layer_computes_what_pytorch_computes(name):
    cells = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "rnn": nn.SimpleCell}
    layers = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}
    ours = nn.Bidirectional(nn.RNN(cells[name](4)), nn.RNN(cells[name](4)))
    theirs = layers[name](3, 4, batch_first=True, bidirectional=True)
    theirs, x = torch_nets.randomize(theirs), images(2, 5, 3)
    state = state_of(theirs)
    variables, report = load(ours, state, x)
    assert report.is_complete
    with torch.no_grad():
        expected = theirs(torch.tensor(x))[0].numpy()
    label = f"`RNN({cells[name].__name__})`, in both directions"
    check_figure(label, ours.apply(variables, x), expected)
    back = to_torch(ours, variables, x, like=state)
    assert all(back[key].tobytes() == state[key].tobytes() for key in state)


def test_attention_computes_what_pytorch_computes():
    ours, x = nn.MultiHeadDotProductAttention(2), images(2, 3, 8)
    theirs = torch_nets.randomize(torch.nn.MultiheadAttention(8, 2, batch_first=True))
    variables, _ = load(ours, state_of(theirs), x)
    with torch.no_grad():
        inputs = torch.tensor(x)
        expected = theirs(inputs, inputs, inputs)[0].numpy()
    name = "`MultiHeadDotProductAttention`"
    check_figure(name, ours.apply(variables, x), expected)


def test_every_row_of_the_guide_is_measured():
    recurrent = ("LSTMCell", "GRUCell", "SimpleCell")
    measured = {f"`RNN({cell})`, in both directions" for cell in recurrent}
    assert figures().keys() == {*LAYERS, "`MultiHeadDotProductAttention`", *measured}
    assert max(figures().values()) < LARGEST


@pytest.mark.parametrize("net", nets.EXAMPLES)
def test_a_right_conversion_is_proved_in_both_precisions(net):
    theirs, x = torch_nets.randomize(torch_nets.PAIRS[net]()), nets.example(net)
    variables, report = load(net(), state_of(theirs), x)
    assert report.is_complete
    proof = prove((net(), variables), theirs, x)
    assert proof.is_equal, str(proof)
    print(f"{net.__name__}: {proof.largest.value:.1e}")
    with jax.enable_x64(True):
        wide = x.astype(np.float64)
        variables, _ = load(net(), state_of(theirs.double()), wide)
        proof = prove((net(), variables), theirs, wide)
    assert proof.tolerances["evaluation"] == 1e-9
    assert proof.is_equal and proof.largest.value < 1e-12, str(proof)


@pytest.mark.parametrize("kind", MISTAKES)
@pytest.mark.parametrize("net", nets.EXAMPLES)
def test_a_planted_mistake_against_pytorch_is_found_and_named(net, kind):
    theirs, x = torch_nets.randomize(torch_nets.PAIRS[net]()), nets.example(net)
    variables, _ = load(net(), state_of(theirs), x)
    model, wrong, layer = planted(net, kind, variables, x)
    proof = prove((model, wrong), theirs, x)
    assert {cause.kind for cause in proof.causes} == {kind}, str(proof)
    assert layer in {cause.layer for cause in proof.causes}
    if kind != "momentum inverted":
        assert proof.first.ours == layer


def test_a_record_serves_where_pytorch_is_not():
    theirs, x = torch_nets.randomize(torch_nets.Cnn()), nets.example(nets.Cnn)
    before = state_of(theirs)
    recorded = record(theirs, x)
    after = state_of(theirs)
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    assert theirs.training and all(isinstance(a, np.ndarray) for a in recorded.values())
    shuffled = dict(sorted(recorded.items(), reverse=True))  # as a file may have them
    variables, _ = load(nets.Cnn(), before, x)
    assert prove((nets.Cnn(), variables), shuffled, x).is_equal


def test_a_sequence_of_layers_is_matched_by_order_also_if_the_file_is_sorted():
    class Ours(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            for _ in range(3):
                x = nn.Dense(5)(x)
                x = nn.BatchNorm(not train, momentum=0.8, unbiased_variance=True)(x)
            return nn.Dense(5)(x)

    layers = []
    for _ in range(3):
        layers += [torch.nn.Linear(5, 5), torch_nets.norm(5), torch.nn.Identity()]
    theirs = torch.nn.Sequential(*layers, torch.nn.Identity(), torch.nn.Linear(5, 5))
    theirs, x = torch_nets.randomize(theirs), nets.example(nets.Mlp)
    state = state_of(theirs)
    for arrays in (state, dict(sorted(state.items()))):
        variables, report = load(Ours(), arrays, x)
        assert {match.by for match in report.matches} == {"order"}
        assert prove((Ours(), variables), theirs, x).is_equal


def test_an_activation_that_is_forgotten_is_named():
    class Ours(nets.Net):
        @nn.compact
        def __call__(self, x, train=False):
            x = self.norm(train, "bn1")(nn.Dense(8, name="fc1")(x))
            x = nn.relu(nn.Dense(8, name="fc2")(x))
            return nn.Dense(3, name="fc3")(x)

    theirs, x = torch_nets.randomize(torch_nets.Mlp()), nets.example(nets.Mlp)
    variables, _ = load(Ours(), state_of(theirs), x)
    proof = prove((Ours(), variables), theirs, x)
    (cause,) = proof.causes
    assert (cause.kind, cause.layer) == ("forgotten layer", "fc2")
    assert "`act1` (ReLU)" in cause.text


def test_a_flat_image_has_its_channels_first_in_pytorch():
    class Ours(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(4, (3, 3), name="conv")(x)
            return nn.Dense(2, name="fc")(x.reshape(len(x), -1))

    class Theirs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
            self.fc = torch.nn.Linear(4 * 5 * 5, 2)

        def forward(self, x):
            return self.fc(self.conv(x).flatten(1))

    theirs, x = torch_nets.randomize(Theirs()), images(2, 5, 5, 3)
    variables, _ = load(Ours(), state_of(theirs), x)
    (cause,) = prove((Ours(), variables), theirs, x).causes
    assert (cause.kind, cause.layer) == ("computation", "fc")
    assert "PyTorch has the channels first" in cause.text


def test_batch_norm_options_are_those_that_a_file_does_not_have():
    options = batch_norm_options(torch_nets.Cnn())
    assert options == {"momentum": 0.8, "epsilon": 1e-5, "unbiased_variance": True}
    theirs = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2, 1e-3))
    with pytest.raises(MismatchError) as caught:
        batch_norm_options(theirs)
    assert str(caught.value) == (
        "The batch norms differ: `0`: momentum 0.9, epsilon 1e-05; `1`: momentum 0.9, "
        "epsilon 0.001.\n"
        "One set of options cannot be that of all.\n"
        "Give each layer its own."
    )
    with pytest.raises(UsageError) as caught:
        batch_norm_options(torch.nn.Linear(2, 2))
    assert str(caught.value) == (
        "`Linear` has no layer with running statistics.\n"
        "Options are those of its batch norms.\n"
        "Leave the call out."
    )


def test_norms_of_timm_are_compared_before_the_activation_inside_of_them():
    class NormAct(torch.nn.BatchNorm1d):
        def __init__(self, channels):
            super().__init__(channels, momentum=0.2)
            self.drop, self.act = torch.nn.Identity(), torch.nn.ReLU(inplace=True)

        def forward(self, x):
            return self.act(self.drop(super().forward(x)))

    class Ours(nets.Net):
        @nn.compact
        def __call__(self, x, train=False):
            x = nn.relu(self.norm(train, "bn1")(nn.Dense(8, name="fc1")(x)))
            return nn.Dense(8, name="fc2")(x)

    layers = {"fc1": torch.nn.Linear(5, 8), "bn1": NormAct(8)}
    theirs = torch.nn.Sequential()
    for name, layer in {**layers, "fc2": torch.nn.Linear(8, 8)}.items():
        theirs.add_module(name, layer)
    theirs, x = torch_nets.randomize(theirs), nets.example(nets.Mlp)
    variables, _ = load(Ours(), state_of(theirs), x)
    proof = prove((Ours(), variables), theirs, x)
    assert proof.is_equal and "bn1" in {d.ours for d in proof.differences}, str(proof)


def test_a_transformer_of_pytorch_is_compared_layer_by_layer():
    class Encoder(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            y = nn.MultiHeadDotProductAttention(2, name="self_attn")(x)
            x = nn.LayerNorm(1e-5, name="norm1")(x + y)
            y = nn.Dense(8, name="linear2")(nn.relu(nn.Dense(6, name="linear1")(x)))
            return nn.LayerNorm(1e-5, name="norm2")(x + y)

    theirs = torch.nn.TransformerEncoderLayer(8, 2, 6, batch_first=True)
    theirs, x = torch_nets.randomize(theirs), images(2, 3, 8)
    variables, report = load(Encoder(), state_of(theirs), x)
    assert report.is_complete
    proof = prove((Encoder(), variables), theirs, x)
    compared = [d.ours for d in proof.differences if d.mode == "evaluation"]
    assert proof.is_equal and len(compared) == 6, str(proof)


def test_bfloat16_is_recorded_in_single_precision():
    theirs, x = torch.nn.Linear(3, 2).bfloat16(), images(4, 3)
    recorded = record(theirs, x)
    assert recorded["weights/weight"].dtype == np.float32
    kernel, bias = recorded["weights/weight"].T, recorded["weights/bias"]
    variables = {"params": {"kernel": kernel, "bias": bias}}
    model = nn.Dense(2, dtype=jnp.bfloat16)
    assert prove((model, variables), recorded, x).is_equal


@pytest.mark.parametrize("is_old", [False, True])
def test_weights_under_weight_norm_compute_what_pytorch_computes(is_old):
    utils = torch.nn.utils
    normed = utils.weight_norm if is_old else utils.parametrizations.weight_norm
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the old one is to go
        theirs = torch.nn.Sequential(
            normed(torch.nn.Conv2d(3, 4, 3, padding=1)),
            normed(torch.nn.ConvTranspose2d(4, 5, 3), dim=1),
            torch.nn.Flatten(),
            normed(torch.nn.Linear(320, 6), dim=None),
        )
        for parameter in theirs.parameters():
            torch.nn.init.normal_(parameter)

    class Ours(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(4, (3, 3))(x)
            x = nn.ConvTranspose(5, (3, 3), padding="VALID")(x)
            return nn.Dense(6)(x.transpose(0, 3, 1, 2).reshape(len(x), -1))

    state, x = state_of(theirs), images(2, 6, 6, 3)
    variables, report = load(Ours(), state, x)
    assert report.is_complete
    with torch.no_grad():  # which also lets the old kind be copied
        expected = theirs(to_channels_first(x)).numpy()
    found = Ours().apply(variables, x)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    assert prove((Ours(), variables), theirs, x).is_equal
    back = to_torch(Ours(), variables, x, like=state)
    assert [*back] == [*state]
    assert all(back[name].tobytes() == state[name].tobytes() for name in state)
