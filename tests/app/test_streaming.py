"""Folders of images whose pixels are not held give the bits of those that are."""

import signal

import numpy as np
import pytest
from PIL import Image

from linsey.app import image_array, steps
from linsey.app.config import DataOptions, LoadingOptions
from linsey.app.image_array import Held, Holding, ImageArray, Pixels
from linsey.app.images import decode, image_pixels
from linsey.app.readers import load
from linsey.errors import InputError
from tests.app.images import make_photos, photo
from tests.app.runs import assert_same_run, final

MIB = 2**20
OPTIONS = ("--model", "mlp", "--width", 2, "--depth", 1, "--epochs", 3, "--lr", 0.01,
           "--batch-size", 8, "--image-size", 6, "--log-every", 3)  # fmt: skip


def loaded(folder, memory: int, workers: int = 2, **options):
    loading = LoadingOptions(image_memory=memory, workers=workers)
    options = DataOptions(data=str(folder), image_size=6, **options)
    return load(options, loading=loading)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos") / "data")


@pytest.fixture(scope="module", params=[False, True], ids=["colored", "all-kinds"])
def both(request, tmp_path_factory):
    """The same images held and streamed."""
    folder = make_photos(tmp_path_factory.mktemp("both"), 30, kinds=request.param)
    held, streamed = loaded(folder, 1), loaded(folder, 0)
    assert held.x_train.is_held and held.x_test.is_held
    assert not (streamed.x_train.is_held or streamed.x_test.is_held)
    return held, streamed


# -- the same numbers ----------------------------------------------------------------


def test_pixels_and_digest_are_the_same_held_or_not(both):
    held, streamed = both
    for one, other in (
        (held.x_train, streamed.x_train), (held.x_test, streamed.x_test)
    ):  # fmt: skip
        assert one.shape == other.shape and one.dtype == other.dtype
        assert one[:].tobytes() == other[:].tobytes()
    assert held.digest() == streamed.digest()
    assert loaded(streamed.name, 0, workers=0).digest() == held.digest()
    assert loaded(streamed.name, 0, split_seed=1).digest() != held.digest()


def test_rows_are_those_of_an_array(both):
    held, streamed = both
    whole = held.x_train[:]
    last = np.arange(len(whole)) > 20
    for rows in (slice(3, 9), slice(0, 0), np.array([5, 0, 5]), last, slice(-2, None)):
        assert streamed.x_train[rows].tobytes() == whole[rows].tobytes()
        assert streamed.x_train[rows].shape == whole[rows].shape
    assert streamed.x_train[4].tobytes() == whole[4].tobytes()
    with pytest.raises(IndexError):
        streamed.x_train[len(whole)]


def test_images_that_are_known_are_read_when_asked_for(both, monkeypatch):
    right, size = both[0].x_test, both[0].shape[0]
    options = DataOptions(data=both[0].name, image_size=size)
    monkeypatch.setattr(image_array, "decode", None)
    data = load(options, pixels=Pixels(right.shape[-1], right.dtype))
    read = []
    monkeypatch.setattr(
        image_array, "decode", lambda *args: read.append(args) or decode(*args)
    )
    assert data.x_test[2:5].tobytes() == right[2:5].tobytes()
    assert len(read) == 3
    with pytest.raises(RuntimeError, match="not read to be measured"):
        data.digest()
    for pixels in (Pixels(1, right.dtype), Pixels(3, np.dtype(np.uint8))):
        if pixels != (right.shape[-1], right.dtype):
            with pytest.raises(InputError, match="more channels or bits than those"):
                load(options, pixels=pixels).x_train[:]


