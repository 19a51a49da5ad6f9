"""A learning curve: one head fitted on parts of the training images, and how well it graded held-out ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from classify.predicted import Predicted, join_entries
from classify.samples import IntArray, Samples
from classify.search import first_failure
from classify.studies.case import Case, FloatArray, fit_tasks
from featurize import CompareError

FRACTIONS = (0.125, 0.25, 0.5, 0.75, 1.0)  # of the groups of each class in a fold's training part
N_DRAWS = 4  # of each fraction below 1
N_RESAMPLES = 2_000
_CHUNK = 2**22  # weights at once

Parts = Mapping[tuple[float, int], list[IntArray]]  # fraction and draw → images to fit on, one array a fold


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


def draw_parts(case: Case) -> Parts:
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


def fit_curve(case: Case, params: Mapping[str, Any], parts: Parts) -> Curve:
    """Fit on all parts at once; sizes that are too small for the head, or hardly grow, are left out.

    Parameters
    ----------
    case : Case
    params : mapping
        The head's hyper-parameters, for every size.
    parts : mapping
        From `draw_parts`, all or some of them; equal ones are the same images for every head.

    Returns
    -------
    Curve

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

    def by_group(found: Predicted) -> FloatArray:
        right = np.argmax(found.probabilities, axis=1) == found.y
        return np.bincount(group, weights=right).astype(np.float64)

    return Curve(
        fractions=tuple(useful),
        n_images=np.array([size[f] for f in useful]),
        hits=[np.stack([by_group(found) for (g, _), found in graded.items() if g == f]) for f in useful],
        sizes=np.bincount(group).astype(float),
    )


def resampled(curve: Curve, *, seed: int) -> FloatArray:
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
    case: Case, params: Mapping[str, Any], parts: Parts
) -> tuple[dict[tuple[float, int], Predicted], str]:
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
        found[key] = join_entries(case.samples, images[order], probabilities[order])
    return found, reason
