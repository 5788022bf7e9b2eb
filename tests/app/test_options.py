import pytest
from hypothesis import given
from hypothesis import strategies as st

from linsey.app.config import TrainConfig
from linsey.app.options import load_options, parse_train, save_config
from linsey.errors import InputError

TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1
)
POSITIVE = st.floats(min_value=0, exclude_min=True, allow_infinity=False)


@given(
    st.builds(
        TrainConfig,
        data=TEXT,
        classes=st.none() | st.integers(2, 100),
        lr=POSITIVE,
        compare_factors=st.lists(POSITIVE, min_size=1).map(tuple),
        seed=st.integers(0, 2**32 - 1),
        tensorboard=st.booleans(),
        norm=st.sampled_from(["batch", "none", "layer", "group"]),
    )
)
def test_load_of_save_is_identity(tmp_path_factory, config):
    path = tmp_path_factory.mktemp("config") / "config.toml"
    save_config(path, config)
    assert TrainConfig(**load_options(path)) == config


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("lr = 'fast'", "lr: value of another type: expected a number"),
        ("epochs = 1.5", "epochs: value of another type: expected an integer"),
        ("epochs = true", "epochs: value of another type"),
        ("norm = 'bath'", "norm: value of another type: expected one of batch, none"),
        ("compare-factors = 3", "compare-factors: value of another type: expected a"),
        ("epoch = 3", r"epoch: unknown option \(did you mean `epochs`\?\)"),
        ("zzz = 3", r"zzz: unknown option \(see linsey train --help\)"),
        ("lr = ", "not a TOML file"),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path, text, error):
    path = tmp_path / "options.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=error) as caught:
        load_options(path)
    assert str(caught.value).startswith(str(path))


def test_command_line_wins_over_file_over_defaults(tmp_path):
    path = tmp_path / "options.toml"
    path.write_text("lr = 1\n[model]\nmodel = 'mlp'\nweight-decay = 0.5\n")
    config = parse_train(["--config", str(path), "--model", "resnet"])
    assert (config.lr, config.model, config.weight_decay) == (1.0, "resnet", 0.5)
    assert config.epochs == TrainConfig().epochs


def test_place_of_a_run_is_not_read_from_a_file(tmp_path):
    path = tmp_path / "options.toml"
    path.write_text("out = 'elsewhere'")
    with pytest.raises(InputError, match="belong on the command line"):
        parse_train(["--config", str(path)])
