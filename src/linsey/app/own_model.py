"""A user's own model: a module, or a class or function that makes one.

Its arguments come from the command line. The number of classes is filled in if the
model requires it under one of its usual names.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from linsey.app import named_values
from linsey.app.model_file import EXPECTED, import_named, raised
from linsey.app.model_name import checked_name, parted
from linsey.app.model_source import source_sha256
from linsey.batch_stats.calls import is_linen
from linsey.batch_stats.objects import is_object
from linsey.errors import InputError

CLASSES = ("classes", "num_classes", "n_classes", "num_outputs", "num_labels")
"""Arguments that mean the number of classes."""
_OF_LINEN = ("parent", "name")  # arguments that every Linen module has
_APPLY = {"variables", "train", "mutable"}  # arguments of functions that are models


@dataclasses.dataclass(frozen=True)
class OwnModel:
    """A user's own model, which is not made yet.

    Attributes:
        name: the name under which it is recorded.
        target: a module, a class or function that makes one, or a function of
            variables.
        arguments: `NAME=VALUE`, each in its one form.
        sha256: the SHA-256 of its source; `None` if there is no source.
        filled: further arguments, from other options; `arguments` take precedence.
    """

    name: str
    target: object
    arguments: tuple[str, ...] = ()
    sha256: str | None = None
    filled: Mapping[str, object] = dataclasses.field(default_factory=dict, hash=False)

    @property
    def place(self) -> str:
        """Its file or module."""
        return parted(self.name)[0]

    def with_arguments(self, arguments: Iterable[str]) -> OwnModel:
        """Return the model with recorded arguments, unless it is already made."""
        if is_made(self.target):
            return self
        return dataclasses.replace(self, arguments=tuple(arguments))

    def make(self, classes: int | None) -> object:
        """Make the model.

        Args:
            classes: number of classes; `None` if that is not known.

        Returns:
            A module of linsey or Flax, an object of `linsey.treex`, or a function
            `(variables, x, train, mutable)`.

        Raises:
            InputError: the class or function does not take these arguments, needs
                others, raises an error, or does not make a model.
        """
        if is_made(self.target):
            return self.target
        if not callable(self.target):
            found = type(self.target).__name__
            raise self.wrong("no model", expected=EXPECTED, found=found)
        made = self._called(self.target, self._filled(classes))
        if not is_made(made):
            expected = "a Linen or treex module, or a function with `init`"
            found = type(made).__name__
            raise self.wrong("makes no model", expected=expected, found=found)
        return made

    def wrong(
        self,
        problem: str,
        *,
        key: str | None = None,
        expected: object = None,
        found: object = None,
        hint: str | None = None,
    ) -> InputError:
        """Return an error about this model."""
        place, name = parted(self.name)
        return InputError(
            problem, file=place, key=key or name, expected=expected, found=found,
            hint=hint,
        )  # fmt: skip

    def parameters(self) -> dict[str, inspect.Parameter]:
        """Return the parameters of the class or function, by name."""
        if is_made(self.target) or not callable(self.target):
            return {}
        try:
            found = inspect.signature(self.target).parameters
        except (TypeError, ValueError):
            return {}
        is_class = inspect.isclass(self.target)
        return {n: p for n, p in found.items() if not is_class or n not in _OF_LINEN}

    def _filled(self, classes: int | None) -> dict[str, object]:
        taken = self.parameters()
        given = named_values.parse_arguments(self.arguments)
        names = [
            n
            for n, p in taken.items()
            if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
        is_open = any(p.kind is p.VAR_KEYWORD for p in taken.values())
        for name in given:
            if name not in names and not is_open:
                near = difflib.get_close_matches(name, names, n=1)
                raise self.wrong(
                    "no such argument", key=f"--model-arg {name}",
                    expected=", ".join(names) or "none",
                    hint=f"did you mean {near[0]}?" if near else None,
                )  # fmt: skip
        missing = [
            n for n in names if taken[n].default is taken[n].empty and n not in given
        ]
        if classes is not None:
            given |= {name: classes for name in missing if name in CLASSES}
        given = {**self.filled, **given}
        if missing := [name for name in missing if name not in given]:
            fix = " ".join(f"--model-arg {name}=..." for name in missing)
            hint = f"give {'it' if len(missing) == 1 else 'them'} with {fix}"
            told = f"argument{'s' * (len(missing) > 1)} {', '.join(missing)}"
            raise self.wrong(f"needs the {told}", hint=hint)
        return given

    def _called(
        self, make: Callable[..., object], arguments: Mapping[str, object]
    ) -> object:
        try:
            return make(**arguments)
        except Exception as error:
            name = parted(self.name)[1]
            raise raised(error, self.place, f"{name}() raised") from error


def is_made(value: object) -> bool:
    """Tell whether a value is a model, not a class or function that makes one."""
    if inspect.isclass(value):
        return False
    if is_linen(value) or is_object(value) or callable(getattr(value, "init", None)):
        return True
    if not inspect.isfunction(value):
        return False
    return bool(_APPLY & {*inspect.signature(value).parameters})


# -- where models come from ----------------------------------------------------------


def named_model(text: str, arguments: Iterable[str] = ()) -> OwnModel:
    """Import the model that a text names.

    Args:
        text: the value of `--model`.
        arguments: the values of `--model-arg`.

    Raises:
        InputError: there is no such file, module or name, or running it raises.
    """
    module, target = import_named(text)
    own = OwnModel(checked_name(text), target, sha256=source_sha256(module))
    return _with_given(own, arguments)


def given_model(value: object, arguments: Iterable[str] = ()) -> OwnModel:
    """Take a model that a program passes.

    A Linen module is recorded by its class, with the fields that it was made with.

    Args:
        value: a module, a class or function that makes one, a function of variables, or
            a text for `named_model`.
        arguments: `NAME=VALUE`, for a class or a function.
    """
    if isinstance(value, str):
        return named_model(value, arguments)
    has_name = inspect.isclass(value) or inspect.isfunction(value)
    owner = value if has_name else type(value)
    module = sys.modules.get(getattr(owner, "__module__", ""))
    name = getattr(owner, "__qualname__", "").split(".")[-1]
    name = name if name.isidentifier() else "model"  # such as a lambda
    sha256 = source_sha256(module) if module is not None else None
    own = OwnModel(f"{_place(module)}:{name}", value, sha256=sha256)
    own = _with_given(own, arguments)
    if not is_linen(value):
        return own
    return dataclasses.replace(
        own, arguments=named_values.argument_texts(_fields(value))
    )


def _with_given(own: OwnModel, arguments: Iterable[str]) -> OwnModel:
    """Add arguments from the user.

    Raises:
        InputError: the model is already made, and cannot take them.
    """
    texts = named_values.in_one_form(arguments)
    if texts and is_made(own.target):
        raise own.wrong(
            "takes no arguments, since it is made already", key="--model-arg",
            hint="name the class or the function that makes it, or leave them out",
        )  # fmt: skip
    return dataclasses.replace(own, arguments=texts)


def _place(module: ModuleType | None) -> str:
    """Return the name of a model's module for the command line."""
    if module is None:
        return "__main__"
    file = getattr(module, "__file__", None)
    is_file = module.__name__ == "__main__" or module.__name__.startswith(
        "linsey_model_"
    )
    return str(Path(file).resolve()) if file and is_file else module.__name__


def _fields(module: Any) -> dict[str, object]:
    """Return the fields of a Linen module that are not defaults and can be written.

    The number of classes is left out: it is filled in.
    """
    found: dict[str, object] = {}
    for field in dataclasses.fields(module):
        value = getattr(module, field.name, None)
        is_filled = field.name in CLASSES and field.default is dataclasses.MISSING
        is_own = field.init and field.name not in _OF_LINEN and not is_filled
        if is_own and named_values.is_literal(value) and value != field.default:
            found[field.name] = value
    return found
