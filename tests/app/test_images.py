"""Folders of images: their layouts, and images of all kinds."""

import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from linsey.app.config import DataOptions
from linsey.app.images import read_image
from linsey.app.readers import load
from linsey.errors import InputError


def make_images(root, classes=("cat", "dog"), count=5, mode="L") -> None:
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for index in range(count):
            color = 50 * number + index
            value = color if mode == "L" else (color, 0, 255 - color)
            Image.new(mode, (12, 9), value).save(root / name / f"{index}.png")


def test_image_folder_is_split_by_class(tmp_path):
    make_images(tmp_path / "data")
    (tmp_path / "data" / ".hidden").mkdir()
    (tmp_path / "data" / "cat" / "notes.txt").write_text("not an image")
    data = load(DataOptions(data=str(tmp_path / "data"), image_size=4))
    assert data.class_names == ("cat", "dog")
    assert (data.x_train.shape, data.x_test.shape) == ((8, 4, 4, 1), (2, 4, 4, 1))
    assert all(data.x_train[data.y_train == 1].min(axis=(1, 2, 3)) >= 50)


def test_image_folder_with_parts_and_color(tmp_path):
    make_images(tmp_path / "train", mode="RGB")
    make_images(tmp_path / "test", count=2, mode="L")
    data = load(DataOptions(data=str(tmp_path), image_size=3))
    assert (data.x_train.shape, data.x_test.shape) == ((10, 3, 3, 3), (4, 3, 3, 3))
    np.testing.assert_array_equal(data.x_train[7][0, 0], [52, 0, 203])


