"""Which annotations mention a tree, so that the field is a node."""

from __future__ import annotations

import sys
import typing
from typing import Any, ClassVar


def own_annotations(cls: type) -> dict[str, Any]:
    """The annotations of a class body, unresolved ones as strings."""
    if sys.version_info >= (3, 14):
        import annotationlib

        return annotationlib.get_annotations(
            cls, format=annotationlib.Format.FORWARDREF
        )
    return cls.__dict__.get("__annotations__", {})


def resolve(cls: type, annotation: Any) -> Any:
    """Evaluates an annotation that is text, where its names can be found."""
    if not isinstance(annotation, str):
        return annotation
    module = sys.modules.get(cls.__module__)
    names = dict(vars(module)) if module else {}
    names.setdefault(cls.__name__, cls)
    try:
        return eval(annotation, names, dict(vars(cls)))
    except Exception:  # names of a function's scope, of `TYPE_CHECKING` blocks
        return annotation


def is_class_variable(annotation: Any) -> bool:
    """Whether the annotation says `ClassVar`."""
    if isinstance(annotation, str):
        return annotation.startswith(("ClassVar", "typing.ClassVar", "tp.ClassVar"))
    return annotation is ClassVar or typing.get_origin(annotation) is ClassVar


def mentions(annotation: Any, base: type) -> bool:
    """Whether a type, or a type in its arguments, is a subclass of `base`."""
    if isinstance(annotation, type) and typing.get_origin(annotation) is None:
        return issubclass(annotation, base)
    origin = typing.get_origin(annotation)
    if origin is None or origin is typing.Literal:
        return False
    if isinstance(origin, type) and issubclass(origin, base):
        return True
    return any(mentions(part, base) for part in typing.get_args(annotation))
