"""Flags: three names each, one value, environment first, undone after use."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import linsey.config
from linsey.config import Config, config, static_bool_env, static_int_env
from linsey.configurations import FlagHolder, bool_flag, flax_profile, int_flag

DEFAULTS = {
    "filter_frames": True,
    "profile": True,
    "use_orbax_checkpointing": True,
    "preserve_adopted_names": False,
    "return_frozendict": False,
    "fix_rng_separator": False,
}


@pytest.mark.thinned(3)
@pytest.mark.parametrize("prefix", ["", "flax_", "linsey_"])
@pytest.mark.parametrize("name", DEFAULTS)
def test_every_name_of_a_flag_reads_and_sets_the_same_value(name, prefix):
    assert getattr(config, prefix + name) is DEFAULTS[name]
    with config.temp_flip_flag(prefix + name, "other"):
        assert getattr(config, name) == "other"
        assert getattr(config, "flax_" + name) == "other"
        assert getattr(config, "linsey_" + name) == "other"
        assert getattr(linsey.config, "flax_" + name) == "other"
    assert getattr(config, name) is DEFAULTS[name]


def test_a_flip_is_undone_after_an_error_and_nests():
    with pytest.raises(KeyError), config.temp_flip_flag("profile", False):
        with config.temp_flip_flag("flax_profile", True):
            assert config.profile is True
        assert config.profile is False
        raise KeyError
    assert config.profile is True


def test_update_lasts_and_takes_a_holder():
    try:
        config.update(flax_profile, False)
        assert config.profile is flax_profile.value is False
        linsey.config.update("profile", True)
        assert flax_profile.value is True
    finally:
        config.update("profile", True)


def test_unknown_flags_and_assignment_are_refused():
    with pytest.raises(LookupError, match="Unrecognized config option: nope. There"):
        config.update("nope", True)
    with pytest.raises(LookupError), config.temp_flip_flag("nope", True):
        pass
    with pytest.raises(AttributeError, match=r"config.update\('profile', False\)"):
        config.profile = False
    with pytest.raises(AttributeError):
        config.nope


def test_reading_is_a_plain_attribute():
    assert config.__dict__["flax_profile"] is config.profile
    assert "__getattribute__" not in vars(Config)


def test_text_lists_the_flags():
    lines = [f"  {name}={value}" for name, value in DEFAULTS.items()]
    assert repr(config).startswith("Config(\n" + ",\n".join(lines))


@pytest.mark.parametrize("text", ["y", "Yes", "t", "TRUE", "on", "1"])
def test_true_in_the_environment(text, monkeypatch):
    monkeypatch.setenv("SOME_FLAG", text)
    assert static_bool_env("SOME_FLAG", False) is True


@pytest.mark.parametrize("text", ["n", "No", "f", "FALSE", "off", "0"])
def test_false_in_the_environment(text, monkeypatch):
    monkeypatch.setenv("SOME_FLAG", text)
    assert static_bool_env("SOME_FLAG", True) is False


def test_wrong_values_in_the_environment_are_refused(monkeypatch):
    monkeypatch.setenv("SOME_FLAG", "maybe")
    with pytest.raises(ValueError, match="invalid truth value 'maybe' .* 'SOME_FLAG'"):
        static_bool_env("SOME_FLAG", True)
    with pytest.raises(ValueError, match="invalid integer value 'maybe'"):
        static_int_env("SOME_FLAG", 1)
    monkeypatch.setenv("SOME_FLAG", "12")
    assert static_int_env("SOME_FLAG", 1) == 12
    assert static_int_env("OTHER_FLAG", None) is None


def test_new_flags_can_be_defined_once(monkeypatch):
    monkeypatch.setenv("FLAX_TESTED", "0")
    monkeypatch.setenv("LINSEY_COUNTED", "7")
    names = list(config._names)
    try:
        assert bool_flag("flax_tested", default=True, help="x").value is False
        holder = int_flag("counted", default=None, help="Counts.")
        assert holder.value == config.counted == 7
        assert "Counts." in holder.__doc__
        with pytest.raises(RuntimeError, match="already defined"):
            bool_flag("tested", default=True, help="x")
    finally:
        config._names[:] = names


def test_a_holder_is_no_truth_value():
    with pytest.raises(TypeError, match="FlagHolder.value"):
        bool(FlagHolder("profile", ""))


@pytest.mark.parametrize(
    ("environment", "value"),
    [
        ({"FLAX_PROFILE": "0"}, "False"),
        ({"LINSEY_PROFILE": "0"}, "False"),
        ({"FLAX_PROFILE": "0", "LINSEY_PROFILE": "1"}, "True"),
    ],
)
def test_the_environment_sets_flags_and_ours_wins(environment, value):
    code = "from linsey.config import config; print(config.flax_profile)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == value