def test_bad_image_folders_are_named(tmp_path):
    root = tmp_path / "data"
    options = DataOptions(data=str(root))
    root.mkdir()
    with pytest.raises(InputError, match="no classes: .* found 0 folders"):
        load(options)
    make_images(root)
    (root / "cow").mkdir()
    with pytest.raises(InputError, match="cow: a class without images"):
        load(options)
    (root / "cow" / "0.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match="cow/0.jpg: not a readable image"):
        load(options)


def write_images(root, make, mode_suffix="png"):
    for label, name in enumerate(("a", "b")):
        (root / name).mkdir()
        for i in range(5):
            make(label, i).save(root / name / f"{i}.{mode_suffix}")
        (root / name / "._0.png").write_bytes(b"left by a system")
        (root / name / "Thumbs.db").write_bytes(b"and this")
    (root / "__MACOSX").mkdir()


@pytest.mark.parametrize(
    ("dtype", "suffix", "scale"),
    [(np.uint16, "png", 255 / 65535), (np.int32, "tif", 1), (np.float32, "tif", 1)],
)
def test_images_of_more_than_8_bits_keep_their_values(tmp_path, dtype, suffix, scale):
    ramp = np.arange(64, dtype=dtype).reshape(8, 8)

    def make(label, i):
        return Image.fromarray((ramp * 400 + 20000 * label + i).astype(dtype))

    write_images(tmp_path, make, suffix)
    data = load(DataOptions(data=str(tmp_path), image_size=8))
    assert data.x_train.dtype == np.float32 and data.shape == (8, 8, 1)
    assert data.class_names == ("a", "b")
    first = data.x_train[data.y_train == 1][0, ..., 0] / np.float32(scale)
    np.testing.assert_allclose(first - first[0, 0], ramp * 400, rtol=1e-4, atol=0.1)
    assert 20000 <= round(float(first[0, 0])) < 20005


def test_deep_grey_images_may_stand_beside_colored_ones(tmp_path):
    def make(label, i):
        if label:
            return Image.new("RGB", (8, 8), (10 * i, 0, 0))
        return Image.fromarray(np.full((8, 8), 257 * 100, np.uint16))

    write_images(tmp_path, make)
    data = load(DataOptions(data=str(tmp_path), image_size=4))
    assert data.shape == (4, 4, 3)
    np.testing.assert_allclose(data.x_train[data.y_train == 0], 100, rtol=1e-5)


def labels_by_name(data) -> dict[str, int]:
    counts = np.bincount(np.concatenate([data.y_train, data.y_test]))
    return dict(zip(data.class_names, counts.tolist(), strict=True))


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val", "test"])
def test_a_validation_part_serves_as_the_test_part(tmp_path, name):
    make_images(tmp_path / "train")
    make_images(tmp_path / name, count=2)
    data = load(DataOptions(data=str(tmp_path), image_size=4))
    assert (len(data.x_train), len(data.x_test)) == (10, 4)
    assert data.class_names == ("cat", "dog") and not data.notes


def test_a_validation_part_beside_a_test_part_chooses_the_best_step(tmp_path):
    make_images(tmp_path / "train")
    make_images(tmp_path / "val", count=3)
    make_images(tmp_path / "test", count=2)
    make_images(tmp_path / "more", count=1)
    data = load(DataOptions(data=str(tmp_path), image_size=4))
    assert (len(data.x_train), len(data.x_test)) == (10, 4)
    assert data.validation is not None
    assert len(data.validation[0]) == 6 and data.watched == "validation"
    assert data.notes == ("more/ beside train/ is not used",)


def test_one_folder_train_holds_the_classes_and_beside_others_it_is_one(tmp_path):
    make_images(tmp_path / "a" / "train")
    assert load(DataOptions(data=str(tmp_path / "a"))).class_names == ("cat", "dog")
    make_images(tmp_path / "b", classes=("bus", "train"))
    assert load(DataOptions(data=str(tmp_path / "b"))).class_names == ("bus", "train")


def test_parts_without_one_to_train_on_are_refused(tmp_path):
    make_images(tmp_path / "test")
    make_images(tmp_path / "val")
    with pytest.raises(InputError, match="no part to train on: .*found test, val"):
        load(DataOptions(data=str(tmp_path)))


@pytest.mark.parametrize("direct", ["train", "val"])
def test_images_directly_in_a_part_have_no_class(tmp_path, direct):
    """Not a classifier of "train" against "val", with an accuracy of 1."""
    for part in ("train", "val"):
        make_images(tmp_path / part, classes=(".",) if part == direct else ("a", "b"))
    with pytest.raises(InputError) as caught:
        load(DataOptions(data=str(tmp_path), image_size=4))
    assert str(caught.value) == (
        f"{tmp_path}/{direct}: the images lie in no folder that names their class: "
        "expected a folder of images for each class, found 0.png (move each image into "
        f"a folder of its class, such as {direct}/cat/0.png)"
    )
    for index, path in enumerate(sorted((tmp_path / direct).glob("*.png"))):
        name = "ab"[index % 2]
        (tmp_path / direct / name).mkdir(exist_ok=True)
        path.rename(tmp_path / direct / name / path.name)
    assert load(DataOptions(data=str(tmp_path))).class_names == ("a", "b")


def test_hint_for_classes_that_lie_deeper_works(tmp_path):
    make_images(tmp_path / "archive" / "photos")
    with pytest.raises(InputError, match="no classes: .* found 1 folder ") as caught:
        load(DataOptions(data=str(tmp_path)))
    folder = str(caught.value).split("give --data ")[1].split(", if its")[0]
    assert load(DataOptions(data=folder)).class_names == ("cat", "dog")
    make_images(tmp_path / "alone" / "cat", classes=("black",))
    with pytest.raises(InputError, match="found 1 folder$"):
        load(DataOptions(data=str(tmp_path / "alone")))


def test_images_beside_class_folders_are_told_of(tmp_path):
    make_images(tmp_path)
    shutil.copy(tmp_path / "cat" / "0.png", tmp_path / "cover.png")
    (note,) = load(DataOptions(data=str(tmp_path))).notes
    assert (
        note == f"{tmp_path.name}/ has images in no class folder, not used: cover.png"
    )


def test_folders_in_a_class_folder_belong_to_the_class(tmp_path):
    make_images(tmp_path / "cat", classes=("black", "white/old", "white/young"))
    make_images(tmp_path, classes=("dog",))
    data = load(DataOptions(data=str(tmp_path), image_size=4))
    assert labels_by_name(data) == {"cat": 15, "dog": 5}
    link = tmp_path / "cat" / "white" / "link"
    link.symlink_to(tmp_path / "dog")
    with pytest.raises(InputError, match="white/link: a link, and links are not"):
        load(DataOptions(data=str(tmp_path)))
    link.unlink()  # "put what it points to in its place"
    shutil.copytree(tmp_path / "dog", link)
    data = load(DataOptions(data=str(tmp_path)))
    assert labels_by_name(data) == {"cat": 20, "dog": 5}


def test_a_class_without_images_is_refused_with_hints_that_work(tmp_path):
    make_images(tmp_path, classes=("cat", "cow", "dog"))
    for path in (tmp_path / "cow").iterdir():
        path.rename(path.with_suffix(".heic"))
    with pytest.raises(
        InputError, match="cow: a class without .*found .heic"
    ) as caught:
        load(DataOptions(data=str(tmp_path)))
    assert caught.value.hint == "move the folder away, or put images in it"
    shutil.copytree(tmp_path / "cat", tmp_path / "cow", dirs_exist_ok=True)
    assert labels_by_name(load(DataOptions(data=str(tmp_path))))["cow"] == 5
    shutil.move(tmp_path / "cow", tmp_path.with_name("elsewhere"))
    assert load(DataOptions(data=str(tmp_path))).class_names == ("cat", "dog")


def test_a_class_of_the_test_part_alone_is_refused_with_hints_that_work(tmp_path):
    make_images(tmp_path / "train")
    make_images(tmp_path / "test", classes=("cat", "cow", "dog"))
    with pytest.raises(
        InputError, match="test/cow: a class that is not in the"
    ) as caught:
        load(DataOptions(data=str(tmp_path)))
    assert caught.value.hint == "move it away, or add the class to the training part"
    shutil.copytree(tmp_path / "test" / "cow", tmp_path / "train" / "cow")
    assert len(load(DataOptions(data=str(tmp_path))).class_names) == 3
    for part in ("train", "test"):
        shutil.rmtree(tmp_path / part / "cow")
    assert len(load(DataOptions(data=str(tmp_path))).class_names) == 2


# -- broken images -------------------------------------------------------------------


def test_broken_images_are_named_or_left_out_and_listed(tmp_path):
    make_images(tmp_path)
    whole = (tmp_path / "cat" / "0.png").read_bytes()
    (tmp_path / "cat" / "cut.png").write_bytes(whole[:-30])
    (tmp_path / "dog" / "empty.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="cat/cut.png: not a readable image") as caught:
        load(DataOptions(data=str(tmp_path)))
    assert caught.value.hint == "--skip-broken leaves such images out"
    data = load(DataOptions(data=str(tmp_path), skip_broken=True))
    assert labels_by_name(data) == {"cat": 5, "dog": 5}
    assert data.notes == ("2 broken images are left out: cat/cut.png, dog/empty.jpg",)
    for path in (tmp_path / "dog").iterdir():
        path.write_bytes(whole[:40])
    with pytest.raises(InputError, match="dog: a class without an image that can be"):
        load(DataOptions(data=str(tmp_path), skip_broken=True))


def test_what_is_no_file_is_not_skipped(tmp_path):
    make_images(tmp_path)
    (tmp_path / "cat" / "9.png").symlink_to("/etc/passwd")
    with pytest.raises(InputError, match="9.png: a link, and links are not followed"):
        load(DataOptions(data=str(tmp_path), skip_broken=True))


@pytest.mark.parametrize("side", [8000, 14_000])
def test_an_image_of_too_many_pixels_is_told_in_plain_words(tmp_path, side):
    make_images(tmp_path)
    content = (tmp_path / "cat" / "0.png").read_bytes()
    header = b"IHDR" + struct.pack(">II5B", side, side, 8, 0, 0, 0, 0)
    header += struct.pack(">I", zlib.crc32(header))
    (tmp_path / "cat" / "0.png").write_bytes(content[:12] + header + content[33:])
    with pytest.raises(InputError) as caught:
        load(DataOptions(data=str(tmp_path)))
    found = "8,000 x 8,000" if side == 8000 else "196,000,000"
    assert str(caught.value) == (
        f"{tmp_path}/cat/0.png: the image is too large: expected at most 50,000,000 "
        f"pixels, found {found} (--skip-broken leaves such images out)"
    )
    data = load(DataOptions(data=str(tmp_path), skip_broken=True))
    assert labels_by_name(data) == {"cat": 4, "dog": 5}


# -- kinds of images -----------------------------------------------------------------


def pixels(tmp_path, image, name="a.png", **options) -> np.ndarray:
    image.save(tmp_path / name, **options)
    return read_image(tmp_path / name, 2)


def test_what_is_transparent_shows_white(tmp_path):
    half = pixels(tmp_path, Image.new("RGBA", (2, 2), (200, 0, 0, 128)))
    np.testing.assert_allclose(half[0, 0], [227, 127, 127], atol=1)
    grey = pixels(tmp_path, Image.new("LA", (2, 2), (0, 0)))
    assert grey.shape == (2, 2, 1) and (grey == 255).all()
    flat = Image.new("P", (2, 2), 1)
    flat.putpalette([0, 0, 0, 9, 80, 70])
    assert pixels(tmp_path, flat)[0, 0].tolist() == [9, 80, 70]
    assert pixels(tmp_path, flat, transparency=1)[0, 0].tolist() == [255] * 3
    assert (pixels(tmp_path, Image.new("L", (2, 2), 7), transparency=7) == 255).all()
    clear = Image.new("RGB", (2, 2), (1, 2, 3))
    assert (pixels(tmp_path, clear, transparency=(1, 2, 3)) == 255).all()
    assert (pixels(tmp_path, Image.new("1", (2, 2), 1)) == 255).all()


def test_prints_and_palettes_have_their_colors(tmp_path):
    ink = pixels(tmp_path, Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "a.jpg")
    np.testing.assert_allclose(ink[0, 0], [0, 255, 255], atol=3)
    frames = [Image.new("RGB", (2, 2), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "a.gif", 2)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_the_camera_says(tmp_path, suffix, orientation):
    upright = Image.fromarray(
        np.kron([[0, 80], [160, 240]], np.ones((8, 8))).astype("u1")
    )
    back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
    held = upright if back is None else upright.transpose(Image.Transpose(back))
    exif = Image.Exif()
    exif[0x0112] = orientation
    held.convert("RGB").save(tmp_path / f"a.{suffix}", exif=exif, quality=100)
    with Image.open(tmp_path / f"a.{suffix}") as image:
        expected = ImageOps.exif_transpose(image).convert("RGB").resize((16, 16))
    found = read_image(tmp_path / f"a.{suffix}", 16)
    np.testing.assert_array_equal(found, np.asarray(expected))
    np.testing.assert_allclose(found[4::8, 4::8, 0], [[0, 80], [160, 240]], atol=6)


def test_damage_in_what_the_camera_says_is_none_of_the_image(tmp_path):
    image = Image.new("L", (8, 8), 9)
    image.save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff broken")
    assert read_image(tmp_path / "a.jpg", 2).shape == (2, 2, 1)


def test_numbers_that_are_not_finite_are_refused_with_the_file(tmp_path):
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match="a.tif: an image with numbers that are not"):
        read_image(tmp_path / "a.tif", 2)
