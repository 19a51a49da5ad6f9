"""Grid search and fitting as tasks that depend on nothing but their own fields."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.data.entries import entry_numbers, has_repeats
from classify.data.levels import LEVELS, at_each_level, levels_of, without_levels
from classify.data.samples import Samples
from classify.errors import CompareError
from classify.heads.base import all_classes
from classify.heads.dense_network import training_curves
from classify.heads.registry import get_head, grid_points, make_head, resolve
from classify.heads.scoring import grid_scores
from classify.io.head_file import SavedHead, dump_head
from featurize.base.typing import IntArray


@dataclass(frozen=True, kw_only=True)
class GridScores:
    """What a `ScoreTask` brought: one score a grid point."""

    scores: tuple[float, ...]
    seconds: float
    remembered: bool = False  # an earlier run's, and so are the seconds


@dataclass(frozen=True, kw_only=True)
class FittedHead:
    """What a `FitTask` brought."""

    saved: SavedHead | None  # None unless the task was told to keep it
    probabilities: npt.NDArray[np.float64]  # (n_tested, n_classes)
    fit_seconds: float
    predict_seconds: float
    notes: tuple[str, ...] = ()
    training: Mapping[str, Any] | None = (
        None  # as in `classify.heads.dense_network`; None where there are no epochs
    )
    remembered: bool = False  # an earlier run's, and so are the seconds


@dataclass(frozen=True, kw_only=True)
class ScoreTask:
    """Score every grid point of one head on one fold: fitted on all views, scored on plain ones, by entry."""

    samples: Samples
    head: str
    points: tuple[Mapping[str, Any], ...]
    fit: IntArray  # images fitted on
    score: IntArray  # images scored
    class_weight: str | None
    seed: int

    @property
    def n_points(self) -> int:
        """How many grid points are scored."""
        return len(self.points)

    def run(self) -> GridScores:
        """Return the balanced accuracy of every grid point."""
        start = time.perf_counter()
        scores = np.zeros(len(self.points))
        for levels in LEVELS:
            chosen = [i for i, point in enumerate(self.points) if levels_of(point) == levels]
            if chosen:
                scores[chosen] = self._scores([without_levels(self.points[i]) for i in chosen], levels=levels)
        return GridScores(scores=tuple(scores.tolist()), seconds=time.perf_counter() - start)

    def _scores(self, points: Sequence[Mapping[str, Any]], *, levels: str) -> list[float]:
        fitted = self.samples.rows(self.fit, levels=levels)
        scored = self.samples.rows(self.score, views=False, levels=levels)
        n_fitted = len(fitted.y)
        entry = entry_numbers(self.samples, self.score)
        return grid_scores(
            get_head(self.head),
            np.concatenate([fitted.X, scored.X]),
            np.concatenate([fitted.y, scored.y]),
            fit_rows=np.arange(n_fitted),
            score_rows=np.arange(n_fitted, n_fitted + len(scored.y)),
            points=points,
            groups=np.concatenate([fitted.groups, scored.groups]),
            image=np.concatenate([fitted.image, scored.image]),
            entry=np.concatenate([np.full(n_fitted, -1), entry]) if has_repeats(entry) else None,
            class_weight=self.class_weight,
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True)
class FitTask:
    """Fit one head with chosen hyper-parameters and let it grade images it has not seen."""

    samples: Samples
    head: str
    params: Mapping[str, Any]
    fit: IntArray
    test: IntArray  # may be empty
    val: IntArray | None  # images that stop the dense head; None: it holds back a part of its own
    class_weight: str | None
    seed: int
    keep: bool  # bring the fitted head back
    log_dir: Path | None = None

    @property
    def n_points(self) -> int:
        """How many grid points are scored: none."""
        return 0

    def run(self) -> FittedHead:
        """Fit, then predict plain views of the test images."""
        if self.val is None and (reason := lacking_groups(self.samples, self.head, self.fit, seed=self.seed)):
            raise CompareError(reason)
        head, levels = get_head(self.head), levels_of(self.params)
        logged = {"log_dir": str(self.log_dir)} if head.tensorflow and self.log_dir is not None else {}
        estimator = make_head(
            self.head,
            params={**without_levels(self.params), **logged},
            seed=self.seed,
            class_weight=self.class_weight,
        )
        if self.samples.stored is not None:
            return self._streamed(estimator, levels=levels)
        rows = self.samples.rows(self.fit, levels=levels)
        stopping: dict[str, Any] = {}
        if head.tensorflow and self.val is not None:
            held = self.samples.rows(self.val, views=False, levels=levels)
            stopping = {"X_val": held.X, "y_val": held.y}
        start = time.perf_counter()
        estimator.fit(rows.X, rows.y, groups=rows.groups, image=rows.image, **stopping)
        fit_seconds = time.perf_counter() - start
        probabilities = np.zeros((len(self.test), len(self.samples.classes)))
        start = time.perf_counter()
        if len(self.test):
            plain = self.samples.rows(self.test, views=False, levels=levels).X
            probabilities = all_classes(
                estimator.predict_proba(plain), labels=estimator.classes_, n_classes=len(self.samples.classes)
            )
        return self._fitted(estimator, probabilities, fit_seconds, time.perf_counter() - start)

    def _streamed(self, estimator: Any, *, levels: str) -> FittedHead:

        start = time.perf_counter()
        fit_stream(estimator, self, levels=levels)
        fit_seconds = time.perf_counter() - start
        start = time.perf_counter()
        found = predict_stream(estimator, self, levels=levels)
        probabilities = all_classes(found, labels=estimator.classes_, n_classes=len(self.samples.classes))
        return self._fitted(estimator, probabilities, fit_seconds, time.perf_counter() - start)

    def _fitted(
        self,
        estimator: Any,
        probabilities: npt.NDArray[np.float64],
        fit_seconds: float,
        predict_seconds: float,
    ) -> FittedHead:
        return FittedHead(
            saved=dump_head(estimator, self.head) if self.keep else None,
            probabilities=probabilities,
            fit_seconds=fit_seconds,
            predict_seconds=predict_seconds,
            notes=_notes(estimator, self.params),
            training=training_curves(estimator),
        )


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """Hyper-parameters chosen from the scores of one or more folds."""

    params: Mapping[str, Any]
    score: float | None  # mean balanced accuracy over the folds; None where nothing was searched
    seconds: float
    notes: tuple[str, ...] = ()


def choose_params(points: Sequence[Mapping[str, Any]], folds: Sequence[GridScores]) -> SearchResult:
    """Take the grid point with the best mean score; equal scores take the first, which has the smallest C.

    Where levels are searched too, equal scores take the final level.

    Without folds, it is the first point, which is said.
    """
    if not folds:
        first = ", ".join(f"{key}={value}" for key, value in points[0].items())
        note = (
            "hyper-parameters were not searched and there is no CV score: in a training part of the folds a "
            f"class has too few groups to set one aside; taken: {first}"
        )
        return SearchResult(params=dict(points[0]), score=None, seconds=0.0, notes=(note,))
    means = np.mean([fold.scores for fold in folds], axis=0)  # (n_points,)
    best = int(
        np.argmax(np.round(means, 10))
    )  # rounded: equal scores summed in another order are still equal
    return SearchResult(
        params=dict(points[best]),
        score=float(means[best]),
        seconds=sum(fold.seconds for fold in folds),
    )


def lacking_groups(samples: Samples, head: str, images: IntArray, *, seed: int = 0) -> str:
    """Return why a head that sets groups aside cannot be fitted on these images, "" when it can."""
    from classify.heads.base import FitError
    from classify.heads.grouping import groups_per_class, validation_images

    if not get_head(head).splits:
        return ""
    y, groups, names = samples.y[images], samples.group[images], samples.classes
    for label, n_groups in groups_per_class(y, groups).items():
        if n_groups < 2:
            return (
                f"class {names[label]!r} has a single group of images (one entry, or near duplicates); "
                f"expected at least 2. Add images of class {names[label]!r}"
            )
    if get_head(head).tensorflow:
        try:
            validation_images(y, groups, seed=seed, names=names)
        except FitError as error:
            return str(error)
    return ""


def search_points(head: str, options: Mapping[str, Any], *, n_levels: int = 1) -> tuple[dict[str, Any], ...]:
    """Return the head's grid, each point joined to the options that are not searched.

    With several levels in the store the whole grid comes twice, on the final level first.
    """
    grid = grid_points(get_head(head))
    searched = any(grid)  # the baseline has nothing to choose, so no levels either
    points = at_each_level(grid, n_levels=n_levels if searched else 1)
    return tuple({**options, **point} for point in points) or ({**options},)


def _notes(estimator: Any, params: Mapping[str, Any]) -> tuple[str, ...]:
    notes = tuple(getattr(estimator, "notes_", ()))
    if getattr(estimator, "converged_", True):
        return notes
    shown = ", ".join(f"{key}={value}" for key, value in params.items())
    return (
        *notes,
        f"the solver met its limit of iterations before it had converged ({shown}): usable, not exact",
    )


def lacking_stream(samples: Samples, head: str) -> str:
    """Return why a head cannot be fitted on rows that stay on disk, "" when it can."""
    if samples.stored is None or hasattr(resolve(get_head(head).factory), "fit_stream"):
        return ""
    n_rows = samples.n_rows(samples.fit_images)
    return f"it keeps all {n_rows:,} training rows, which do not fit in memory. Raise --memory"


def release_workers() -> None:
    """End idle worker processes: their memory is for what comes next."""
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor(max_workers=1).shutdown(wait=True, kill_workers=True)


def fit_stream(estimator: Any, task: FitTask, *, levels: str) -> None:
    """Fit a task's head on its rows, which stay on disk."""
    rows = task.samples.stream(task.fit, levels=levels)
    stopping: dict[str, Any] = {}
    if task.val is not None and "X_val" in inspect.signature(estimator.fit_stream).parameters:
        from classify.heads.dense_network import MOST_VALIDATION

        drawn = np.random.default_rng(task.seed).permutation(len(task.val))[:MOST_VALIDATION]
        images = task.val[np.sort(drawn)]
        held = task.samples.stream(images, views=False, levels=levels)
        stopping = {"X_val": held.take(np.arange(len(images))), "y_val": held.y}
    estimator.fit_stream(rows, **stopping)


def predict_stream(estimator: Any, task: FitTask, *, levels: str) -> npt.NDArray[np.float64]:
    """Return the probabilities of a task's tested images, (n_tested, n_classes of the head)."""
    found = np.zeros((len(task.test), len(estimator.classes_)))
    if not len(task.test):
        return found
    rows = task.samples.stream(task.test, views=False, levels=levels)
    alone = get_head(task.head).tensorflow  # it has threads of its own

    def predict(where: IntArray, X: npt.NDArray[np.float32]) -> tuple[IntArray, npt.NDArray[Any]]:
        return where, X if alone else estimator.predict_proba(X)

    for where, said in rows.each(predict):
        found[where] = estimator.predict_proba(said) if alone else said
    return found
