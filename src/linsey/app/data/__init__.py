"""Data for the command: `load` gives one `Dataset`, wherever the examples are."""

from __future__ import annotations

from pathlib import Path

from linsey.app.config import DataOptions
from linsey.app.data.dataset import Dataset
from linsey.training.input_error import InputError

__all__ = ["Dataset", "load"]


def load(options: DataOptions) -> Dataset:
    """Loads what `--data` names.

    Args:
        options: the data options.

    Returns:
        Validated arrays with a training and a test part.

    Raises:
        InputError: the data are not there or not usable; says what and where.
    """
    if options.data == "digits":
        from linsey.app.data.digits import load_digits

        return load_digits(options)
    path = Path(options.data)
    if path.is_dir():
        from linsey.app.data.image_folder import load_image_folder

        return load_image_folder(path, options)
    if not path.exists():
        raise InputError("no such file or folder", file=path, key="--data")
    if path.suffix != ".npz":
        raise InputError(
            "data of an unknown kind",
            file=path,
            expected="`digits`, FILE.npz, or a folder of class folders of images",
        )
    from linsey.app.data.npz import load_npz

    return load_npz(path, options)
