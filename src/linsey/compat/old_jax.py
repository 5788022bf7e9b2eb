"""Names that JAX has removed, for programs written before their removal.

`restore()` puts them back, implemented with what today's JAX has, in this process and
for every library in it; each name is announced once on standard error. A name is looked
up only if JAX lacks it, so nothing of JAX is replaced. Names without a counterpart
(`soft_pmap`, `xmap`, masking, infeed) remain missing.

Example:
    >>> import jax
    >>> from linsey.compat import old_jax
    >>> old_jax.restore(announce=lambda name, now: print(name, "is now", now))
    >>> jax.tree_map(lambda x: x + 1, {"a": 1})
    jax.tree_map is now jax.tree.map
    {'a': 2}
    >>> old_jax.remove()
"""

from __future__ import annotations

import importlib
import importlib.abc
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["remove", "restore"]

_HERE = "linsey.compat.old_jax_functions"

# For each module, its old names and where each is found now; `!name` is a function in
# `old_jax_functions`.
NAMES: dict[str, dict[str, str]] = {
    "jax": {
        "KeyArray": "jax.Array",
        "PartitionSpec": "jax.sharding.PartitionSpec",
        "ShapedArray": "jax.core.ShapedArray",
        "clear_backends": "jax.extend.backend.clear_backends",
        "device_put_replicated": "!device_put_replicated",
        "device_put_sharded": "!device_put_sharded",
        "host_count": "jax.process_count",
        "host_id": "jax.process_index",
        "host_ids": "!host_ids",
        "partial": "functools.partial",
        "spmd_mode": "!spmd_mode",
        "tree_all": "jax.tree.all",
        "tree_flatten": "jax.tree.flatten",
        "tree_leaves": "jax.tree.leaves",
        "tree_map": "jax.tree.map",
        "tree_multimap": "jax.tree.map",
        "tree_reduce": "jax.tree.reduce",
        "tree_structure": "jax.tree.structure",
        "tree_transpose": "jax.tree.transpose",
        "tree_unflatten": "jax.tree.unflatten",
        "treedef_children": "jax.tree_util.treedef_children",
        "treedef_is_leaf": "jax.tree_util.treedef_is_leaf",
        "treedef_tuple": "jax.tree_util.treedef_tuple",
        "xla_computation": "!xla_computation",
    },
    "jax.numpy": {
        "DeviceArray": "jax.Array",
        "NINF": "!NINF",
        "NZERO": "!NZERO",
        "PINF": "!PINF",
        "PZERO": "!PZERO",
        "alltrue": "jax.numpy.all",
        "asscalar": "!asscalar",
        "cumproduct": "jax.numpy.cumprod",
        "fix": "jax.numpy.trunc",
        "in1d": "!in1d",
        "issubsctype": "jax.numpy.issubdtype",
        "lax": "jax.lax",
        "msort": "!msort",
        "product": "jax.numpy.prod",
        "round_": "jax.numpy.round",
        "row_stack": "jax.numpy.vstack",
        "sometrue": "jax.numpy.any",
        "trapz": "jax.numpy.trapezoid",
    },
    "jax.core": {
        "get_aval": "jax.typeof",
        "raise_to_shaped": "!raise_to_shaped",
    },
    "jax.random": {
        "KeyArray": "jax.Array",
        "PRNGKeyArray": "jax.Array",
        "shuffle": "jax.random.permutation",
        "threefry_2x32": "jax.extend.random.threefry_2x32",
    },
    "jax.ops": {
        "index": "!index",
        "index_add": "!index_add",
        "index_max": "!index_max",
        "index_min": "!index_min",
        "index_mul": "!index_mul",
        "index_update": "!index_update",
    },
    "jax.nn": {"normalize": "jax.nn.standardize"},
    "jax.lax": {
        "_reduce_sum": "jax.lax.reduce_sum",
        "naryop": "jax._src.lax.lax.naryop",
        "partial": "functools.partial",
        "pvary": "!pvary",
        "standard_primitive": "jax._src.lax.lax.standard_primitive",
        "tie_in": "!tie_in",
        "unop": "jax._src.lax.lax.unop",
        "xeinsum": "jax.numpy.einsum",
        "zeros_like_array": "jax.numpy.zeros_like",
    },
    "jax.scipy.linalg": {"tril": "jax.numpy.tril", "triu": "jax.numpy.triu"},
    "jax.sharding": {
        "GSPMDSharding": "jax._src.sharding_impls.GSPMDSharding",
        "MeshPspecSharding": "jax.sharding.NamedSharding",
        "OpShardingSharding": "jax._src.sharding_impls.GSPMDSharding",
        "XLACompatibleSharding": "jax.sharding.Sharding",
    },
    "jax.tree_util": {
        "AttributeKeyPathEntry": "jax.tree_util.GetAttrKey",
        "tree_multimap": "jax.tree.map",
    },
    "jax.test_util": {"JaxTestCase": "jax._src.test_util.JaxTestCase"},
    "jax.profiler": {
        "StepTraceContext": "jax.profiler.StepTraceAnnotation",
        "TraceContext": "jax.profiler.TraceAnnotation",
    },
    "jax.experimental": {
        "PartitionSpec": "jax.sharding.PartitionSpec",
        "disable_x64": "!disable_x64",
        "enable_x64": "!enable_x64",
        "export": "jax.export",
    },
    "jax.experimental.pjit": {
        "PartitionSpec": "jax.sharding.PartitionSpec",
        "pjit": "jax.jit",
        "with_sharding_constraint": "jax.lax.with_sharding_constraint",
    },
    "jax.interpreters.batching": {"not_mapped": "!not_mapped"},
    "jax.interpreters.pxla": {
        "Mesh": "jax.sharding.Mesh",
        "MeshPspecSharding": "jax.sharding.NamedSharding",
        "PartitionSpec": "jax.sharding.PartitionSpec",
        "ShardedDeviceArray": "jax.Array",
        "thread_resources": "jax._src.mesh.thread_resources",
    },
    "jax.interpreters.xla": {
        "Device": "jax.Device",
        "DeviceArray": "jax.Array",
        "canonicalize_dtype": "jax.dtypes.canonicalize_dtype",
        "pytype_aval_mappings": "jax._src.core.pytype_aval_mappings",
    },
    # Modules that were removed entirely.
    "jax.abstract_arrays": {
        "ConcreteArray": "jax.core.ShapedArray",
        "raise_to_shaped": "!raise_to_shaped",
    },
    "jax.config": {"config": "jax.config"},
    "jax.experimental.host_callback": {
        "barrier_wait": "jax.effects_barrier",
        "call": "!host_call",
        "id_print": "!id_print",
        "id_tap": "!id_tap",
    },
    "jax.experimental.maps": {
        "Mesh": "jax.sharding.Mesh",
        "mesh": "!mesh",
        "thread_resources": "jax._src.mesh.thread_resources",
    },
    "jax.interpreters.sharded_jit": {
        "PartitionSpec": "jax.sharding.PartitionSpec",
        "with_sharding_constraint": "jax.lax.with_sharding_constraint",
    },
    "jax.lib.xla_bridge": {
        "device_count": "jax.device_count",
        "get_backend": "jax.extend.backend.get_backend",
        "host_count": "jax.process_count",
        "host_id": "jax.process_index",
        "local_device_count": "jax.local_device_count",
    },
}

