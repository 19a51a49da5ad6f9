"""Heads by name, as data: what each is and what is searched for it. Importing this is cheap."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from math import isfinite
from typing import Any

from classify.errors import CompareError

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
    ordered: bool = False  # whether it is for ordered classes, three or more
    nominal: str = ""  # the head that differs from it in knowing no order


HEADS: Mapping[str, Head] = {
    head.name: head
    for head in (
        Head(
            name="dense",
            title="Dense network",
            about="Keras: batch norm, 512-128-64 ReLU, batch norm, dropout; stops early on a grouped part.",
            factory="dense.DenseHead",
            params={"output": "nominal"},
            grid=({"scaling": SCALINGS},),
            splits=True,
            tensorflow=True,
        ),
        Head(
            name="logreg",
            title="Logistic regression",
            about="Multinomial, L2 penalty, solved to 1e-6 in float64.",
            factory="logistic.LogisticHead",
            params={},
            grid=_LINEAR_GRID,
            search="logistic.fold_scores",
        ),
        Head(
            name="svm-linear",
            title="Linear SVM",
            about="Support vector machine; probabilities by Platt's sigmoid on grouped folds.",
            factory="svm.SVMHead",
            params={"kernel": "linear"},
            grid=_LINEAR_GRID,
            search="svm_search.fold_scores",
            exact_rows=EXACT_ROWS,
            splits=True,
        ),
        Head(
            name="svm-rbf",
            title="RBF SVM",
            about="Support vector machine, Gaussian kernel; probabilities as for the linear one.",
            factory="svm.SVMHead",
            params={"kernel": "rbf"},
            grid=_RBF_GRID,
            search="svm_search.fold_scores",
            exact_rows=EXACT_ROWS,
            splits=True,
        ),
        Head(
            name="ordinal-dense",
            title="Ordinal dense network",
            about="The dense network with one score at its end, which ordered thresholds part into grades.",
            factory="dense.DenseHead",
            params={"output": "ordinal"},
            grid=({"scaling": SCALINGS},),
            splits=True,
            tensorflow=True,
            ordered=True,
            nominal="dense",
        ),
        Head(
            name="ordinal-logistic",
            title="Ordinal logistic regression",
            about="Proportional odds, L2 penalty, solved to 1e-6 in float64; for grades in order.",
            factory="ordinal_logistic.OrdinalLogisticHead",
            params={},
            grid=_LINEAR_GRID,
            search="ordinal_logistic.fold_scores",
            ordered=True,
            nominal="logreg",
        ),
        Head(
            name="ordinal-svm",
            title="Ordinal RBF SVM",
            about="For grades in order: an RBF SVM at each threshold (Frank & Hall), probabilities monotone.",
            factory="ordinal_svm.OrdinalSVMHead",
            params={"kernel": "rbf"},
            grid=_RBF_GRID,
            search="ordinal_svm.fold_scores",
            exact_rows=EXACT_ROWS,
            splits=True,
            ordered=True,
            nominal="svm-rbf",
        ),
        Head(
            name="nearest-mean",
            title="Nearest class mean",
            about="The class whose mean is nearest; how sure that is, is found on grouped folds.",
            factory="nearest_centroid.NearestCentroidHead",
            params={},
            grid=({"scaling": SCALINGS},),
            splits=True,
        ),
        Head(
            name="knn",
            title="Nearest neighbours",
            about="Votes of the k nearest rows by cosine, nearer ones weighing more.",
            factory="knn.KNNHead",
            params={},
            grid=({"scaling": ("l2", "standardise"), "k": (25, 15, 9, 5, 3, 1)},),
            search="knn.fold_scores",
        ),
        Head(
            name="lda",
            title="Shrinkage LDA",
            about="Linear discriminant analysis; auto is the shrinkage of Ledoit and Wolf. Its probabilities "
            "are at a temperature found on grouped folds.",
            factory="lda.LDAHead",
            params={},
            grid=({"scaling": SCALINGS, "shrinkage": (0.9, 0.6, 0.3, 0.1, 0.03, "auto")},),
            search="lda.fold_scores",
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


def grid_points(head: Head) -> list[dict[str, Any]]:
    """Return the points searched for a head, so ordered that the first of equal scores is the one to take.

    Stronger regularisation comes first: by C, then by gamma, then by scaling in the order of the grid.
    """
    points = [
        dict(zip(grid, values, strict=True)) for grid in head.grid for values in product(*grid.values())
    ]
    return sorted(points, key=lambda point: (point.get("C", 0.0), point.get("gamma_factor", 0.0)))


def resolve(name: str) -> Any:
    """Return what a head names by its module here and its name there."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(f"{__package__}.{module}"), attribute)


_SETTLED_ELSEWHERE = {
    "seed": "choose it with --seed",
    "log_dir": "a comparison writes training curves, a single fit none",
}


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
    factory = resolve(head.factory)
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


def resolve_params(name: str, params: Mapping[str, Any]) -> dict[str, Any]:
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
    defaults = resolve(head.factory)().get_params()
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
    elif key == "shrinkage":
        sound, expected = value == "auto" or (number and 0 < value <= 1), "auto, or a share above 0 up to 1"
    elif isinstance(default, str):
        sound, expected = isinstance(value, str), "a word"
    else:  # class_weight
        sound, expected = value is None or value == "balanced" or isinstance(value, Mapping), "balanced"
    if not sound:
        raise CompareError(f"Parameter {key!r} is {value!r}: expected {expected}")
    return int(value) if isinstance(default, int) else value
