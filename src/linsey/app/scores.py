"""Scores of a classifier from its answers: by class, on average, and its calibration.

Everything is computed from four arrays with an entry for each example (`Answers`), in
NumPy. A fraction whose denominator is 0, such as the precision of a class that was
never predicted, is 0, as in scikit-learn.
"""

from __future__ import annotations

import dataclasses

import numpy as np

CALIBRATION_BINS = 15
TOP = 5
"""The number of ranks that count as correct in the top-5 accuracy."""


@dataclasses.dataclass(frozen=True)
class Answers:
    """The answers of a classifier to each example.

    Attributes:
        labels: (examples,) the true classes.
        predicted: (examples,) the classes with the largest logits.
        confidence: (examples,) float64, the probabilities of these classes, in [0, 1].
        rank: (examples,) the number of classes ranked before the true one.
        classes: number of classes.
    """

    labels: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    rank: np.ndarray
    classes: int

    @property
    def is_right(self) -> np.ndarray:
        """(examples,) whether the prediction is the label."""
        return self.labels == self.predicted

    def confusion(self) -> np.ndarray:
        """Count examples by true (row) and predicted (column) class."""
        confusion = np.zeros((self.classes, self.classes), np.int64)
        np.add.at(confusion, (self.labels, self.predicted), 1)
        return confusion

    def most_confused(self, most: int) -> list[tuple[int, int, int]]:
        """List the most frequent mistakes: true class, predicted class, how often."""
        wrong = self.confusion()
        np.fill_diagonal(wrong, 0)
        largest = np.argsort(-wrong, axis=None, kind="stable")[:most]
        pairs = zip(*np.unravel_index(largest, wrong.shape), strict=True)
        found = [(int(true), int(said), int(wrong[true, said])) for true, said in pairs]
        return [one for one in found if one[2]]

    def top_accuracy(self) -> float | None:
        """Return the fraction of examples whose class is among the first five.

        `None` if there are no more than five classes: it would be 1.
        """
        return None if self.classes <= TOP else float((self.rank < TOP).mean())


@dataclasses.dataclass(frozen=True)
class Average:
    """Precision, recall and F1 over classes."""

    precision: float
    recall: float
    f1: float


@dataclasses.dataclass(frozen=True)
class ClassScores:
    r"""Scores of each class.

    With true positives TP, false positives FP and false negatives FN of a class, the
    precision is TP / (TP + FP), the recall TP / (TP + FN), and F1 their harmonic mean,
    2 TP / (2 TP + FP + FN).

    Attributes:
        precision: (classes,) fraction of the predictions of the class that are correct.
        recall: (classes,) fraction of the examples of the class that were found.
        f1: (classes,) harmonic mean of both.
        support: (classes,) number of examples of the class.
        predicted: (classes,) number of examples predicted as the class.

    Example:
        >>> scores = ClassScores.of(np.array([[8, 2], [0, 10]]))
        >>> scores.precision.round(4).tolist(), scores.recall.tolist()
        ([1.0, 0.8333], [0.8, 1.0])
    """

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray
    predicted: np.ndarray

    @classmethod
    def of(cls, confusion: np.ndarray) -> ClassScores:
        """Compute the scores from counts by true (row) and predicted (column) class."""
        right = confusion.diagonal()
        support, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
        return cls(
            _fraction(right, predicted),
            _fraction(right, support),
            _fraction(2 * right, support + predicted),
            support,
            predicted,
        )

    def macro(self) -> Average:
        """Average with equal weights over classes with examples or predictions."""
        return self._average((self.support + self.predicted > 0).astype(np.float64))

    def weighted(self) -> Average:
        """Average over the classes, each weighted by its number of examples."""
        return self._average(self.support.astype(np.float64))

    def _average(self, weights: np.ndarray) -> Average:
        total = weights.sum()
        means = [float(s @ weights / total) for s in self._scores()]
        return Average(*means)

    def _scores(self) -> tuple[np.ndarray, ...]:
        return self.precision, self.recall, self.f1


def _fraction(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)


@dataclasses.dataclass(frozen=True)
class Bin:
    """The examples whose confidence is in (low, high].

    Attributes:
        low: the lower bound; excluded, except for 0.
        high: the upper bound; included.
        count: number of examples.
        accuracy: the fraction of correct predictions; `None` without examples.
        confidence: their mean confidence; `None` without examples.
    """

    low: float
    high: float
    count: int
    accuracy: float | None
    confidence: float | None


@dataclasses.dataclass(frozen=True)
class Calibration:
    r"""How well the confidence of a classifier agrees with its accuracy.

    The expected calibration error of n examples in bins B of equal width is

        ECE = sum over bins of |B| / n * |accuracy(B) - confidence(B)|.

    The best value is 0. It says nothing about how often the classifier is right.

    Attributes:
        error: the ECE; NaN if a confidence is not finite.
        confidence: the mean of all confidences.
        bins: from the least confident to the most.

    References:
        Guo, Pleiss, Sun and Weinberger (2017), On Calibration of Modern Neural
        Networks. https://arxiv.org/abs/1706.04599
    """

    error: float
    confidence: float
    bins: tuple[Bin, ...]

    @classmethod
    def of(
        cls, confidence: np.ndarray, is_right: np.ndarray, bins: int = CALIBRATION_BINS
    ) -> Calibration:
        """Compute the calibration of predictions.

        Args:
            confidence: (examples,) probabilities of the predicted classes.
            is_right: (examples,) whether the predictions are right.
            bins: number of bins over [0, 1].

        Example:
            >>> found = Calibration.of(np.array([0.9, 0.9]), np.array([True, False]))
            >>> round(found.error, 4), found.bins[13].count
            (0.4, 2)
        """
        edges = np.linspace(0, 1, bins + 1)
        # A confidence is in the bin that ends at the first edge not below it.
        index = np.clip(np.searchsorted(edges, confidence) - 1, 0, bins - 1)
        index[np.isnan(confidence)] = -1
        found, error = [], 0.0
        for number in range(bins):
            inside = index == number
            low, high = edges[number : number + 2].tolist()
            if not (count := int(inside.sum())):
                found.append(Bin(low, high, 0, None, None))
                continue
            accuracy = float(is_right[inside].mean())
            mean = float(confidence[inside].mean())
            error += count / len(confidence) * abs(accuracy - mean)
            found.append(Bin(low, high, count, accuracy, mean))
        is_defined = bool(np.isfinite(confidence).all())
        mean = float(confidence.mean())
        return cls(error if is_defined else np.nan, mean, tuple(found))