# Where to look for names of a module that are not in the table above.
ELSEWHERE: dict[str, tuple[str, ...]] = {
    "jax.abstract_arrays": ("jax.core", "jax._src.core"),
    "jax.api": ("jax", "jax._src.api"),
    "jax.config": ("jax.config",),
    "jax.core": ("jax.extend.core", "jax._src.core"),
    "jax.experimental.optimizers": ("jax.example_libraries.optimizers",),
    "jax.experimental.stax": ("jax.example_libraries.stax",),
    "jax.interpreters.ad": ("jax._src.interpreters.ad",),
    "jax.interpreters.batching": ("jax._src.interpreters.batching",),
    "jax.interpreters.partial_eval": ("jax._src.interpreters.partial_eval",),
    "jax.lax.lax": ("jax.lax", "jax._src.lax.lax"),
    "jax.lax_linalg": ("jax.lax.linalg",),
    "jax.lib.pytree": ("jaxlib._jax.pytree",),
    "jax.lib.xla_bridge": ("jax._src.xla_bridge",),
    "jax.lib.xla_client": ("jaxlib.xla_client", "jaxlib._jax"),
    "jax.lib.xla_extension": ("jaxlib._jax",),
    "jax.linear_util": ("jax.extend.linear_util", "jax._src.linear_util"),
    "jax.nn.functions": ("jax.nn", "jax._src.nn.functions"),
    "jax.numpy.lax_numpy": ("jax.numpy", "jax._src.numpy.lax_numpy"),
    "jax.util": ("jax._src.util",),
    "jax.xla": ("jax.interpreters.xla",),
}

used: dict[str, str] = {}
"""The removed names that the program has used, each with its present location."""

Announce = Callable[[str, str], None]


def restore(announce: Announce | None = None) -> None:
    """Put the names back, even if JAX is imported later; a second call does nothing.

    Args:
        announce: called once for each name, with the name and its present location.
            By default, a line is printed on standard error.
    """
    if any(isinstance(finder, _Patcher) for finder in sys.meta_path):
        return
    patcher = _Patcher(announce or _print)
    sys.meta_path.insert(0, patcher)
    for name in _KNOWN:
        if name in sys.modules:
            patcher.patch(sys.modules[name])


