"""Learning curve of a head over grouped subsets of the training images, extrapolated by a power law."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.data.samples import Samples
from classify.errors import CompareError
from classify.evaluation.studies.base import StudyContext, choose_on_folds, fit_tasks
from classify.heads.registry import get_head
from classify.model_selection.grid_search import first_failure
from classify.model_selection.predictions import EntryPredictions, average_entries
from featurize.base.typing import Float64Array, IntArray

# The other heads of the store are fitted on one draw of fewer fractions; heads with slow training on even
# fewer.
_FRACTIONS_OTHER_HEADS = (0.125, 0.25, 0.5, 1.0)
_FRACTIONS_TENSORFLOW = (0.25, 0.5, 1.0)
_LEADING_DIGITS = (1, 2, 4, 5)  # leading digits of round numbers


def study_learning_curve(context: StudyContext) -> dict[str, Any]:
    """Fit the head on subsets of each fold's training images and predict the held-out images.

    The hyper-parameters are chosen once, on all training images. Accuracy is extrapolated by a power law of
    the error, ``error = scale * n_images ** -slope``, up to about twice the number of training images.

    Parameters
    ----------
    context : StudyContext

    Returns
    -------
    dict
        ``points`` of the curve, ``law``, and ``gains``: extrapolated changes in accuracy with more images,
        with 95 % percentile intervals of a bootstrap over held-out groups and draws. The intervals are
        approximate, because the images of each draw are taken as fixed. ``heads``: the points of every head
        that was compared on the store, the studied one first; a head that could not be fitted has a
        ``reason`` instead.

    Raises
    ------
    CompareError
        If there are too few images for three different subset sizes.

    References
    ----------
    Viering & Loog, "The shape of learning curves: a review", arXiv:2103.10948, section 4.1 (power laws).
    """
    subsets = draw_subsets(context)
    curve = fit_curve(context, choose_on_folds(context).params, subsets)
    if len(curve.fractions) < 3:
        raise CompareError("there are too few training images for a learning curve: add some first")
    n_images = len(context.images)
    resampled = resample_accuracies(curve, seed=context.seed)  # (n_resamples, n_fractions)
    n_entries = float(curve.group_sizes.sum())
    means = np.array([draws.mean() for draws in curve.accuracy])
    law = fit_power_law(curve.n_images, means[None], n_scored=n_entries)
    laws = fit_power_law(curve.n_images, resampled, n_scored=n_entries)
    gains = []
    for extra in dict.fromkeys(round_number(n_images / divisor) for divisor in (4, 2, 1)):
        gain = accuracy_at(law, n_images + extra) - accuracy_at(law, n_images)
        resampled_gain = accuracy_at(laws, n_images + extra) - accuracy_at(laws, n_images)
        low, high = np.quantile(resampled_gain, (0.025, 0.975))
        gains.append({"more_images": extra, "gain": float(gain[0]), "low": float(low), "high": float(high)})
    points = _points(curve, resampled)
    return {
        "metric": "accuracy",
        "n_images": n_images,
        "points": [
            {**point, "draws": draws.tolist()} for point, draws in zip(points, curve.accuracy, strict=True)
        ],
        "heads": [
            {"store": context.samples.store, "head": context.head, "points": points},
            *_other_curves(context, subsets),
        ],
        "law": {
            "formula": "error = scale * n_images ** -slope",
            "scale": float(law.scale[0]),
            "slope": float(law.slope[0]),
        },
        "gains": gains,
        "method": f"percentile bootstrap over held-out groups and draws, {N_RESAMPLES} resamples",
        "approximate": True,
        "method_of_other_heads": (
            f"one draw per size; percentile bootstrap over held-out groups, {N_RESAMPLES} resamples"
        ),
        "text": _text(context, curve, means, gains[-1]),
    }


def round_number(number: float) -> int:
    """Return the largest of 1, 2, 4, 5, 10, 20, 40, … that is at most ``number``; at least 1."""
    power = 10 ** int(np.floor(np.log10(max(number, 1.0))))
    return max(digit * power for digit in _LEADING_DIGITS if digit * power <= max(number, 1.0))


def _points(curve: LearningCurve, resampled: Float64Array) -> list[dict[str, Any]]:
    """Return the points of a curve with their intervals, from its resampled accuracies."""
    low, high = np.quantile(resampled, (0.025, 0.975), axis=0)
    return [
        {
            "fraction": fraction,
            "n_images": float(curve.n_images[i]),
            "accuracy": float(curve.accuracy[i].mean()),
            "low": float(low[i]),
            "high": float(high[i]),
        }
        for i, fraction in enumerate(curve.fractions)
    ]


def _other_curves(context: StudyContext, subsets: Subsets) -> list[dict[str, Any]]:
    """Return the curve of each other head of the store, from one draw of some fractions."""
    curves = []
    for head in context.heads:
        if head == context.head:
            continue
        head_context = replace(context, head=head)
        fractions = _FRACTIONS_TENSORFLOW if get_head(head).tensorflow else _FRACTIONS_OTHER_HEADS
        head_subsets = {
            (f, draw): part for (f, draw), part in subsets.items() if f in fractions and draw == 0
        }
        record: dict[str, Any] = {"store": context.samples.store, "head": head, "points": []}
        try:
            params = context.chosen.get(head) or choose_on_folds(head_context).params
            curve = fit_curve(head_context, params, head_subsets)
            record["points"] = _points(curve, resample_accuracies(curve, seed=context.seed))
        except CompareError as error:  # the other heads still get a curve
            record["reason"] = str(error)
        curves.append(record)
    return curves


def _text(context: StudyContext, curve: LearningCurve, means: Float64Array, gain: Mapping[str, Any]) -> str:
    points = ", ".join(
        f"{accuracy:.3f} with {n:.0f}" for accuracy, n in zip(means, curve.n_images, strict=True)
    )
    low, high = (f"{100 * gain[key]:+.1f}".replace("-", "−") for key in ("low", "high"))
    change = f"{100 * gain['gain']:+.1f}".replace("-", "−")
    unit = "images" if context.samples.n_joined is None else "entries"
    end = (
        f"With {gain['more_images']} more {unit}, the extrapolated change is {change} points "
        f"(approximate 95 % interval {low} to {high})"
    )
    if gain["low"] <= 0:
        end = f"{end}; an improvement is not certain"
    where = f"{context.head} on {context.samples.store}, out of fold"
    return f"Learning curve ({where}): accuracy {points} {unit}. {end}."


FRACTIONS = (0.125, 0.25, 0.5, 0.75, 1.0)  # fractions of the groups of each class
N_DRAWS = 4  # draws of each fraction below 1
N_RESAMPLES = 2_000
_CHUNK = 2**22  # weights per chunk

Subsets = Mapping[tuple[float, int], list[IntArray]]  # fraction, draw → images to fit on, one array per fold


@dataclass(frozen=True, kw_only=True, eq=False)
class LearningCurve:
    """Correct held-out predictions per group, for heads fitted on subsets of the training images."""

    fractions: tuple[float, ...]
    n_images: Float64Array  # (n_fractions,): mean number of images fitted on
    n_correct: list[Float64Array]  # one array per fraction, (n_draws, n_groups): correctly predicted entries
    group_sizes: Float64Array  # (n_groups,): entries of each group

    @property
    def accuracy(self) -> list[Float64Array]:
        """Accuracy of each draw, one array per fraction."""
        return [n_correct.sum(axis=1) / self.group_sizes.sum() for n_correct in self.n_correct]


def draw_subsets(context: StudyContext) -> Subsets:
    """Return the images of each fraction and draw, one array per fold. Fraction 1 is drawn once."""
    subsets: dict[tuple[float, int], list[IntArray]] = {}
    for fold, (fitted, _) in enumerate(context.folds):
        for draw in range(N_DRAWS):
            drawn = nested_subsets(
                context.samples, fitted, fractions=FRACTIONS[:-1], seed=(context.seed, fold, draw)
            )
            for fraction, part in zip(FRACTIONS[:-1], drawn, strict=True):
                subsets.setdefault((fraction, draw), []).append(part)
        subsets.setdefault((FRACTIONS[-1], 0), []).append(np.sort(fitted))
    return subsets


def nested_subsets(
    samples: Samples, images: IntArray, *, fractions: Sequence[float], seed: Sequence[int]
) -> Iterator[IntArray]:
    """Yield growing subsets of some images: the same fraction of the groups of each class.

    Each subset contains the previous one, and at least two groups of each class, because some heads set
    groups aside while fitting.

    Parameters
    ----------
    samples : Samples
    images : ndarray of shape (n_chosen,), int
    fractions : sequence of float
        In ascending order, in (0, 1].
    seed : sequence of int

    Yields
    ------
    ndarray of int
        Images, in ascending order.
    """
    generator = np.random.default_rng(seed)
    groups, first = np.unique(samples.group[images], return_index=True)
    label = samples.y[images][first]
    order = {int(k): generator.permutation(groups[label == k]) for k in np.unique(label)}
    for fraction in fractions:
        chosen = [
            class_groups[: max(2, round(fraction * len(class_groups)))] for class_groups in order.values()
        ]
        yield images[np.isin(samples.group[images], np.concatenate(chosen))]


def fit_curve(context: StudyContext, params: Mapping[str, Any], subsets: Subsets) -> LearningCurve:
    """Fit the head on all subsets in one run.

    Fractions whose subsets are too small for the head, or hardly larger than those of the previous fraction,
    are omitted from the curve.

    Parameters
    ----------
    context : StudyContext
    params : mapping
        Hyper-parameters of the head, the same for every subset.
    subsets : mapping
        All or some of `draw_subsets`. The same subsets are used for every head.

    Returns
    -------
    LearningCurve

    Raises
    ------
    CompareError
        If the head could not be fitted on any of them.
    """
    fractions = sorted({fraction for fraction, _ in subsets})
    size = {
        f: float(np.mean([len(images) for (g, _), folds in subsets.items() if g == f for images in folds]))
        for f in fractions
    }
    growing = [f for i, f in enumerate(fractions) if i == 0 or size[f] > 1.1 * size[fractions[i - 1]]]
    predictions, reason = _predict_held_out(
        context, params, {key: folds for key, folds in subsets.items() if key[0] in growing}
    )
    fitted = [f for f in growing if all(key in predictions for key in subsets if key[0] == f)]
    if not fitted:
        raise CompareError(f"{context.head} on {context.samples.store}: {reason}")
    group = np.unique(predictions[fitted[-1], 0].group, return_inverse=True)[1]

    def correct_by_group(entries: EntryPredictions) -> Float64Array:
        correct = np.argmax(entries.probabilities, axis=1) == entries.y
        return np.bincount(group, weights=correct).astype(np.float64)

    return LearningCurve(
        fractions=tuple(fitted),
        n_images=np.array([size[f] for f in fitted]),
        n_correct=[
            np.stack([correct_by_group(entries) for (g, _), entries in predictions.items() if g == f])
            for f in fitted
        ],
        group_sizes=np.bincount(group).astype(float),
    )


def resample_accuracies(curve: LearningCurve, *, seed: int) -> Float64Array:
    """Return mean accuracies with held-out groups and draws resampled, (n_resamples, n_fractions).

    The full set of images has a single draw, although other images would give another accuracy. It therefore
    uses the deviations between the draws of the previous fraction.
    """
    generator = np.random.default_rng(seed)
    n_groups = len(curve.group_sizes)
    chunk_size = max(1, _CHUNK // n_groups)
    chunks = []
    for start in range(0, N_RESAMPLES, chunk_size):
        n = min(chunk_size, N_RESAMPLES - start)
        weights = generator.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=n).astype(float)
        n_scored = weights @ curve.group_sizes
        means, deviations = [], np.zeros((n, 1))
        for n_correct in curve.n_correct:
            accuracy = (weights @ n_correct.T) / n_scored[:, None]  # (n, n_draws)
            n_draws = len(n_correct)
            if n_draws > 1:
                deviations = accuracy - accuracy.mean(axis=1, keepdims=True)
                deviations *= np.sqrt(n_draws / (n_draws - 1))
                drawn = generator.integers(n_draws, size=(n, n_draws))
            else:
                drawn = generator.integers(deviations.shape[1], size=(n, 1))
            deviation = np.take_along_axis(deviations, drawn, axis=1).mean(axis=1)
            means.append(accuracy.mean(axis=1) + deviation)
        chunks.append(np.stack(means, axis=1))
    return np.clip(np.concatenate(chunks), 0.0, 1.0)  # deviations of another fraction may exceed the range


def _predict_held_out(
    context: StudyContext, params: Mapping[str, Any], subsets: Subsets
) -> tuple[dict[tuple[float, int], EntryPredictions], str]:
    """Return the out-of-fold predictions for each subset, and the reason of a failure or ""."""
    held_out = [images for _, images in context.folds]
    tasks = [
        task
        for fold_images in subsets.values()
        for task in fit_tasks(context, params, tuple(zip(fold_images, held_out, strict=True)))
    ]
    results = iter(context.run(list(tasks)))
    images = np.concatenate(held_out)
    order = np.argsort(images, kind="stable")
    predictions, reason = {}, ""
    for key in subsets:
        fold_results = [next(results) for _ in held_out]
        if failed := first_failure(fold_results):
            reason = failed
            continue
        probabilities = np.concatenate([result.probabilities for result in fold_results])
        predictions[key] = average_entries(context.samples, images[order], probabilities[order])
    return predictions, reason


@dataclass(frozen=True, kw_only=True, eq=False)
class PowerLaw:
    """One or more power laws ``error = scale * n_images ** -slope``."""

    scale: Float64Array  # (n_laws,)
    slope: Float64Array  # (n_laws,)


def fit_power_law(n_images: npt.ArrayLike, accuracy: npt.ArrayLike, *, n_scored: float) -> PowerLaw:
    """Fit a power law to each curve by weighted least squares on logarithms.

    Each point is weighted by its number of images: power laws describe the end of a curve best, and the end
    is extrapolated. Half an error is added to each point to avoid the logarithm of zero.

    Parameters
    ----------
    n_images : array-like of shape (n_sizes,), float
        Subset sizes, at least two different ones.
    accuracy : array-like of shape (n_laws, n_sizes), float
    n_scored : float
        Number of entries that each accuracy was computed from.

    Returns
    -------
    PowerLaw
    """
    sizes = np.asarray(n_images, dtype=np.float64)
    wrong = (1 - np.asarray(accuracy, dtype=np.float64)) * n_scored
    x, y = np.log(sizes), np.log((wrong + 0.5) / (n_scored + 1))
    weights = sizes / sizes.sum()
    from_mean = x - weights @ x
    slope = -(y @ (weights * from_mean)) / np.sum(weights * from_mean**2)
    return PowerLaw(scale=np.exp(y @ weights + slope * (weights @ x)), slope=slope)


def accuracy_at(law: PowerLaw, n_images: float) -> Float64Array:
    """Return the accuracy of each law at a number of images, clipped to [0, 1]."""
    return np.clip(1 - law.scale * n_images**-law.slope, 0.0, 1.0)
