"""What more training images would bring: a learning curve over grouped subsets, and its prolongation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from classify.predicted import Predicted, join_entries
from classify.samples import IntArray, Samples
from classify.search import first_failure
from classify.studies.case import Case, FloatArray, fit_tasks, searched
from classify.studies.law import at, fit_law
from featurize import CompareError

FRACTIONS = (0.125, 0.25, 0.5, 0.75, 1.0)  # of the groups of each class in a fold's training part
N_DRAWS = 4  # of each fraction below 1
N_RESAMPLES = 2_000
_CHUNK = 2**22  # weights at once
_NICE = (1, 2, 4, 5)  # leading digits of the numbers of images that are spoken of


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """Held-out hits of heads fitted on subsets, group by group."""

    fractions: tuple[float, ...]
    n_images: FloatArray  # (n_fractions,) mean number of images fitted on
    hits: list[FloatArray]  # one a fraction: (n_draws, n_groups) entries graded rightly
    sizes: FloatArray  # (n_groups,) entries

    @property
    def accuracy(self) -> list[FloatArray]:
        """Accuracy of each draw, one array a fraction."""
        return [hits.sum(axis=1) / self.sizes.sum() for hits in self.hits]


def study(case: Case) -> dict[str, Any]:
    """Fit the head on parts of each fold's training images and grade the held-out ones.

    Hyper-parameters are those chosen on all. Accuracy is extrapolated by a power law of the error,
    ``error = scale * n_images ** -slope``, up to about twice the images there are.

    Parameters
    ----------
    case : Case

    Returns
    -------
    dict
        ``points`` for a plot, ``law``, and ``gains``: what so many more images would bring, with 95 %
        percentile intervals of a bootstrap over held-out groups and draws. They take the images of each
        draw as given, so they are approximate.

    Raises
    ------
    CompareError
        If there are too few images for three different sizes.

    References
    ----------
    Viering & Loog, "The shape of learning curves: a review", arXiv:2103.10948, section 4.1 (power laws).
    """
    curve = _curve(case)
    now = len(case.images)
    more = [round_number(now / part) for part in (4, 2, 1)]
    resampled = _resampled(curve, seed=case.seed)  # (n_resamples, n_fractions)
    n_entries = float(curve.sizes.sum())
    means = np.array([draws.mean() for draws in curve.accuracy])
    law = fit_law(curve.n_images, means[None], n_scored=n_entries)
    laws = fit_law(curve.n_images, resampled, n_scored=n_entries)
    gains = []
    for extra in dict.fromkeys(more):
        found = at(law, now + extra) - at(law, now)
        spread = at(laws, now + extra) - at(laws, now)
        low, high = np.quantile(spread, (0.025, 0.975))
        gains.append({"more_images": extra, "gain": float(found[0]), "low": float(low), "high": float(high)})
    low, high = np.quantile(resampled, (0.025, 0.975), axis=0)
    return {
        "metric": "accuracy",
        "n_images": now,
        "points": [
            {
                "fraction": fraction,
                "n_images": float(curve.n_images[i]),
                "accuracy": float(means[i]),
                "low": float(low[i]),
                "high": float(high[i]),
                "draws": curve.accuracy[i].tolist(),
            }
            for i, fraction in enumerate(curve.fractions)
        ],
        "law": {
            "formula": "error = scale * n_images ** -slope",
            "scale": float(law.scale[0]),
            "slope": float(law.slope[0]),
        },
        "gains": gains,
        "method": f"percentile bootstrap over held-out groups and draws, {N_RESAMPLES} resamples",
        "approximate": True,
        "text": _text(case, curve, means, gains[-1]),
    }


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


def round_number(wanted: float) -> int:
    """Return the greatest of 1, 2, 4, 5, 10, 20, 40 … that is not above a number, at least 1."""
    power = 10 ** int(np.floor(np.log10(max(wanted, 1.0))))
    return max(digit * power for digit in _NICE if digit * power <= max(wanted, 1.0))


def _curve(case: Case) -> Curve:
    """Fit on all parts at once; sizes that are too small for the head, or hardly grow, are left out."""
    params = searched(case).params
    parts = _parts(case)
    size = {
        f: float(np.mean([len(one) for (g, _), fs in parts.items() if g == f for one in fs]))
        for f in FRACTIONS
    }
    grows = [f for i, f in enumerate(FRACTIONS) if i == 0 or size[f] > 1.1 * size[FRACTIONS[i - 1]]]
    graded = _graded(case, params, {key: fold_parts for key, fold_parts in parts.items() if key[0] in grows})
    useful = [f for f in grows if all(key in graded for key in parts if key[0] == f)]
    if len(useful) < 3:
        raise CompareError("there are too few training images for a learning curve: add some first")
    entries = graded[useful[-1], 0]
    group = np.unique(entries.group, return_inverse=True)[1]

    def by_group(found: Predicted) -> FloatArray:
        right = np.argmax(found.probabilities, axis=1) == found.y
        return np.bincount(group, weights=right).astype(np.float64)

    return Curve(
        fractions=tuple(useful),
        n_images=np.array([size[f] for f in useful]),
        hits=[np.stack([by_group(found) for (g, _), found in graded.items() if g == f]) for f in useful],
        sizes=np.bincount(group).astype(float),
    )


def _parts(case: Case) -> dict[tuple[float, int], list[IntArray]]:
    """Return the images of each fraction and draw, one array a fold; all of them are drawn once."""
    parts: dict[tuple[float, int], list[IntArray]] = {}
    for fold, (fitted, _) in enumerate(case.pairs):
        for draw in range(N_DRAWS):
            drawn = subsets(case.samples, fitted, fractions=FRACTIONS[:-1], seed=(case.seed, fold, draw))
            for fraction, part in zip(FRACTIONS[:-1], drawn, strict=True):
                parts.setdefault((fraction, draw), []).append(part)
        parts.setdefault((FRACTIONS[-1], 0), []).append(np.sort(fitted))
    return parts


def _graded(
    case: Case, params: Mapping[str, Any], parts: Mapping[tuple[float, int], list[IntArray]]
) -> dict[tuple[float, int], Predicted]:
    """Return the predictions of all held-out entries by the heads of each part that could be fitted on."""
    held_out = [scored for _, scored in case.pairs]
    tasks = [
        task
        for fold_parts in parts.values()
        for task in fit_tasks(case, params, tuple(zip(fold_parts, held_out, strict=True)))
    ]
    outcomes = iter(case.run(list(tasks)))
    images = np.concatenate(held_out)
    order = np.argsort(images, kind="stable")
    found = {}
    for key in parts:
        folds = [next(outcomes) for _ in held_out]
        if not first_failure(folds):
            probabilities = np.concatenate([one.probabilities for one in folds])
            found[key] = join_entries(case.samples, images[order], probabilities[order])
    return found


def _resampled(curve: Curve, *, seed: int) -> FloatArray:
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


def _text(case: Case, curve: Curve, means: FloatArray, gain: Mapping[str, Any]) -> str:
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
