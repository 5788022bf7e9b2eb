"""Private names of Flax and treex that real programs use, and their adapters.

Only the aliases offer them: `flax.linen.normalization._compute_stats` exists under
`linsey run`, and `linsey.linen.normalization` stays clean. Their behaviour was learned
by calling them and from programs that call them; each row names some such programs.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple


class PrivateName(NamedTuple):
    """A private name.

    Attributes:
        name: the module and the name, as programs write it.
        adapter: the file in `linsey.compat.adapters` and the name in it; or the full
            name of an object that linsey has anyway.
        used_by: public programs that use it.
    """

    name: str
    adapter: str
    used_by: str


def _rows(module: str, file: str, used_by: str, names: str) -> list[PrivateName]:
    """Make rows whose adapters are named like the private name, without underscore."""
    pairs = [pair.partition("=")[::2] for pair in names.split()]
    return [
        PrivateName(f"{module}._{name}", f"{file}.{own or name}", used_by)
        for name, own in pairs
    ]


PRIVATE = [
    *_rows(
        "flax.linen.normalization",
        "normalization",
        "sbx-rl and other CrossQ agents, connectomics, morl-baselines",
        "compute_stats normalize canonicalize_axes",
    ),
    *_rows("flax.linen.normalization", "normalization", "ajax (RL)", "l2_normalize"),
    *_rows("flax.linen.normalization", "normalization", "quantized SSMs", "abs_sq"),
    *_rows(
        "flax.linen.linear",
        "linear",
        "flaxmodels, aqtp, qwix, scico",
        "conv_dimension_numbers",
    ),
    *_rows("flax.linen.linear", "linear", "diffusion trainers", "Conv=Conv"),
    *_rows(
        "flax.linen.linear",
        "linear",
        "forks of DenseGeneral, in T5X style",
        "canonicalize_tuple normalize_axes",
    ),
    *_rows(
        "flax.linen.module",
        "modules",
        "qwix, praxis, MaxText, fiddle, Flax's NNX bridge",
        "context",
    ),
    *_rows("flax.linen.module", "modules", "scico", "Sentinel unspecified_parent"),
    *_rows("flax.linen.module", "modules", "mox", "freeze_attr"),
    *_rows(
        "flax.linen.module",
        "modules",
        "mynx, maxdiffusion",
        "CallInfo tabulate_context",
    ),
    *_rows(
        "flax.linen.module",
        "modules",
        "tools that print or walk modules",
        "get_fn_name module_repr map_submodules",
    ),
    *_rows(
        "flax.linen.spmd",
        "spmd",
        "T5X, Flaxformer and what grew out of them",
        "with_sharding_constraint is_logical_spec is_axis_spec logical_to_mesh_axes"
        " mesh_assignment_free unassigned_axis UnassignedAxis AxisRules axis_rules",
    ),
    *_rows(
        "flax.linen.partitioning",
        "spmd",
        "T5X, Flaxformer and what grew out of them",
        "with_sharding_constraint is_logical_spec AxisRules axis_rules",
    ),
    *_rows("flax.core.spmd", "spmd", "T5X", "AxisRules axis_rules"),
    *_rows(
        "flax.linen.partitioning",
        "spmd",
        "Flax programs for Transformer Engine and TPU language models",
        "param_with_axes_sow_reduce_fn",
    ),
    PrivateName(
        "flax.linen.transforms.lift_transform",
        "transforms.lift_transform",
        "Flaxformer",
    ),
    PrivateName(
        "flax.linen.transforms.lift_direct_transform",
        "transforms.lift_direct_transform",
        "what grew out of Flaxformer",
    ),
    *_rows("flax.linen.summary", "summary", "mynx", "get_call_flops"),
    *_rows(
        "flax.linen.summary",
        "summary",
        "mynx, maxdiffusion",
        "process_inputs get_path_variables get_module_variables",
    ),
    *_rows(
        "flax.linen.summary",
        "summary",
        "kauldron",
        "get_module_table ArrayRepresentation ObjectRepresentation",
    ),
    PrivateName("flax.linen.summary.Table", "summary.Table", "kauldron"),
    PrivateName("flax.linen.summary.Row", "summary.Row", "kauldron"),
    *_rows(
        "flax.serialization",
        "trees",
        "readers of large or foreign msgpack files: dantinox, mlflow loggers",
        "msgpack_ext_unpack=ext_unpack msgpack_ext_pack=ext_pack ndarray_to_bytes"
        " ndarray_from_bytes dtype_from_name chunk unchunk np_convert_in_place"
        " chunk_array_leaves_in_place=chunk_leaves"
        " unchunk_array_leaves_in_place=unchunk_leaves",
    ),
    *_rows(
        "flax.serialization",
        "trees",
        "kauldron, clu, scenic",
        "STATE_DICT_REGISTRY=registry restore_dict dict_state_dict restore_list"
        " list_state_dict namedtuple_state_dict restore_namedtuple",
    ),
    *_rows(
        "flax.core.scope",
        "trees",
        "kauldron, early Linen",
        "is_valid_rng unfreeze_variables fold_in_static",
    ),
    *_rows("flax.jax_utils", "trees", "input pipelines for pmap", "pmap_device_order"),
    *_rows("flax.metrics.tensorboard", "trees", "loggers", "flatten_dict"),
    PrivateName(
        "flax.traverse_util._EmptyNode",
        "linsey.traverse_util._EmptyNode",
        "optimizer masks",
    ),
    *_rows(
        "flax.traverse_util",
        "trees",
        "image-classification-jax",
        "get_params_dict sorted_items",
    ),
    PrivateName("flax.struct.TNode", "trees.TNode", "flax-extra"),
    PrivateName("flax.core.meta.TAxisMetadata", "trees.TAxisMetadata", "praxis"),
    PrivateName(
        "flax.training.checkpoints._checkpoint_path",
        "linsey.training.checkpoints._checkpoint_path",
        "loaders of pretrained weights",
    ),
    *_rows("treex.utils", "retrace", "two of treex's examples", "check_rejit"),
]
"""The table of private names."""

METHODS = {
    ("core.state", "Scope", "_collection"): "trees.scope_collection",
    ("linen.module", "Module", "_state"): "modules.state_of_module",
    ("linen.module", "Module", "_try_setup"): "modules.try_setup",
    ("linen.module", "Module", "_initialization_allowed"): "modules.may_initialize",
}
"""Private attributes of public classes, which exist while the aliases are installed
(used by qwix, praxis, aqtp)."""

_ADAPTERS = {row.name: row.adapter for row in PRIVATE}


def find(name: str) -> str | None:
    """Return the adapter of a name, or `None` if the name is not in the table."""
    return _ADAPTERS.get(name)


def names_in(module: str) -> list[str]:
    """List the private names of a module."""
    names = [name.rpartition(".") for name in _ADAPTERS]
    return [name for owner, _, name in names if owner == module]


def load(adapter: str) -> Any:
    """Import an adapter."""
    file, _, name = adapter.rpartition(".")
    if not file.startswith("linsey."):
        file = f"{__package__}.adapters.{file}"
    return getattr(importlib.import_module(file), name)


def add_methods() -> None:
    """Add to linsey's classes the private methods that programs call."""
    for (file, cls, name), adapter in METHODS.items():
        owner = getattr(importlib.import_module(f"linsey.{file}"), cls)
        setattr(owner, name, load(adapter))


def remove_methods() -> None:
    """Remove these methods again."""
    for file, cls, name in METHODS:
        owner = getattr(importlib.import_module(f"linsey.{file}"), cls)
        if name in vars(owner):
            delattr(owner, name)
