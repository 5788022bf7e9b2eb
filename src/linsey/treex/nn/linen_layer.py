"""The one mechanism by which Linen layers become objects.

A layer has the variables of its Linen twin as fields: the kind of a field tells the
collection, its name the variable. The attributes that are named as arguments of the
twin are passed to it. The mathematics is the twin's.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

import jax

import linsey.linen as linen
from linsey.errors.treex import MissingVariableError
from linsey.treex.kinds import BatchStat, Cache, Parameter
from linsey.treex.module import Module, next_key
from linsey.treex.treeo.tree import facts_of

COLLECTIONS = {Parameter: "params", BatchStat: "batch_stats", Cache: "cache"}


class LinenLayer(Module):
    """A layer whose variables and whose call are those of a Linen layer.

    Subclasses declare a field for each variable, take the arguments of the Linen layer
    and keep them as attributes.

    Attributes:
        linen_class: the Linen layer.
        linen_names: its names for arguments that are called otherwise here.
    """

    linen_class: ClassVar[type[linen.Module]]
    linen_names: ClassVar[dict[str, str]] = {}

    @property
    def module(self) -> linen.Module:
        """The Linen twin."""
        arguments = {
            theirs: getattr(self, ours)
            for ours, theirs in linen_arguments(type(self)).items()
        }
        return self.linen_class(**arguments)

    def linen_variables(self) -> dict[str, dict[str, Any]]:
        """The variables of the twin: those that are set, by collection."""
        variables: dict[str, dict[str, Any]] = {}
        for name, collection in variable_fields(type(self)).items():
            value = getattr(self, name)
            if value is not None:
                variables.setdefault(collection, {})[name] = value
        return variables

    def take_variables(self, variables: Any) -> None:
        """Sets the fields of the variables that are given."""
        for name, collection in variable_fields(type(self)).items():
            if name in variables.get(collection, ()):
                setattr(self, name, variables[collection][name])

    def make_variables(self, *args: Any, axis_name: Any = None, **kwargs: Any) -> None:
        """Initializes the fields, with the next key and by a call of the twin."""
        key = next_key(axis_name=axis_name)
        self.take_variables(self.module.init(key, *args, **kwargs))

    def run(
        self,
        *args: Any,
        mutable: Sequence[str] = (),
        rngs: dict[str, jax.Array] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Calls the twin and takes over the collections that it may change.

        Raises:
            MissingVariableError: `init` was given no inputs.
        """
        variables = self.linen_variables()
        missing = [
            name
            for name, collection in variable_fields(type(self)).items()
            if name not in variables.get(collection, ())
            and getattr(self, f"use_{name}", True)
        ]
        if missing:
            raise MissingVariableError(self, missing)
        outputs, updates = self.module.apply(
            variables, *args, rngs=rngs, mutable=list(mutable), **kwargs
        )
        self.take_variables(updates)
        return outputs

    def to_linen(self) -> tuple[linen.Module, dict[str, Any]]:
        """The Linen twin and its variables, which are the arrays of this layer."""
        return self.module, self.linen_variables()


@functools.cache
def variable_fields(cls: type[LinenLayer]) -> dict[str, str]:
    """The fields of a layer that are variables, with their collections."""
    return {
        name: COLLECTIONS[entry.kind]
        for name, entry in facts_of(cls).metadata.items()
        if entry.node and entry.kind in COLLECTIONS
    }


@functools.cache
def linen_arguments(cls: type[LinenLayer]) -> dict[str, str]:
    """The arguments of a layer that its Linen twin takes, with their names there."""
    known = {field.name for field in dataclasses.fields(cls.linen_class)}
    known -= {"name", "parent"}
    ours = {
        name: cls.linen_names.get(name, name)
        for name in inspect.signature(cls).parameters
    }
    return {name: theirs for name, theirs in ours.items() if theirs in known}
