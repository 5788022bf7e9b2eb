"""The values of `--model`: a model of linsey, an architecture, or a place in code.

Nothing is imported here.
"""

from __future__ import annotations

import difflib
import shlex
from pathlib import Path

from linsey.errors import InputError

BUILT_IN = ("mlp", "cnn", "resnet")
ARCHITECTURES = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
    "mobilenet_v3_small", "mobilenet_v3_large",
    "efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3",
    "densenet121", "densenet169", "vit_s_16", "vit_b_16",
)  # fmt: skip
"""The architectures of `linsey.models`."""
FORMS = "FILE.py:NAME or package.module:NAME"
OPTION = "--model"


def is_own(text: str) -> bool:
    """Tell whether a text names a model in a user's own code."""
    return ":" in text


def is_architecture(text: str) -> bool:
    """Tell whether a text names an architecture of `linsey.models`."""
    return text in ARCHITECTURES


def is_of_linsey(text: str) -> bool:
    """Tell whether a text names a model that comes with linsey."""
    return text in BUILT_IN or text in ARCHITECTURES


def parted(text: str) -> tuple[str, str]:
    """Split a text into a file or module, and a name in it.

    Example:
        >>> parted("models/net.py:Net")
        ('models/net.py', 'Net')
    """
    place, _, name = text.rpartition(":")
    return place, name


def short_name(text: str) -> str:
    """Return a text without the folder of its file.

    Example:
        >>> short_name("/home/me/net.py:Net"), short_name("cnn")
        ('net.py:Net', 'cnn')
    """
    place, name = parted(text)
    return f"{Path(place).name}:{name}" if place.endswith(".py") else text


def checked_name(text: str) -> str:
    """Check the name of a model, and make the path of its file absolute.

    Raises:
        InputError: the text is not the name of a model, or there is no such file.
    """
    if is_of_linsey(text):
        return text
    place, name = parted(text)
    if not is_own(text) or not name.isidentifier():
        expected = f"{', '.join(BUILT_IN)}, one such as resnet50, {FORMS}"
        raise InputError(
            "no name of a model", key=OPTION, expected=expected, found=text,
            hint=_hint(text),
        )  # fmt: skip
    path = Path(place).expanduser()
    is_module = all(part.isidentifier() for part in place.split("."))
    if is_module and path.suffix != ".py" and not path.is_file():
        return text
    if path.suffix != ".py":
        raise InputError("not a Python file", file=path, key=OPTION, expected=FORMS)
    if not path.is_file():
        raise InputError("no such file", file=path, key=OPTION)
    return f"{path.resolve()}:{name}"


def _hint(text: str) -> str | None:
    if text.endswith(".py"):
        return f"add the name of the model in it, as {shlex.quote(text)}:NAME"
    near = difflib.get_close_matches(text, (*BUILT_IN, *ARCHITECTURES), n=1)
    return f"did you mean {near[0]}?" if near else None


def not_given(text: str, file: Path | None) -> InputError:
    """Return the error for a model named by a folder or file, which is not imported."""
    again = f"--model {shlex.quote(text)}"
    return InputError(
        f"its model is not of linsey but {short_name(text)}, and code is imported only "
        "where it is named again", file=file, key=OPTION,
        hint=f"give {again}, or model={text!r} in Python, if you trust it",
    )  # fmt: skip
