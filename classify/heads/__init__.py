"""Heads by name: what each is, what is searched for it, and how to make one. Importing this is cheap."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import isfinite
from typing import TYPE_CHECKING, Any

from featurize import CompareError

if TYPE_CHECKING:
    import numpy as np  # at run time where it is needed: half of what `classify --help` would wait for

    Scorer = Callable[[np.ndarray, np.ndarray], float]

SCALINGS = ("standardise", "l2")
# scikit-learn's C weighs the loss against ||w||²; a row's squared norm is near n_features when standardised
# and 1 when L2-normalised, so that equally strong regularisation sits about three decades apart.
_LINEAR_GRID = (
    {"scaling": ("standardise",), "C": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)},
    {"scaling": ("l2",), "C": (1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)},
)
# The RBF kernel is 1 for equal rows whatever the scaling, and gamma is relative: one grid does for both.
_RBF_GRID = (
    {
        "scaling": SCALINGS,
        "C": (1e-1, 1.0, 1e1, 1e2, 1e3),
        "gamma_factor": (1e-3, 1e-2, 1e-1, 1.0, 1e1),
    },
)


# More training rows than these, views included, no SVM head solves exactly: matrices of pairs of rows would
# take more than 1 GB of each process.
EXACT_ROWS = 10_000


@dataclass(frozen=True, kw_only=True)
class Head:
    """A head described as data; listing heads imports neither scikit-learn nor TensorFlow."""

    name: str  # one spelling: CLI, results.json, tests
    title: str  # for tables and axes
    about: str  # one sentence
    factory: str  # "<module>.<class>" in this package
    params: Mapping[str, Any]  # what makes the factory this head
    grid: tuple[Mapping[str, tuple], ...]  # searched; one mapping a family of points, as in ParameterGrid
    search: str = ""  # "<module>.<function>" that scores many points of one fold at once; "": one by one
    exact_rows: int | None = None  # training rows above which another model stands in; None: never
    splits: bool = False  # whether a fit sets groups aside, so that each class needs two
    tensorflow: bool = False  # whether fitting and predicting import TensorFlow


HEADS: Mapping[str, Head] = {
    head.name: head
    for head in (
        Head(
            name="dense",
            title="Dense network",
            about="Keras: batch norm, 512-128-64 ReLU, batch norm, dropout; stops early on a grouped part.",
            factory="dense.DenseHead",
            params={},
            grid=({"scaling": SCALINGS},),
            splits=True,
            tensorflow=True,
        ),
        Head(
            name="logreg",
            title="Logistic regression",
            about="Multinomial, L2 penalty, solved to 1e-6 in float64.",
            factory="linear.LogisticHead",
            params={},
            grid=_LINEAR_GRID,
            search="linear.fold_scores",
        ),
        Head(
            name="svm-linear",
            title="Linear SVM",
            about="Support vector machine; probabilities by Platt's sigmoid on grouped folds.",
            factory="kernel.SVMHead",
            params={"kernel": "linear"},
            grid=_LINEAR_GRID,
            search="kernel_search.fold_scores",
            exact_rows=EXACT_ROWS,
            splits=True,
        ),
        Head(
            name="svm-rbf",
            title="RBF SVM",
            about="Support vector machine, Gaussian kernel; probabilities as for the linear one.",
            factory="kernel.SVMHead",
            params={"kernel": "rbf"},
            grid=_RBF_GRID,
            search="kernel_search.fold_scores",
            exact_rows=EXACT_ROWS,
            splits=True,
        ),
        Head(
            name="baseline",
            title="Majority class",
            about="The commonest class for every image, with the class shares as probabilities; never tuned.",
            factory="baseline.BaselineHead",
            params={},
            grid=({},),
        ),
    )
}

_SETTLED_ELSEWHERE = {
    "seed": "choose it with --seed",
    "log_dir": "a comparison writes training curves, a single fit none",
}

# What `skops.io.load` must be told to trust for the heads saved with it; all else in them it knows by itself.
TRUSTED_TYPES: tuple[str, ...] = (
    "classify.heads.baseline.BaselineHead",
    "classify.heads.kernel.SVMHead",
    "classify.heads.linear.LogisticHead",
    # Made by CalibratedClassifierCV; plain Python objects of arrays and numbers that skops does not list.
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
)


def get_head(name: str) -> Head:
    """Return the head of that name.

    Raises
    ------
    CompareError
        If there is none; the message lists the known names.
    """
    try:
        return HEADS[name]
    except KeyError:
        raise CompareError(
            f"Unknown head {name!r}: expected one of {', '.join(HEADS)}. See: classify heads"
        ) from None


def make_head(
    name: str, *, params: Mapping[str, Any] | None = None, seed: int = 0, class_weight: str | None = None
) -> Any:
    """Return a new, unfitted estimator.

    Parameters
    ----------
    name : str
        A key of `HEADS`.
    params : mapping, optional
        Estimator parameters, e.g. one of `grid_points`; they win over `seed` and `class_weight`.
    seed : int, default=0
        For heads that draw anything (the dense network, the folds of a calibration).
    class_weight : {None, "balanced"}
        For heads that weigh classes; the baseline does not.

    Raises
    ------
    CompareError
        If the name, or one of the parameters, is unknown.
    """
    head = get_head(name)
    factory = _resolve(head.factory)
    known = factory().get_params()
    chosen = {"seed": seed, "class_weight": class_weight}
    chosen = {key: value for key, value in chosen.items() if key in known}
    unknown = sorted(set(params or {}) - set(known))
    if unknown:
        raise CompareError(
            f"Head {name!r} has no parameter {unknown[0]!r}: expected some of {', '.join(sorted(known))}. "
            "See: classify heads"
        )
    return factory(**{**chosen, **head.params, **(params or {})})


def size_params(name: str, n_rows: int) -> dict[str, Any]:
    """Return the parameters that a number of training rows calls for, for the search and the fit alike.

    Left to themselves, the fit on all rows and those on the rows of a fold could be solved in different ways.

    Parameters
    ----------
    name : str
        A key of `HEADS`.
    n_rows : int
        All rows that the head is fitted on in the end, views included.
    """
    most = get_head(name).exact_rows
    return {} if most is None or n_rows <= most else {"solver": "approximate"}


def settle_params(name: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return hyper-parameters that a user gave, each of its default's type.

    Parameters
    ----------
    name : str
        A key of `HEADS`.
    params : mapping
        Numbers, words, and for layers also text with commas.

    Raises
    ------
    CompareError
        If one is unknown, of another type, or not for the user to choose; the message names it.
    """
    head = get_head(name)
    defaults = _resolve(head.factory)().get_params()
    settled = {}
    for key, value in params.items():
        if key in head.params:
            raise CompareError(f"{key!r} is what makes the head {name!r}: choose another head instead")
        if key in _SETTLED_ELSEWHERE:
            raise CompareError(f"{key!r} is no hyper-parameter: {_SETTLED_ELSEWHERE[key]}")
        if key not in defaults:
            make_head(name, params={key: value})  # says which there are
        settled[key] = _typed(key, value, defaults[key])
    return settled


