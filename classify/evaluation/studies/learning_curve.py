"""What more training images would bring: a learning curve over grouped subsets, and its prolongation."""

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

_OTHERS = (0.125, 0.25, 0.5, 1.0)  # fractions of the heads that are drawn beside it, one draw each
_NETWORKS = (0.25, 0.5, 1.0)  # those that are trained longest
_NICE = (1, 2, 4, 5)  # leading digits of the numbers of images that are spoken of


def study_learning_curve(case: StudyContext) -> dict[str, Any]:
    """Fit the head on parts of each fold's training images and grade the held-out ones.

    Hyper-parameters are those chosen on all. Accuracy is extrapolated by a power law of the error,
    ``error = scale * n_images ** -slope``, up to about twice the images there are.

    Parameters
    ----------
    case : StudyContext

    Returns
    -------
    dict
        ``points`` for a plot, ``law``, and ``gains``: what so many more images would bring, with 95 %
        percentile intervals of a bootstrap over held-out groups and draws. They take the images of each
        draw as given, so they are approximate. ``heads`` has the points of every head that was compared on
        the store, this one first; or the ``reason`` why one has none.

    Raises
    ------
    CompareError
        If there are too few images for three different sizes.

    References
    ----------
    Viering & Loog, "The shape of learning curves: a review", arXiv:2103.10948, section 4.1 (power laws).
    """
    parts = draw_parts(case)
    curve = fit_curve(case, choose_on_folds(case).params, parts)
    if len(curve.fractions) < 3:
        raise CompareError("there are too few training images for a learning curve: add some first")
    now = len(case.images)
    more = [round_number(now / part) for part in (4, 2, 1)]
    spread = resampled(curve, seed=case.seed)  # (n_resamples, n_fractions)
    n_entries = float(curve.sizes.sum())
    means = np.array([draws.mean() for draws in curve.accuracy])
    law = fit_power_law(curve.n_images, means[None], n_scored=n_entries)
    laws = fit_power_law(curve.n_images, spread, n_scored=n_entries)
    gains = []
    for extra in dict.fromkeys(more):
        found = accuracy_at(law, now + extra) - accuracy_at(law, now)
        gained = accuracy_at(laws, now + extra) - accuracy_at(laws, now)
        low, high = np.quantile(gained, (0.025, 0.975))
        gains.append({"more_images": extra, "gain": float(found[0]), "low": float(low), "high": float(high)})
    points = _points(curve, spread)
    return {
        "metric": "accuracy",
        "n_images": now,
        "points": [
            {**point, "draws": draws.tolist()} for point, draws in zip(points, curve.accuracy, strict=True)
        ],
        "heads": [
            {"store": case.samples.store, "head": case.head, "points": points},
            *_others(case, parts),
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
            f"one draw a size; percentile bootstrap over held-out groups, {N_RESAMPLES} resamples"
        ),
        "text": _text(case, curve, means, gains[-1]),
    }


def round_number(wanted: float) -> int:
    """Return the greatest of 1, 2, 4, 5, 10, 20, 40 … that is not above a number, at least 1."""
    power = 10 ** int(np.floor(np.log10(max(wanted, 1.0))))
    return max(digit * power for digit in _NICE if digit * power <= max(wanted, 1.0))


def _points(curve: LearningCurve, spread: Float64Array) -> list[dict[str, Any]]:
    """Return what a plot shows of a curve; `spread` is `resampled` of it."""
    low, high = np.quantile(spread, (0.025, 0.975), axis=0)
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


def _others(case: StudyContext, parts: Parts) -> list[dict[str, Any]]:
    """Return a curve of each other head of the store, from fewer fits: of one draw of some fractions."""
    found = []
    for head in case.heads:
        if head == case.head:
            continue
        other = replace(case, head=head)
        wanted = _NETWORKS if get_head(head).tensorflow else _OTHERS
        mine = {(f, draw): part for (f, draw), part in parts.items() if f in wanted and draw == 0}
        about: dict[str, Any] = {"store": case.samples.store, "head": head, "points": []}
        try:
            curve = fit_curve(other, case.chosen.get(head) or choose_on_folds(other).params, mine)
            about["points"] = _points(curve, resampled(curve, seed=case.seed))
        except CompareError as error:  # one head must not take the others with it
            about["reason"] = str(error)
        found.append(about)
    return found


