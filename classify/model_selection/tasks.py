"""Tasks of a comparison, which depend on their own fields only: score a grid on a fold, or fit a head."""

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
from classify.data.levels import LEVELS, levels_of, with_levels, without_levels
from classify.data.samples import Samples
from classify.errors import CompareError
from classify.heads.base import all_classes
from classify.heads.dense_network import training_curves
from classify.heads.registry import get_head, grid_points, import_object, make_head
from classify.heads.scoring import grid_scores
from classify.io.head_file import SavedHead, dump_head
from featurize.base.typing import IntArray


@dataclass(frozen=True, kw_only=True)
class GridScores:
    """Result of a `ScoreTask`: one score per grid point."""

    scores: tuple[float, ...]  # balanced accuracy
    seconds: float
    from_cache: bool = False  # computed by an earlier run, which also measured `seconds`


@dataclass(frozen=True, kw_only=True)
class FittedHead:
    """Result of a `FitTask`."""

    saved: SavedHead | None  # None unless the task has `return_head`
    probabilities: npt.NDArray[np.float64]  # (n_tested, n_classes)
    fit_seconds: float
    predict_seconds: float
    notes: tuple[str, ...] = ()
    training: Mapping[str, Any] | None = (
        None  # curves as in `classify.heads.dense_network`; None without epochs
    )
    from_cache: bool = False  # computed by an earlier run, which also measured the seconds


