import dataclasses
from pathlib import Path

from linsey.app.config import TrainConfig, resolve


def test_digest_covers_what_decides_the_numbers_and_nothing_else():
    base = TrainConfig()
    for field in dataclasses.fields(TrainConfig):
        if isinstance(field.default, float | int) and type(field.default) is not bool:
            other = dataclasses.replace(base, **{field.name: field.default + 1})
            same = other.digest == base.digest
            assert same == (field.name in ("eval_every", "checkpoint_every", "keep",
                                           "log_every", "early_stopping",
                                           "image_memory", "step_timeout"))  # fmt: skip
    assert dataclasses.replace(base, out=Path("x"), resume=True).digest == base.digest


def test_resolved_data_do_not_depend_on_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve(TrainConfig(data="a.npz")).data == str(tmp_path / "a.npz")
    assert resolve(TrainConfig()).data == "digits"


def test_options_that_came_later_leave_the_digests_of_old_runs():
    """Checkpoints name the digest: these are from before there were such options."""
    old = "f46d1bbd6bbba6f1e344ecd7e5dac677a7c811af7f62395cd56eae882d032627"
    assert TrainConfig(batch_size=64).digest == old
    for changed in ({"skip_broken": True}, {"missing": "mean"}, {"target": "kind"}):
        assert TrainConfig(batch_size=64, **changed).digest != old
