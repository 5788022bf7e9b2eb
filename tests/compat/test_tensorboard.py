"""Summaries are in the files that TensorBoard reads."""

from __future__ import annotations

import inspect
import struct
from pathlib import Path

import numpy as np
import pytest

import linsey.metrics.tensorboard

SummaryWriter = linsey.metrics.tensorboard.SummaryWriter

pytestmark = pytest.mark.filterwarnings("ignore")  # of tensorboardX


def summaries(folder):
    """The tags and steps of all summaries in a folder."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = []
    for path in sorted(Path(folder).rglob("*tfevents*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            found += [(value.tag, event.step, value) for value in event.summary.value]
    return found


def test_numbers_are_written(tmp_path):
    pytest.importorskip("tensorboardX")
    writer = SummaryWriter(tmp_path)
    writer.scalar("loss", np.float32(0.5), 3)
    writer.close()
    writer.close()
    ((tag, step, value),) = summaries(tmp_path)
    assert (tag, step, value.simple_value) == ("loss", 3, 0.5)


def test_images_texts_and_histograms_are_written(tmp_path):
    pytest.importorskip("tensorboardX")
    writer = SummaryWriter(tmp_path, auto_flush=False)
    writer.image("one", np.zeros((4, 4, 3)), 1)
    writer.image("gray", np.zeros((4, 4)), 1)
    writer.image("many", np.zeros((5, 4, 4, 1)), 1, max_outputs=2)
    writer.histogram("values", np.arange(10.0), 2, bins=5)
    writer.text("note", ["a", b"b"], 3)
    writer.flush()
    writer.close()
    found = {
        tag.removesuffix("/text_summary"): (step, value)
        for tag, step, value in summaries(tmp_path)
    }
    assert set(found) == {"one", "gray", "many/0", "many/1", "values", "note"}
    histogram = found["values"][1].histo
    assert (histogram.num, histogram.sum, list(histogram.bucket)) == (10, 45, [2.0] * 5)


def test_nested_hyperparameters_are_written(tmp_path):
    pytest.importorskip("tensorboardX")
    writer = SummaryWriter(tmp_path)
    writer.hparams({"optimizer": {"rate": 0.1}, "name": None})
    writer.close()
    assert any("hparams" in tag for tag, _, _ in summaries(tmp_path))


def test_sounds_have_three_axes(tmp_path):
    pytest.importorskip("tensorboardX")
    writer = SummaryWriter(tmp_path)
    with pytest.raises(ValueError, match="must be 3D"):
        writer.audio("sound", np.zeros(8), 1)
    writer.close()


def test_arrays_are_written_as_they_are(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto import summary_pb2

    metadata = summary_pb2.SummaryMetadata()
    metadata.plugin_data.plugin_name = "mine"
    writer = SummaryWriter(tmp_path)
    writer.write("array", np.arange(6.0).reshape(2, 3), 3)
    writer.write("numbers", [1.5, 2.5], 4)
    writer.write("text", "hello", 5, metadata=metadata)
    writer.close()
    found = {tag: (step, value) for tag, step, value in summaries(tmp_path)}
    assert {tag: step for tag, (step, _) in found.items()} == {
        "array": 3,
        "numbers": 4,
        "text": 5,
    }
    array, numbers, text = (value.tensor for _, value in found.values())
    assert [dim.size for dim in array.tensor_shape.dim] == [2, 3]
    # The numbers of the enum are those of TensorFlow: float64, float32, text.
    assert [tensor.dtype for tensor in (array, numbers, text)] == [2, 1, 7]
    np.testing.assert_array_equal(np.frombuffer(array.tensor_content), np.arange(6.0))
    np.testing.assert_array_equal(
        np.frombuffer(numbers.tensor_content, np.float32), [1.5, 2.5]
    )
    assert list(text.string_val) == [b"hello"]
    assert found["text"][1].metadata.plugin_data.plugin_name == "mine"


def test_methods_are_called_as_in_flax():
    expected = {
        "scalar": ["tag", "value", "step"],
        "image": ["tag", "image", "step", "max_outputs"],
        "audio": ["tag", "audiodata", "step", "sample_rate", "max_outputs"],
        "histogram": ["tag", "values", "step", "bins"],
        "text": ["tag", "textdata", "step"],
        "write": ["tag", "tensor", "step", "metadata"],
        "hparams": ["hparams"],
    }
    for name, parameters in expected.items():
        signature = inspect.signature(getattr(SummaryWriter, name))
        assert list(signature.parameters)[1:] == parameters
