"""The public names are those of the original."""

from __future__ import annotations

import inspect
import operator
import pickle
import subprocess
import sys
from types import ModuleType

import pytest

import linsey.treex as tx

NAMES = """
Tree TreeMeta FlattenMode FieldInfo FieldMetadata copy Nothing NOTHING Missing MISSING
Hashable Opaque OpaquePredicate ArrayLike field node static KindMixin filter merge map
apply to_dict to_string compact in_compact add_field_info flatten_mode Copy ToString
ToDict Repr Filter Merge Map Apply Compact Extensions Treex Module ModuleMeta Filters
compact_module preserve_state next_key rng_key TreePart Parameter State Rng
MetricState ModelState BatchStat Cache OptState Log LossLog MetricLog Initializer
Inputs Named KeySeq Optimizer Loss Metric LossAndLogs BatchNorm Conv ConvTranspose
Dropout Embed Flatten FlaxModule GroupNorm HaikuModule Lambda LayerNorm Linear MLP
Sequential sequence losses metrics nn regularizers
""".split()
BESIDES = """Key iter_split initializers types utils module key_seq optimizer contexts
treex treeo from_linen to_linen""".split()


def test_a_star_import_brings_the_names_of_the_original():
    assert sorted(tx.__all__) == sorted(NAMES) and len(NAMES) == 85


@pytest.mark.parametrize("name", NAMES + BESIDES)
def test_every_name_is_there_and_documented(name):
    found = getattr(tx, name)
    if inspect.isclass(found) or inspect.isfunction(found):
        assert found.__doc__
    assert isinstance(found, ModuleType) or found is not None


def test_without_haiku_its_module_says_what_to_install():
    program = (
        "import sys; sys.modules['haiku'] = None\n"
        "import linsey.treex as tx\n"
        "try: tx.HaikuModule(lambda x: x)\n"
        "except ModuleNotFoundError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True,
                          capture_output=True, text=True)  # fmt: skip
    needed, _, install = done.stdout.splitlines()
    assert needed == "A function of Haiku needs `haiku`, which is not installed."
    assert install in (
        "Write `pip install dm-haiku`.",
        "Write `pip install '.[haiku]'`.",
    )


def test_import_of_the_object_face_is_light():
    program = "import sys, linsey.treex; print({'optax', 'haiku', 'rich', 'orbax'} & {*sys.modules})"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", program], check=True,
                          capture_output=True, text=True)  # fmt: skip
    assert done.stdout.strip() == "set()"


def test_names_of_submodules():
    assert set(tx.nn.__all__) >= {"GRU", "recurrent", "BatchNorm"}
    assert len(tx.losses.__all__) == 16 and len(tx.metrics.__all__) == 14
    assert tx.regularizers.__all__ == ["L1", "L2", "L1L2"]
    assert tx.types.EPSILON == 1e-7
    assert issubclass(tx.types.OptionalDependencyNotFound, Exception)


def test_bases_of_modules():
    names = [cls.__name__ for cls in tx.Module.__mro__]
    wanted = """Module Treex Tree Extensions Copy ToString ToDict Repr Filter Merge Map
    Apply Compact Filters""".split()
    assert [name for name in names if name in wanted] == wanted


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (tx.field, "default node kind default_factory init repr hash compare opaque"),
        (tx.KindMixin.static, "default default_factory init repr hash compare opaque"),
        (tx.filter, "obj filters inplace flatten_mode"),
        (tx.merge, "obj other rest inplace flatten_mode ignore_static"),
        (tx.map, "f obj filters inplace flatten_mode is_leaf field_info"),
        (tx.apply, "f obj rest inplace"),
        (tx.to_dict, "obj private_fields static_fields type_info field_info"),
        (tx.to_string, "obj private_fields static_fields color"),
        (tx.Module.init, "self key inputs call_method inplace _set_initialize"),
        (tx.Module.tabulate, "self inputs depth signature param_types"),
        (tx.Optimizer.update, "self grads params apply_updates"),
        (tx.Loss, "reduction weight on name"),
        (tx.Metric, "on name dtype"),
        (tx.LossAndLogs, "losses metrics aux_losses aux_metrics on name dtype"),
        (tx.metrics.Accuracy, "threshold num_classes average mdmc_average ignore_index "
         "top_k multiclass subset_accuracy compute_on_step dist_sync_on_step "
         "process_group dist_sync_fn mode on name dtype"),
    ],
)  # fmt: skip
def test_signatures(function, parameters):
    assert " ".join(inspect.signature(function).parameters) == parameters


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("kinds", "Parameter"),
        ("metrics.loss_and_logs", "LossAndLogs"),
        ("metrics.reduce", "metrics.Mean"),
        ("nn.conv", "Conv"),
        ("treeo.contexts", "FlattenMode"),
        ("losses.loss", "Loss"),
        ("losses.regression", "losses.Huber"),
        ("losses.crossentropy", "losses.Crossentropy"),
    ],
)
def test_pickles_find_classes_where_they_were(path, name):
    old = f"clinsey.treex.{path}\n{name.rpartition('.')[2]}\n.".encode()
    assert pickle.loads(old) is operator.attrgetter(name)(tx)
