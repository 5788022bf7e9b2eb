"""Modules whose variables do not live where their place in the tree says.

`share_scope` lets two modules use one scope; `compact_name_scope` gives the submodules
of one method a scope of their own, named after the method.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from linsey import errors
from linsey.core.scope import Scope
from linsey.linen.module.adoption import attach
from linsey.linen.module.base import Module
from linsey.linen.module.methods import compact

CallableT = TypeVar("CallableT", bound=Callable[..., Any])


def share_scope(module: Module, other: Module, /) -> None:
    """Makes `other` and `module` use one scope.

    If `other` is a child of `module`, it moves up into the scope of `module`: its
    variables get no level of their own. Otherwise `module` moves to the scope of
    `other`.

    Raises:
        CallShareScopeOnUnboundModuleError: one of them is not bound.
    """
    if module.scope is None or other.scope is None:
        raise errors.CallShareScopeOnUnboundModuleError()
    inner = len(other.scope.path) > len(module.scope.path) and (
        other.scope.path[: len(module.scope.path)] == module.scope.path
    )
    moved, scope = (other, module.scope) if inner else (module, other.scope)
    _move(moved, scope)


def _move(module: Module, scope: Scope) -> None:
    module.__dict__["scope"] = scope
    for name, child in module._frame.names.items():
        if isinstance(child, Module) and child.scope is not None:
            _move(child, scope._descend(name))


def compact_name_scope(fun: CallableT) -> CallableT:
    """Makes a compact method of which a class can have several.

    What it declares lives in a child scope named after the method.

    Example:
        >>> import jax, linsey.linen as nn
        >>> class Pair(nn.Module):
        ...     @nn.compact_name_scope
        ...     def up(self, x):
        ...         return nn.Dense(4)(x)
        ...
        ...     @nn.compact_name_scope
        ...     def down(self, x):
        ...         return nn.Dense(2)(x)
        ...
        ...     def __call__(self, x):
        ...         return self.down(self.up(x))
        >>> sorted(Pair().init(jax.random.key(0), jax.numpy.ones((1, 3)))["params"])
        ['down', 'up']
    """

    @functools.wraps(fun)
    def method(self: Module, *args: Any, **kwargs: Any) -> Any:
        if self.scope is None:
            raise errors.CallCompactUnboundModuleError(module=self)
        name = fun.__name__
        inner = self._frame.names.get(name)
        if not isinstance(inner, CompactNameScope):
            inner = CompactNameScope(fun, lambda: self, parent=None, name=name)
            attach(inner, self)
            # Known in later calls too, which open frames of their own.
            self._setup_frame.names.setdefault(name, inner)
        return inner(*args, **kwargs)

    method.compact_name_scope = True  # type: ignore[attr-defined]
    return method  # type: ignore[return-value]


class CompactNameScope(Module):
    """The module that stands for one method marked with `compact_name_scope`.

    Attributes:
        fn: the method.
        module_fn: gives the module the method belongs to.
    """

    fn: Callable[..., Any]
    module_fn: Callable[[], Module]

    @compact
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the method; what it declares belongs to this module."""
        return self.fn(self.module_fn(), *args, **kwargs)
