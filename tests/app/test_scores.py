"""Scores against their definitions, counted one example at a time."""

import numpy as np
import pytest

from linsey.app.scores import Answers, Calibration, ClassScores


def answers(seed, count=300, classes=7):
    random = np.random.default_rng(seed)
    labels = random.integers(classes - 1, size=count)  # the last class has no example
    logits = random.normal(size=(count, classes)) + 2 * np.eye(classes)[labels]
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    own = logits[np.arange(count), labels]
    return Answers(labels, logits.argmax(1), chances.max(1),
                   (logits > own[:, None]).sum(1), classes)  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_scores_of_classes_are_those_of_their_definition(seed):
    given = answers(seed)
    pairs = list(zip(given.labels.tolist(), given.predicted.tolist(), strict=True))
    scores = ClassScores.of(given.confusion())
    f1 = []
    for number in range(given.classes):
        right = sum(pair == (number, number) for pair in pairs)
        predicted = sum(said == number for _, said in pairs)
        support = sum(true == number for true, _ in pairs)
        precision = right / predicted if predicted else 0
        recall = right / support if support else 0
        both = precision + recall
        f1.append(2 * precision * recall / both if both else 0)
        found = [scores.precision, scores.recall, scores.support, scores.predicted]
        expected = [precision, recall, support, predicted]
        assert [column[number] for column in found] == pytest.approx(expected)
    assert scores.f1 == pytest.approx(f1)
    weights = scores.support / scores.support.sum()
    assert scores.weighted().f1 == pytest.approx(np.dot(f1, weights))
    counted = [
        f for f, n in zip(f1, scores.support + scores.predicted, strict=True) if n
    ]
    assert scores.macro().f1 == pytest.approx(np.mean(counted))
    # The accuracy is the recall, weighted by support.
    assert scores.weighted().recall == pytest.approx(given.is_right.mean())


def test_scores_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    given = answers(5)
    scores = ClassScores.of(given.confusion())
    told = metrics.precision_recall_fscore_support(
        given.labels, given.predicted, labels=range(given.classes), zero_division=0
    )
    found = (scores.precision, scores.recall, scores.f1, scores.support)
    for ours, theirs in zip(found, told, strict=True):
        assert ours == pytest.approx(theirs)
    for average in ("macro", "weighted"):
        theirs = metrics.precision_recall_fscore_support(
            given.labels, given.predicted, average=average, zero_division=0
        )
        ours = getattr(scores, average)()
        assert tuple(vars(ours).values()) == pytest.approx(theirs[:3])


def test_a_class_without_examples_counts_only_if_it_was_predicted():
    confusion = np.array([[4, 0, 0], [0, 3, 1], [0, 0, 0]])
    scores = ClassScores.of(confusion)
    assert scores.macro().recall == pytest.approx((1 + 0.75 + 0) / 3)
    scores = ClassScores.of(np.array([[4, 0, 0], [1, 3, 0], [0, 0, 0]]))
    assert scores.macro().recall == pytest.approx((1 + 0.75) / 2)


def test_top_5_is_told_where_it_says_something():
    given = answers(1)
    assert given.top_accuracy() == pytest.approx(np.mean(given.rank <= 4))
    assert answers(1, classes=5).top_accuracy() is None


def test_the_most_frequent_mistakes_come_first():
    labels = np.array([0, 0, 1, 1, 1, 2])
    predicted = np.array([0, 1, 2, 2, 1, 2])
    zeros = np.zeros(6)
    found = Answers(labels, predicted, zeros, zeros, 3).most_confused(5)
    assert found == [(1, 2, 2), (0, 1, 1)]


@pytest.mark.parametrize("seed", range(3))
def test_calibration_error_is_that_of_its_definition(seed):
    given = answers(seed)
    confidence, is_right = given.confidence, given.is_right
    expected = 0.0
    for number in range(15):
        inside = [
            index
            for index, value in enumerate(confidence)
            if number / 15 < value <= (number + 1) / 15
        ]
        if inside:
            gap = abs(np.mean(is_right[inside]) - np.mean(confidence[inside]))
            expected += len(inside) / len(confidence) * gap
    found = Calibration.of(confidence, is_right)
    assert found.error == pytest.approx(expected)
    assert sum(one.count for one in found.bins) == len(confidence)
    assert found.confidence == pytest.approx(confidence.mean())


def test_confidences_at_the_edges_are_in_a_bin():
    edges = np.array([0.0, 1 / 15, 1.0])
    found = Calibration.of(edges, np.array([False, False, True]))
    assert [one.count for one in found.bins] == [2, *[0] * 13, 1]
    assert found.bins[1].accuracy is found.bins[1].confidence is None
    assert found.bins[0].high == pytest.approx(1 / 15)


def test_one_who_is_sure_and_right_is_calibrated():
    assert Calibration.of(np.ones(4), np.ones(4, bool)).error == 0


def test_confidence_that_is_no_number_gives_no_error():
    found = Calibration.of(np.array([0.9, np.nan]), np.array([True, False]))
    assert np.isnan(found.error)
    assert sum(one.count for one in found.bins) == 1