def _text(case: StudyContext, curve: LearningCurve, means: Float64Array, gain: Mapping[str, Any]) -> str:
    points = ", ".join(
        f"{accuracy:.3f} from {n:.0f}" for accuracy, n in zip(means, curve.n_images, strict=True)
    )
    low, high = (f"{100 * gain[key]:+.1f}".replace("-", "−") for key in ("low", "high"))
    brought = f"{100 * gain['gain']:+.1f}".replace("-", "−")
    things = "images" if case.samples.n_joined is None else "entries"
    end = (
        f"{gain['more_images']} more {things} would bring about {brought} points "
        f"(approximate 95 % interval {low} to {high})"
    )
    if gain["low"] <= 0:
        end = f"{end}: that they would help is not sure"
    where = f"{case.head} on {case.samples.store}, out of fold, accuracy"
    return f"Learning curve ({where}): {points} {things}. {end}."


FRACTIONS = (0.125, 0.25, 0.5, 0.75, 1.0)  # of the groups of each class in a fold's training part
N_DRAWS = 4  # of each fraction below 1
N_RESAMPLES = 2_000
_CHUNK = 2**22  # weights at once

Parts = Mapping[tuple[float, int], list[IntArray]]  # fraction and draw → images to fit on, one array a fold


@dataclass(frozen=True, kw_only=True, eq=False)
class LearningCurve:
    """Held-out hits of heads fitted on subsets, group by group."""

    fractions: tuple[float, ...]
    n_images: Float64Array  # (n_fractions,) mean number of images fitted on
    hits: list[Float64Array]  # one a fraction: (n_draws, n_groups) entries graded rightly
    sizes: Float64Array  # (n_groups,) entries

    @property
    def accuracy(self) -> list[Float64Array]:
        """Accuracy of each draw, one array a fraction."""
        return [hits.sum(axis=1) / self.sizes.sum() for hits in self.hits]


def draw_parts(case: StudyContext) -> Parts:
    """Return the images of each fraction and draw, one array a fold; all of them are drawn once."""
    parts: dict[tuple[float, int], list[IntArray]] = {}
    for fold, (fitted, _) in enumerate(case.pairs):
        for draw in range(N_DRAWS):
            drawn = subsets(case.samples, fitted, fractions=FRACTIONS[:-1], seed=(case.seed, fold, draw))
            for fraction, part in zip(FRACTIONS[:-1], drawn, strict=True):
                parts.setdefault((fraction, draw), []).append(part)
        parts.setdefault((FRACTIONS[-1], 0), []).append(np.sort(fitted))
    return parts


def subsets(
    samples: Samples, images: IntArray, *, fractions: Sequence[float], seed: Sequence[int]
) -> Iterator[IntArray]:
    """Yield parts of some images, whole groups of each class by the same share, each part within the next.

    Every part has two groups of each class at least: heads that set groups aside need them.

    Parameters
    ----------
    samples : Samples
    images : ndarray of shape (n_chosen,), int
    fractions : sequence of float
        Ascending, in (0, 1].
    seed : sequence of int

    Yields
    ------
    ndarray of int
        Images, ascending.
    """
    generator = np.random.default_rng(seed)
    groups, first = np.unique(samples.group[images], return_index=True)
    label = samples.y[images][first]
    order = {int(k): generator.permutation(groups[label == k]) for k in np.unique(label)}
    for fraction in fractions:
        kept = [mine[: max(2, round(fraction * len(mine)))] for mine in order.values()]
        yield images[np.isin(samples.group[images], np.concatenate(kept))]


