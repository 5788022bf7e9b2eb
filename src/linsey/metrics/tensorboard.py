"""Summaries for TensorBoard, written without TensorFlow (the extra `tensorboard`)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from linsey.errors import ShapeError
from linsey.extras import require
from linsey.traverse_util import flatten_dict

# TensorFlow's names for NumPy's dtypes, unless they are just the same in capitals.
_TENSOR_TYPES = {
    "bool": "DT_BOOL", "bfloat16": "DT_BFLOAT16", "float16": "DT_HALF",
    "float32": "DT_FLOAT", "float64": "DT_DOUBLE",
    "complex64": "DT_COMPLEX64", "complex128": "DT_COMPLEX128",
    "int8": "DT_INT8", "int16": "DT_INT16", "int32": "DT_INT32", "int64": "DT_INT64",
    "uint8": "DT_UINT8", "uint16": "DT_UINT16",
}  # fmt: skip


class SummaryWriter:
    """Write summaries into a folder.

    Args:
        log_dir: the folder, which is created if it does not exist.
        auto_flush: whether each summary is written to the file at once, by a thread.

    Raises:
        MissingPackageError: `tensorboardX` is not installed; it is an `ImportError`.
    """

    def __init__(
        self, log_dir: str | os.PathLike[str], auto_flush: bool = True
    ) -> None:
        tensorboard = require("tensorboardX", "tensorboard", "`SummaryWriter`")
        self._writer = tensorboard.SummaryWriter(os.fspath(log_dir))
        self._auto_flush = auto_flush

    def close(self) -> None:
        """Write pending summaries and close the file, which may already be closed."""
        self._writer.close()

    def flush(self) -> None:
        """Write pending summaries."""
        self._writer.flush()

    def _done(self) -> None:
        if self._auto_flush:
            self.flush()

    def scalar(self, tag: str, value: ArrayLike, step: int) -> None:
        """Write a number.

        Args:
            tag: name of the curve.
            value: a number, or an array with one entry.
            step: the step.
        """
        self._writer.add_scalar(tag, float(np.asarray(value).reshape(())), step)
        self._done()

    def image(
        self, tag: str, image: ArrayLike, step: int, max_outputs: int = 3
    ) -> None:
        """Write images.

        Args:
            tag: name of the images.
            image: array of shape ([batch,] height, width[, channels]), with numbers in
                [0, 1] or bytes, and with 1 or 3 channels.
            step: the step.
            max_outputs: largest number of images in a batch to write.
        """
        images = np.asarray(image)
        if images.ndim == 2:
            images = images[..., None]
        if images.ndim == 3:
            images = images[None]
        if images.shape[-1] == 1:
            images = np.repeat(images, 3, axis=-1)
        for index, single in enumerate(images[:max_outputs]):
            name = tag if len(images) == 1 else f"{tag}/{index}"
            self._writer.add_image(name, single, step, dataformats="HWC")
        self._done()

    def audio(
        self,
        tag: str,
        audiodata: ArrayLike,
        step: int,
        sample_rate: int = 44100,
        max_outputs: int = 3,
    ) -> None:
        """Write audio clips.

        Args:
            tag: name of the clips.
            audiodata: array of shape (batch, samples, channels), in [-1, 1].
            step: the step.
            sample_rate: samples per second.
            max_outputs: largest number of clips to write.
        """
        sounds = np.asarray(audiodata)
        if sounds.ndim != 3:
            raise ShapeError(
                "Audio data must be 3D of shape (batch, samples, channels). "
                f"It has shape {sounds.shape}.",
                "One sound is a matrix of samples and channels, and several are shown.",
                "Pass `sound[None, :, None]` for one sound with one channel.",
            )
        for index, sound in enumerate(sounds[:max_outputs]):
            name = tag if len(sounds) == 1 else f"{tag}/{index}"
            self._writer.add_audio(name, sound.astype(np.float32), step, sample_rate)
        self._done()

    def histogram(
        self, tag: str, values: ArrayLike, step: int, bins: int | None = None
    ) -> None:
        """Write a histogram of values.

        Args:
            tag: name of the histogram.
            values: numbers of any shape.
            step: the step.
            bins: number of bins. If `None`, NumPy chooses.
        """
        flat = np.asarray(values).reshape(-1)
        counts, limits = np.histogram(flat, bins="auto" if bins is None else bins)
        self._writer.add_histogram_raw(
            tag,
            min=float(flat.min()),
            max=float(flat.max()),
            num=len(flat),
            sum=float(flat.sum()),
            sum_squares=float(np.square(flat).sum()),
            bucket_limits=limits[1:].tolist(),
            bucket_counts=counts.tolist(),
            global_step=step,
        )
        self._done()

    def text(
        self, tag: str, textdata: str | bytes | Sequence[str | bytes], step: int
    ) -> None:
        """Write text, which TensorBoard shows as Markdown.

        Args:
            tag: name of the text.
            textdata: one text, or several.
            step: the step.
        """
        texts = [textdata] if isinstance(textdata, str | bytes) else list(textdata)
        lines = [t.decode() if isinstance(t, bytes) else str(t) for t in texts]
        self._writer.add_text(tag, "\n\n".join(lines), step)
        self._done()

    def write(
        self, tag: str, tensor: ArrayLike, step: int, metadata: Any = None
    ) -> None:
        """Write an array unchanged, to be shown by a plugin of TensorBoard.

        Args:
            tag: name of the summary.
            tensor: array of numbers, booleans or text, of any shape.
            step: the step.
            metadata: a `SummaryMetadata` message, which names the plugin. If `None`,
                the summary has none.
        """
        summary_pb2 = import_module("tensorboardX.proto.summary_pb2")
        types_pb2 = import_module("tensorboardX.proto.types_pb2")
        array = np.asarray(tensor)
        value = summary_pb2.Summary.Value(tag=tag)
        proto = value.tensor
        if array.dtype.kind in "OSU":
            proto.dtype = types_pb2.DT_STRING
            texts = [t if isinstance(t, bytes) else str(t).encode() for t in array.flat]
            proto.string_val.extend(texts)
        else:
            # Python's numbers are written with 32 bits.
            if not hasattr(tensor, "dtype") and array.dtype.kind in "if":
                array = array.astype(f"{array.dtype.kind}4")
            proto.dtype = types_pb2.DataType.Value(_TENSOR_TYPES[array.dtype.name])
            proto.tensor_content = array.tobytes()
        proto.tensor_shape.SetInParent()
        for size in array.shape:
            proto.tensor_shape.dim.add().size = size
        if metadata is not None:
            # The class may come from any package: the serialized bytes are the same.
            value.metadata.MergeFromString(metadata.SerializeToString())
        self._writer.file_writer.add_summary(summary_pb2.Summary(value=[value]), step)
        self._done()

    def hparams(self, hparams: Mapping[str, object]) -> None:
        """Write hyper-parameters, which are shown next to the metrics of the run.

        Args:
            hparams: their names and values; nested names are joined with `.`.
        """
        flat: dict[str, bool | int | float | str] = {}
        for path, value in flatten_dict(hparams).items():
            is_plain = isinstance(value, bool | int | float | str)
            flat[".".join(map(str, path))] = value if is_plain else str(value)
        self._writer.add_hparams(flat, {})
        self._done()