def all_params(name: str, params: Mapping[str, Any], *, class_weight: str | None) -> dict[str, Any]:
    """Return every hyper-parameter a head is fitted with, the defaults of those not given among them."""
    head = get_head(name)
    full = make_head(name, params=params, class_weight=class_weight).get_params()
    return {
        key: value for key, value in full.items() if key not in head.params and key not in _SETTLED_ELSEWHERE
    }


def _typed(key: str, value: Any, default: Any) -> Any:
    if isinstance(default, tuple):
        expected = "whole numbers with commas, such as 64,32"
        words = value.split(",") if isinstance(value, str) else value
        words = [words] if isinstance(words, int) else words
        try:
            return tuple(int(word) for word in words)
        except (TypeError, ValueError):
            raise CompareError(f"Parameter {key!r} is {value!r}: expected {expected}") from None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, int):
        sound, expected = number and isfinite(value) and value == int(value), "a whole number"
    elif isinstance(default, float):
        sound, expected = number and isfinite(value), "a number"
    elif isinstance(default, str):
        sound, expected = isinstance(value, str), "a word"
    else:  # class_weight
        sound, expected = value is None or value == "balanced" or isinstance(value, Mapping), "balanced"
    if not sound:
        raise CompareError(f"Parameter {key!r} is {value!r}: expected {expected}")
    return int(value) if isinstance(default, int) else value


def grid_points(head: Head) -> list[dict[str, Any]]:
    """Return the points searched for a head, so ordered that the first of equal scores is the one to take.

    Stronger regularisation comes first: by C, then by gamma, then by scaling in the order of the grid.
    """
    points = [
        dict(zip(grid, values, strict=True)) for grid in head.grid for values in product(*grid.values())
    ]
    return sorted(points, key=lambda point: (point.get("C", 0.0), point.get("gamma_factor", 0.0)))


def grid_scores(
    head: Head,
    X: np.ndarray,
    y: np.ndarray,
    *,
    fit_rows: np.ndarray,
    score_rows: np.ndarray,
    points: Sequence[Mapping[str, Any]] | None = None,
    groups: np.ndarray | None = None,
    image: np.ndarray | None = None,
    class_weight: str | None = None,
    seed: int = 0,
    scorer: Scorer | None = None,
) -> list[float]:
    """Return the score of every grid point on one fold: fitted on `fit_rows`, scored on `score_rows`.

    The kernel heads compute each Gram matrix once and share it over C; logistic regression follows C with
    warm starts; the others are fitted point by point. SVMs are scored on their decisions, before calibration.

    Parameters
    ----------
    head : Head
    X : ndarray of shape (n_rows, n_features)
    y : ndarray of shape (n_rows,)
    fit_rows, score_rows : ndarray of int
        Rows of X; `score_rows` are plain views as a rule.
    points : sequence of mappings, optional
        By default `grid_points(head)`.
    groups, image : ndarray of shape (n_rows,), optional
        What must stay together, and which rows are views of one image.
    class_weight, seed
        As in `make_head`.
    scorer : callable (y_true, y_pred) -> float, optional
        By default balanced accuracy: mean recall of the classes that are present.

    Returns
    -------
    list of float
        In the order of `points`.
    """
    heads = [
        make_head(head.name, params=point, seed=seed, class_weight=class_weight)
        for point in (grid_points(head) if points is None else points)
    ]
    score = scorer or balanced_accuracy
    X_fit, y_fit, X_score, y_score = X[fit_rows], y[fit_rows], X[score_rows], y[score_rows]
    predictions: Iterable[np.ndarray]
    if head.search:
        predictions = _resolve(head.search)(heads, X_fit, y_fit, X_score)
    else:
        rows = {
            "groups": None if groups is None else groups[fit_rows],
            "image": None if image is None else image[fit_rows],
        }
        predictions = (candidate.fit(X_fit, y_fit, **rows).predict(X_score) for candidate in heads)
    return [float(score(y_score, predicted)) for predicted in predictions]


def balanced_accuracy(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """Return the mean recall over the classes in `y_true` (unlike scikit-learn's, silent about others)."""
    import numpy as np

    return float(np.mean([np.mean(y_pred[y_true == label] == label) for label in np.unique(y_true)]))


def _resolve(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