def fit_curve(case: StudyContext, params: Mapping[str, Any], parts: Parts) -> LearningCurve:
    """Fit on all parts at once; sizes that are too small for the head, or hardly grow, are left out.

    Parameters
    ----------
    case : StudyContext
    params : mapping
        The head's hyper-parameters, for every size.
    parts : mapping
        From `draw_parts`, all or some of them; equal ones are the same images for every head.

    Returns
    -------
    LearningCurve

    Raises
    ------
    CompareError
        If the head could not be fitted on any of them.
    """
    fractions = sorted({fraction for fraction, _ in parts})
    size = {
        f: float(np.mean([len(one) for (g, _), fs in parts.items() if g == f for one in fs]))
        for f in fractions
    }
    grows = [f for i, f in enumerate(fractions) if i == 0 or size[f] > 1.1 * size[fractions[i - 1]]]
    graded, reason = _graded(
        case, params, {key: fold_parts for key, fold_parts in parts.items() if key[0] in grows}
    )
    useful = [f for f in grows if all(key in graded for key in parts if key[0] == f)]
    if not useful:
        raise CompareError(f"{case.head} on {case.samples.store}: {reason}")
    entries = graded[useful[-1], 0]
    group = np.unique(entries.group, return_inverse=True)[1]

    def by_group(found: EntryPredictions) -> Float64Array:
        right = np.argmax(found.probabilities, axis=1) == found.y
        return np.bincount(group, weights=right).astype(np.float64)

    return LearningCurve(
        fractions=tuple(useful),
        n_images=np.array([size[f] for f in useful]),
        hits=[np.stack([by_group(found) for (g, _), found in graded.items() if g == f]) for f in useful],
        sizes=np.bincount(group).astype(float),
    )


def resampled(curve: LearningCurve, *, seed: int) -> Float64Array:
    """Return mean accuracies with held-out groups and draws resampled, (n_resamples, n_fractions).

    All images can be drawn in one way only, yet others of their kind would give another figure: that size
    borrows the spread between draws of the size below it.
    """
    generator = np.random.default_rng(seed)
    n_groups = len(curve.sizes)
    at_once = max(1, _CHUNK // n_groups)
    parts = []
    for start in range(0, N_RESAMPLES, at_once):
        n = min(at_once, N_RESAMPLES - start)
        weights = generator.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=n).astype(float)
        n_scored = weights @ curve.sizes
        means, apart = [], np.zeros((n, 1))
        for hits in curve.hits:
            accuracy = (weights @ hits.T) / n_scored[:, None]  # (n, n_draws)
            n_draws = len(hits)
            if n_draws > 1:
                apart = accuracy - accuracy.mean(axis=1, keepdims=True)
                apart *= np.sqrt(n_draws / (n_draws - 1))
                drawn = generator.integers(n_draws, size=(n, n_draws))
            else:
                drawn = generator.integers(apart.shape[1], size=(n, 1))
            means.append(accuracy.mean(axis=1) + np.take_along_axis(apart, drawn, axis=1).mean(axis=1))
        parts.append(np.stack(means, axis=1))
    return np.clip(np.concatenate(parts), 0.0, 1.0)  # a borrowed spread knows no ends


def _graded(
    case: StudyContext, params: Mapping[str, Any], parts: Parts
) -> tuple[dict[tuple[float, int], EntryPredictions], str]:
    """Return the predictions of all held-out entries by the head of each part, and why some part has none."""
    held_out = [scored for _, scored in case.pairs]
    tasks = [
        task
        for fold_parts in parts.values()
        for task in fit_tasks(case, params, tuple(zip(fold_parts, held_out, strict=True)))
    ]
    outcomes = iter(case.run(list(tasks)))
    images = np.concatenate(held_out)
    order = np.argsort(images, kind="stable")
    found, reason = {}, ""
    for key in parts:
        folds = [next(outcomes) for _ in held_out]
        if failed := first_failure(folds):
            reason = failed
            continue
        probabilities = np.concatenate([one.probabilities for one in folds])
        found[key] = average_entries(case.samples, images[order], probabilities[order])
    return found, reason


@dataclass(frozen=True, kw_only=True, eq=False)
class PowerLaw:
    """``error = scale * n_images ** -slope``, one or many of them."""

    scale: Float64Array  # (n_laws,)
    slope: Float64Array  # (n_laws,)


def fit_power_law(n_images: npt.ArrayLike, accuracy: npt.ArrayLike, *, n_scored: float) -> PowerLaw:
    """Fit a power law to each curve: a line through the logarithms, the larger sizes weighing more.

    A point weighs as much as it has images: the law holds for the far end of a curve, and that is the end
    which is prolonged. Half an error is added to each point, so that none is the logarithm of zero.

    Parameters
    ----------
    n_images : array-like of shape (n_sizes,), float
        Two different ones or more.
    accuracy : array-like of shape (n_laws, n_sizes), float
    n_scored : float
        Entries that each accuracy is a share of.

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
    """Return the accuracy that each law gives at a number of images, in [0, 1]."""
    return np.clip(1 - law.scale * n_images**-law.slope, 0.0, 1.0)