def remove() -> None:
    """Take the names away again."""
    for patcher in [f for f in sys.meta_path if isinstance(f, _Patcher)]:
        sys.meta_path.remove(patcher)
        patcher.undo()


class _Gone(ModuleType):
    """A module that JAX has removed."""


_KNOWN = {**NAMES, **ELSEWHERE}


class _Patcher(importlib.abc.MetaPathFinder):
    """Finder that gives JAX modules their old names when they are imported."""

    def __init__(self, announce: Announce) -> None:
        self.announce = announce
        self.before: dict[str, Any] = {}

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Find a module of JAX, or one that JAX has removed."""
        if fullname not in _KNOWN:
            return None
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(fullname, path, target)
                if spec is not None:
                    spec.loader = _Patching(self, spec.loader)
                    return spec
        if "." not in fullname:
            return None
        return ModuleSpec(fullname, _Patching(self, None), is_package=True)

    def patch(self, module: ModuleType) -> None:
        """Make the old names of a module available."""
        name = module.__name__
        if name in self.before:
            return
        self.before[name] = vars(module).get("__getattr__")
        getter = _getter(module, self.before[name], self.announce)
        vars(module)["__getattr__"] = getter
        if name != "jax":
            return
        # `jax.config` is now the object that this module used to hold; keep it as the
        # attribute, and add a module of that name for `import jax.config`.
        config = sys.modules["jax.config"] = _Gone("jax.config")
        self.patch(config)
        for method in ("enable_omnistaging", "disable_omnistaging"):
            if not hasattr(module.config, method):
                setattr(module.config, method, lambda: None)

    def undo(self) -> None:
        """Restore the modules to their original state."""
        for name, getter in self.before.items():
            module = sys.modules.get(name)
            if isinstance(module, _Gone):
                del sys.modules[name]
                parent, _, child = name.rpartition(".")
                if vars(sys.modules[parent]).get(child) is module:
                    delattr(sys.modules[parent], child)
            elif module is not None and getter is None:
                vars(module).pop("__getattr__", None)
            elif module is not None:
                vars(module)["__getattr__"] = getter


class _Patching(importlib.abc.Loader):
    """Loader that wraps another one, if there is one, and patches the module."""

    def __init__(self, patcher: _Patcher, loader: Any) -> None:
        self._patcher = patcher
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or self._loader is None:
            raise AttributeError(name)
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        if self._loader is None:
            return _Gone(spec.name)
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if self._loader is not None:
            self._loader.exec_module(module)
        self._patcher.patch(module)


def _print(name: str, now: str) -> None:
    print(f"linsey: JAX has removed `{name}`; `{now}` is used.", file=sys.stderr)


def _getter(
    module: ModuleType, before: Callable[[str], Any] | None, announce: Announce
) -> Callable[[str], Any]:
    """Return a `__getattr__` with which a module also has its old names."""

    def get(name: str) -> Any:
        full = f"{module.__name__}.{name}"
        try:
            if before is None:
                raise AttributeError(
                    f"module {module.__name__!r} has no attribute {name!r}"
                )
            return before(name)
        except AttributeError:
            found = None if name.startswith("__") else _find(module.__name__, name)
            if found is None:
                raise
        value, now = found
        if full not in used and not isinstance(value, ModuleType):
            used[full] = now
            announce(full, now)
        return value

    return get


def _find(module: str, name: str) -> tuple[Any, str] | None:
    """Return the object that an old name stands for, and its present location."""
    target = NAMES.get(module, {}).get(name)
    if target is not None and target.startswith("!"):
        functions = importlib.import_module(_HERE)
        value = getattr(functions, target[1:])
        return value, functions.NOW.get(target[1:], f"{_HERE}.{target[1:]}")
    if target is not None:
        try:
            return _load(target), target
        except (ImportError, AttributeError):  # removed as well in a newer JAX
            return None
    full = f"{module}.{name}"
    if full in _KNOWN:
        try:
            return importlib.import_module(full), full
        except ImportError:
            return None
    for other in ELSEWHERE.get(module, ()):
        try:
            return _load(f"{other}.{name}"), f"{other}.{name}"
        except (ImportError, AttributeError):
            continue
    return None


def _load(path: str) -> Any:
    """Import an object by its path."""
    module, _, name = path.rpartition(".")
    try:
        owner = importlib.import_module(module) if module != "jax.config" else None
    except ImportError:
        owner = _load(module)
    if owner is None:
        import jax

        owner = jax.config
    return getattr(owner, name) if hasattr(owner, name) else (
        importlib.import_module(path)
    )  # fmt: skip