@dataclass(frozen=True, kw_only=True)
class ScoreTask:
    """Score every grid point of one head on one fold.

    The head is fitted on all views and scored on plain views, per entry.
    """

    samples: Samples
    head: str
    points: tuple[Mapping[str, Any], ...]
    fit: IntArray  # images to fit on
    score: IntArray  # images to score
    class_weight: str | None
    seed: int

    @property
    def n_points(self) -> int:
        """Number of grid points to score."""
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
    """Fit one head with given hyper-parameters and predict the test images."""

    samples: Samples
    head: str
    params: Mapping[str, Any]
    fit: IntArray  # images to fit on
    test: IntArray  # images to predict; may be empty
    val: IntArray | None  # images for early stopping of the dense head; None: it holds out some of `fit`
    class_weight: str | None
    seed: int
    return_head: bool  # return the fitted head too
    log_dir: Path | None = None  # for TensorBoard logs of the dense head

    @property
    def n_points(self) -> int:
        """Number of grid points to score: none."""
        return 0

    def run(self) -> FittedHead:
        """Fit on all views, then predict the plain views of the test images."""
        if self.val is None and (
            reason := reason_unfittable(self.samples, self.head, self.fit, seed=self.seed)
        ):
            raise CompareError(reason)
        head, levels = get_head(self.head), levels_of(self.params)
        logging = {"log_dir": str(self.log_dir)} if head.tensorflow and self.log_dir is not None else {}
        estimator = make_head(
            self.head,
            params={**without_levels(self.params), **logging},
            seed=self.seed,
            class_weight=self.class_weight,
        )
        if self.samples.on_disk is not None:
            return self._run_on_disk_rows(estimator, levels=levels)
        rows = self.samples.rows(self.fit, levels=levels)
        validation: dict[str, Any] = {}
        if head.tensorflow and self.val is not None:
            val_rows = self.samples.rows(self.val, views=False, levels=levels)
            validation = {"X_val": val_rows.X, "y_val": val_rows.y}
        start = time.perf_counter()
        estimator.fit(rows.X, rows.y, groups=rows.groups, image=rows.image, **validation)
        fit_seconds = time.perf_counter() - start
        probabilities = np.zeros((len(self.test), len(self.samples.classes)))
        start = time.perf_counter()
        if len(self.test):
            plain = self.samples.rows(self.test, views=False, levels=levels).X
            probabilities = all_classes(
                estimator.predict_proba(plain), labels=estimator.classes_, n_classes=len(self.samples.classes)
            )
        return self._fitted(estimator, probabilities, fit_seconds, time.perf_counter() - start)

    def _run_on_disk_rows(self, estimator: Any, *, levels: str) -> FittedHead:
        start = time.perf_counter()
        fit_stream(estimator, self, levels=levels)
        fit_seconds = time.perf_counter() - start
        start = time.perf_counter()
        predicted = predict_stream(estimator, self, levels=levels)
        probabilities = all_classes(predicted, labels=estimator.classes_, n_classes=len(self.samples.classes))
        return self._fitted(estimator, probabilities, fit_seconds, time.perf_counter() - start)

    def _fitted(
        self,
        estimator: Any,
        probabilities: npt.NDArray[np.float64],
        fit_seconds: float,
        predict_seconds: float,
    ) -> FittedHead:
        return FittedHead(
            saved=dump_head(estimator, self.head) if self.return_head else None,
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
    score: float | None  # mean balanced accuracy over the folds; None if nothing was searched
    seconds: float
    notes: tuple[str, ...] = ()


def choose_params(points: Sequence[Mapping[str, Any]], folds: Sequence[GridScores]) -> SearchResult:
    """Return the grid point with the best mean score over the folds.

    Of equal scores the first point is chosen: it has the smallest C and, where levels are searched, the final
    level. Without folds the first point is returned, with a note.
    """
    if not folds:
        first = ", ".join(f"{key}={value}" for key, value in points[0].items())
        note = (
            "hyper-parameters were not searched and there is no CV score: in the training part of a fold, "
            f"some class has too few groups to hold one out. Used: {first}"
        )
        return SearchResult(params=dict(points[0]), score=None, seconds=0.0, notes=(note,))
    means = np.mean([fold.scores for fold in folds], axis=0)  # (n_points,)
    # Rounded, because equal scores can differ in the last digits when they are summed in another order.
    best = int(np.argmax(np.round(means, 10)))
    return SearchResult(
        params=dict(points[best]),
        score=float(means[best]),
        seconds=sum(fold.seconds for fold in folds),
    )


def reason_unfittable(samples: Samples, head: str, images: IntArray, *, seed: int = 0) -> str:
    """Return why a head that holds out groups cannot be fitted on these images; "" if it can be."""
    from classify.heads.base import FitError
    from classify.heads.grouping import groups_per_class, validation_images

    if not get_head(head).holds_out_groups:
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
    """Return the points of the head's grid, each with the options that are not searched.

    For a store with several levels every point is returned twice: with the final level, then with all levels.
    """
    grid = grid_points(get_head(head))
    searched = any(grid)  # the baseline has no hyper-parameters, so its levels are not searched either
    points = with_levels(grid, n_levels=n_levels if searched else 1)
    return tuple({**options, **point} for point in points) or ({**options},)


def _notes(estimator: Any, params: Mapping[str, Any]) -> tuple[str, ...]:
    notes = tuple(getattr(estimator, "notes_", ()))
    if getattr(estimator, "converged_", True):
        return notes
    shown = ", ".join(f"{key}={value}" for key, value in params.items())
    return (
        *notes,
        f"the solver reached its iteration limit before it converged ({shown}): usable, but not exact",
    )


def reason_unstreamable(samples: Samples, head: str) -> str:
    """Return why a head cannot be fitted on rows that stay on disk; "" if it can be."""
    if samples.on_disk is None or hasattr(import_object(get_head(head).factory), "fit_stream"):
        return ""
    n_rows = samples.n_rows(samples.fit_images)
    return f"this head stores all {n_rows:,} training rows, which do not fit in memory. Raise --memory"


def release_workers() -> None:
    """Stop idle worker processes to free their memory."""
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor(max_workers=1).shutdown(wait=True, kill_workers=True)


def fit_stream(estimator: Any, task: FitTask, *, levels: str) -> None:
    """Fit a task's head on rows that are read from disk."""
    rows = task.samples.stream(task.fit, levels=levels)
    validation: dict[str, Any] = {}
    if task.val is not None and "X_val" in inspect.signature(estimator.fit_stream).parameters:
        from classify.heads.dense_network import MAX_VALIDATION_IMAGES

        drawn = np.random.default_rng(task.seed).permutation(len(task.val))[:MAX_VALIDATION_IMAGES]
        images = task.val[np.sort(drawn)]
        val_rows = task.samples.stream(images, views=False, levels=levels)
        validation = {"X_val": val_rows.take(np.arange(len(images))), "y_val": val_rows.y}
    estimator.fit_stream(rows, **validation)


def predict_stream(estimator: Any, task: FitTask, *, levels: str) -> npt.NDArray[np.float64]:
    """Return the probabilities of a task's test images, (n_tested, n_classes of the head)."""
    probabilities = np.zeros((len(task.test), len(estimator.classes_)))
    if not len(task.test):
        return probabilities
    rows = task.samples.stream(task.test, views=False, levels=levels)
    is_network = get_head(task.head).tensorflow  # it predicts with threads of its own, in this thread

    def predict(position: IntArray, X: npt.NDArray[np.float32]) -> tuple[IntArray, npt.NDArray[Any]]:
        return position, X if is_network else estimator.predict_proba(X)

    for position, block in rows.map_blocks(predict):
        probabilities[position] = estimator.predict_proba(block) if is_network else block
    return probabilities
