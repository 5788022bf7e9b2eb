"""The page of a run: pictures of mistakes, shading, and what it was made with."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from linsey.app import page
from linsey.app.curves import draw_run
from linsey.app.page import matrix, table
from linsey.app.pictures import MOST, data_uri, wrong_examples
from linsey.app.scores import Answers
from tests.app.runs import SMALL, make_blobs

NAMES = ("<cat>", "dog & co")


def answers(count, wrong):
    """Two classes; the first examples are wrong, each with more confidence."""
    labels = np.arange(count) % 2
    predicted = np.where(np.arange(count) < wrong, 1 - labels, labels)
    return Answers(labels, predicted, np.linspace(0, 1, count), labels * 0, 2)


def pictures(html):
    sources = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    return [Image.open(io.BytesIO(base64.b64decode(one))) for one in sources]


@pytest.mark.parametrize(
    ("channels", "mode"), [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")]
)
def test_pictures_are_png_files_of_the_same_pixels(channels, mode):
    pixels = np.random.default_rng(0).integers(256, size=(5, 7, channels), dtype="u1")
    (image,) = pictures(f'<img src="{data_uri(pixels)}">')
    assert image.mode == mode
    assert (np.asarray(image).reshape(pixels.shape) == pixels).all()


def test_the_mistakes_that_it_was_most_sure_of_are_shown():
    x = np.random.default_rng(0).integers(256, size=(40, 4, 4, 3), dtype="u1")
    (html,) = wrong_examples(answers(40, wrong=20), x, NAMES)
    images = pictures(html)
    assert len(images) == MOST == html.count("<figure>")
    expected = x[19].astype(int)  # scaled from 0 to the largest value, which is 255
    assert abs(np.asarray(images[0]).astype(int) - expected).max() <= 1
    first = re.search(r"<figcaption>(.*?)</figcaption>", html)[1]
    assert first == "dog &amp; co<br>taken for &lt;cat&gt; (0.49)"


def test_pictures_of_any_numbers_and_sizes():
    x = np.random.default_rng(0).normal(size=(4, 300, 500, 5))
    (html,) = wrong_examples(answers(4, wrong=1), x, NAMES)
    (image,) = pictures(html)
    assert image.mode == "L"
    assert image.size == (125, 75)
    (html,) = wrong_examples(answers(4, wrong=1), np.zeros((4, 2, 2, 1)), NAMES)
    assert len(pictures(html)) == 1


def test_without_mistakes_or_images_there_are_no_pictures():
    assert wrong_examples(answers(4, wrong=0), np.zeros((4, 2, 2, 1)), NAMES) == []
    assert wrong_examples(answers(4, wrong=2), np.zeros((4, 6)), NAMES) == []


def test_a_confusion_matrix_is_shaded_by_its_rows():
    html = matrix(NAMES, [[3, 1], [0, 0]])
    assert '<td class="right" style="--part:0.75">3</td>' in html
    assert '<td class="wrong" style="--part:0.25">1</td>' in html
    assert html.count('<td class="none">0</td>') == 2
    assert html.count("&lt;cat&gt;") == 2
    assert "<cat>" not in html


def test_columns_of_numbers_are_aligned_to_the_right():
    rows = [(1, "1,234", "", "5"), ("mean", "-2.5e-05", "0.5", "five")]
    html = table(("class", "n", "part", "word"), rows)
    assert html.count('<th class="number">') == 2
    assert "<td>1</td>" in html
    assert '<td class="number">1,234</td><td class="number"></td><td>5</td>' in html
    assert "<tbody>\n</tbody>" in table(("class", "n"), [])


def test_curves_are_one_file_and_one_picture_each(tmp_path):
    records = [
        {"kind": "train", "step": step, "loss": 1 / step, "accuracy": 0.5}
        for step in (1, 2, 3)
    ]
    html = draw_run(tmp_path / "curves.png", records)
    parts = pictures(html)
    with Image.open(tmp_path / "curves.png") as whole:
        quarter = pytest.approx((whole.width / 2, whole.height / 2), rel=0.03)
    assert len(parts) == 4
    assert all(part.size == quarter for part in parts)
    assert len({part.tobytes() for part in parts}) == 4


def test_pages_are_made_for_phones_and_for_paper():
    style = page._STYLE
    assert "@media (max-width: 40rem)" in style
    assert "@media print" in style
    assert style.count("{") == style.count("}")
    assert 'content="width=device-width, initial-scale=1"' in page.page("a").decode()


def test_the_page_of_a_run_on_images(linsey, tmp_path):
    random = np.random.default_rng(0)
    x = random.integers(17, size=(80, 4, 4, 1)).astype("u1")
    np.savez(tmp_path / "noise.npz", x=x, y=np.arange(80) % 8)  # nothing to be learned
    options = ("--data", "noise.npz", *SMALL, "--out", "run")
    assert linsey("train", *options).code == 0
    text = (tmp_path / "run" / "report.html").read_text()
    assert text.count("<figure>") == min(
        MOST, int(re.search(r"(\d+) of 16 test", text)[1])
    )
    for words in ("Wrong examples", "Top-5 accuracy", "Calibration", "learning rate",
                  "training speed", "duration", "linsey", "jax", "numpy", "Python",
                  "weight_decay", "Statistics"):  # fmt: skip
        assert words in text, words
    assert not re.search(r"https?:|<script|<link|@import|url\(", text)
    assert all(
        one.startswith("data:image/png") for one in re.findall(r'src="(.*?)"', text)
    )


@pytest.mark.slow
def test_the_page_of_many_classes_lists_their_mistakes(linsey, tmp_path):
    x, y = make_blobs(count=400, classes=50)
    np.savez(tmp_path / "many.npz", x=x, y=y)
    options = ("--data", "many.npz", *SMALL, "--epochs", 1, "--out", "run")
    assert linsey("train", *options).code == 0
    text = (tmp_path / "run" / "report.html").read_text()
    assert "The most frequent mistakes." in text
    assert '<table class="matrix">' not in text