def test_the_standardizer_is_measured_once_and_right(both):
    held, streamed = both
    one, other = held.standardizer, streamed.standardizer
    assert one.to_json() == other.to_json()
    values = held.x_train[:].astype(np.float64)
    np.testing.assert_allclose(one.mean, values.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(one.std, values.std((0, 1, 2)), rtol=1e-12)
    low, high = streamed.x_test.extremes()
    np.testing.assert_array_equal(low, held.x_test[:].min((0, 1, 2)))
    np.testing.assert_array_equal(high, held.x_test[:].max((0, 1, 2)))


def test_images_that_do_not_vary_are_told_of(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for index in range(4):
            Image.new("L", (8, 8), 77).save(tmp_path / name / f"{index}.png")
    data = loaded(tmp_path, 0)
    assert data.standardizer.mean.tolist() == [77] and data.standardizer.std == [1]
    assert "channel 0 is the same in all of the training data" in data.warnings()[0]


def test_grey_images_beside_a_colored_part_have_three_channels(tmp_path):
    make_photos(tmp_path / "train", 8)
    make_photos(tmp_path / "test", 4)
    for path in (tmp_path / "test").rglob("*.jpg"):
        Image.open(path).convert("L").save(path)
    held, streamed = loaded(tmp_path, 1), loaded(tmp_path, 0)
    assert held.x_test.shape == streamed.x_test.shape == (4, 6, 6, 3)
    assert held.x_test[:].tobytes() == streamed.x_test[:].tobytes()
    assert held.digest() == streamed.digest()


# -- the memory that is given --------------------------------------------------------


def test_what_is_held_stays_within_the_memory_for_both_parts():
    image, holding = np.zeros((4, 4, 3), np.uint8), Holding(48 * 5)
    train = holding.begin(3)
    for _ in range(3):
        train.add(image)
    assert train.images is not None and holding.left == 48 * 2
    test = holding.begin(3)
    test.add(image)  # three like it would be too much
    assert test.images is None and holding.left == 48 * 2


def test_what_grows_too_large_is_given_up():
    grey, colored = np.zeros((4, 4, 1), np.uint8), np.zeros((4, 4, 3), np.float32)
    holding = Holding(200)
    part = Held(holding, 3)
    part.add(grey)
    part.add(colored)
    assert part.images is None and holding.left == 200
    part.add(grey)
    assert part.images is None and holding.left == 200


def test_streamed_images_are_not_decoded_without_need(photos, monkeypatch):
    decoded = []
    decode = image_array.decode
    monkeypatch.setattr(
        image_array, "decode", lambda *of: decoded.append(of) or decode(*of)
    )
    data = loaded(photos, 0)
    assert data.digest() and data.standardizer and data.x_test.extremes()
    data.standardizer.check(data.x_test)
    assert len(decoded) == 40
    held = loaded(photos, 1)
    held.standardizer(held.x_train[:])
    assert len(decoded) == 80


# -- the same run --------------------------------------------------------------------


def run(linsey, folder, out, *options):
    result = linsey("train", "--data", folder, *OPTIONS, "--out", out, *options)
    return result


def at_step(monkeypatch, number, action):
    """Do something when the step of a number has been computed."""
    train_step, calls = steps.train_step, []

    def counted(*args):
        result = train_step(*args)
        calls.append(0)
        if len(calls) == number:
            action()
        return result

    monkeypatch.setattr(steps, "train_step", counted)


@pytest.mark.slow
def test_a_run_is_the_same_held_or_streamed_and_resumed_either_way(
    linsey, photos, tmp_path, monkeypatch
):
    assert run(linsey, photos, "held").code == 0
    with monkeypatch.context() as patch:
        at_step(patch, 6, lambda: signal.raise_signal(signal.SIGTERM))
        stopped = run(linsey, photos, "run", "--image-memory", 0, "--workers", 2)
    assert stopped.code == 75 and final(tmp_path / "run").step == 6
    resumed = linsey("train", "--out", "run", "--resume", "--image-memory", 1)
    assert resumed.code == 0, resumed.err
    assert_same_run(tmp_path / "held", tmp_path / "run")
    assert run(linsey, photos, "alone", "--image-memory", 0, "--workers", 0).code == 0
    assert_same_run(tmp_path / "held", tmp_path / "alone")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_breaks_ends_the_run_in_one_line_after_saving(
    linsey, tmp_path, monkeypatch, workers
):
    folder = make_photos(tmp_path / "data")
    contents = {path: path.read_bytes() for path in folder.rglob("*.jpg")}

    def cut():
        for path, content in contents.items():
            path.write_bytes(content[:-40])

    stream = ("--image-memory", 0, "--workers", workers)
    with monkeypatch.context() as patch:
        at_step(patch, 5, cut)
        broken = run(linsey, folder, "run", *stream)
    assert broken.code == 2 and "not a readable image" in broken.error
    assert 5 <= final(tmp_path / "run").step < 12
    for path, content in contents.items():
        path.write_bytes(content)
    assert linsey("train", "--out", "run", "--resume", *stream).code == 0
    assert run(linsey, folder, "whole").code == 0
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_a_file_that_becomes_another_image_is_refused(tmp_path):
    folder = make_photos(tmp_path)
    data = loaded(folder, 0)
    photo(99).save(folder / "dark" / "000.jpg")
    with pytest.raises(InputError, match="000.jpg: not the image that it was when"):
        np.concatenate([data.x_train[:], data.x_test[:]])


# -- decoding ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(400, 300), (397, 301), (1000, 750)])
def test_jpegs_at_a_fraction_of_their_size_are_nearly_the_same(tmp_path, size):
    random = np.random.default_rng(0)
    noise = random.normal(0, 6, (size[1], size[0], 3))
    values = np.asarray(photo(0, size).resize(size)) + 40.0 + noise
    image = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    image.save(tmp_path / "a.jpg", quality=90)
    with Image.open(tmp_path / "a.jpg") as opened:
        whole = opened.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)
    with Image.open(tmp_path / "a.jpg") as opened:
        found = image_pixels(opened, 32)
        assert opened.size[0] < size[0]
    difference = np.abs(found.astype(float) - np.asarray(whole))
    assert difference.mean() < 0.7 and difference.max() <= 4


def test_an_image_array_can_be_sent_to_another_process(photos):
    import pickle

    x = loaded(photos, 0).x_train
    assert len(x[:3]) == 3  # by threads, which stay here
    again = pickle.loads(pickle.dumps(x))
    assert isinstance(again, ImageArray)
    assert again[:5].tobytes() == x[:5].tobytes()


@pytest.mark.slow
def test_another_folder_is_evaluated_by_the_classes_of_the_model(
    linsey, photos, tmp_path
):
    assert run(linsey, photos, "run", "--epochs", 1).code == 0
    other = make_photos(tmp_path / "other", 6)
    result = linsey("eval", "run", "--data", other)
    assert result.code == 0, result.err
    assert "of 6)" in result.out
