"""Registry of heads: factory, hyper-parameter grid and properties of each. Importing it is cheap."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from math import isfinite
from typing import Any

from classify.errors import CompareError

SCALINGS = ("standardise", "l2")
# scikit-learn's C weighs the loss against ||w||². The squared norm of a row is about n_features when
# standardised and 1 when L2-normalised, so equally strong regularisation needs values of C that are about
# three decades apart.
_LINEAR_GRID = (
    {"scaling": ("standardise",), "C": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)},
    {"scaling": ("l2",), "C": (1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)},
)
# The RBF kernel of equal rows is 1 with any scaling, and gamma is relative: one grid serves both scalings.
_RBF_GRID = (
    {
        "scaling": SCALINGS,
        "C": (1e-1, 1.0, 1e1, 1e2, 1e3),
        "gamma_factor": (1e-3, 1e-2, 1e-1, 1.0, 1e1),
    },
)


# Largest number of training rows, views included, for which SVM heads are solved exactly. With more, the
# kernel matrices would take more than 1 GB per process.
EXACT_ROWS = 10_000


@dataclass(frozen=True, kw_only=True)
class Head:
    """A head described as data; listing heads imports neither scikit-learn nor TensorFlow."""

    name: str  # one spelling: CLI, results.json, tests
    title: str  # for tables and axes
    about: str  # one sentence
    factory: str  # "<module>.<class>" in this package
    params: Mapping[str, Any]  # constructor parameters that define this head
    grid: tuple[Mapping[str, tuple], ...]  # searched hyper-parameters, as in scikit-learn's ParameterGrid
    search: str = ""  # "<module>.<function>" that predicts for all points of a fold at once; "": one by one
    exact_rows: int | None = None  # above this number of training rows an approximate model is fitted
    holds_out_groups: bool = False  # a fit holds out groups, so that each class needs two or more
    tensorflow: bool = False  # fitting and predicting import TensorFlow
    ordered: bool = False  # only for three or more ordered classes
    nominal: str = ""  # the corresponding head that ignores the order


HEADS: Mapping[str, Head] = {
    head.name: head
    for head in (
        Head(
            name="dense",
            title="Dense network",
            about="Keras: batch norm, 512-128-64 ReLU, batch norm, dropout; early stopping on grouped data.",
            factory="dense.DenseHead",
            params={"output": "nominal"},
            grid=({"scaling": SCALINGS},),
            holds_out_groups=True,
            tensorflow=True,
        ),
        Head(
            name="logreg",
            title="Logistic regression",
            about="Multinomial, L2 penalty, solved to 1e-6 in float64.",
            factory="logistic.LogisticHead",
            params={},
            grid=_LINEAR_GRID,
            search="logistic.fold_predictions",
        ),
        Head(
            name="svm-linear",
            title="Linear SVM",
            about="Support vector machine, linear kernel; probabilities by Platt scaling on grouped folds.",
            factory="svm.SVMHead",
            params={"kernel": "linear"},
            grid=_LINEAR_GRID,
            search="svm_search.fold_predictions",
            exact_rows=EXACT_ROWS,
            holds_out_groups=True,
        ),
        Head(
            name="svm-rbf",
            title="RBF SVM",
            about="Support vector machine, RBF kernel; probabilities by Platt scaling on grouped folds.",
            factory="svm.SVMHead",
            params={"kernel": "rbf"},
            grid=_RBF_GRID,
            search="svm_search.fold_predictions",
            exact_rows=EXACT_ROWS,
            holds_out_groups=True,
        ),
        Head(
            name="ordinal-dense",
            title="Ordinal dense network",
            about="The dense network with one output score and ordered thresholds between the classes.",
            factory="dense.DenseHead",
            params={"output": "ordinal"},
            grid=({"scaling": SCALINGS},),
            holds_out_groups=True,
            tensorflow=True,
            ordered=True,
            nominal="dense",
        ),
        Head(
            name="ordinal-logistic",
            title="Ordinal logistic regression",
            about="Proportional odds, L2 penalty, solved to 1e-6 in float64; for ordered classes.",
            factory="ordinal_logistic.OrdinalLogisticHead",
            params={},
            grid=_LINEAR_GRID,
            search="ordinal_logistic.fold_predictions",
            ordered=True,
            nominal="logreg",
        ),
        Head(
            name="ordinal-svm",
            title="Ordinal RBF SVM",
            about="For ordered classes: one RBF SVM per threshold (Frank & Hall), monotone probabilities.",
            factory="ordinal_svm.OrdinalSVMHead",
            params={"kernel": "rbf"},
            grid=_RBF_GRID,
            search="ordinal_svm.fold_predictions",
            exact_rows=EXACT_ROWS,
            holds_out_groups=True,
            ordered=True,
            nominal="svm-rbf",
        ),
        Head(
            name="nearest-mean",
            title="Nearest class mean",
            about="The class with the nearest mean; probabilities calibrated on grouped folds.",
            factory="nearest_centroid.NearestCentroidHead",
            params={},
            grid=({"scaling": SCALINGS},),
            holds_out_groups=True,
        ),
        Head(
            name="knn",
            title="Nearest neighbours",
            about="Votes of the k nearest training rows by cosine distance, nearer rows weigh more.",
            factory="knn.KNNHead",
            params={},
            grid=({"scaling": ("l2", "standardise"), "k": (25, 15, 9, 5, 3, 1)},),
            search="knn.fold_predictions",
        ),
        Head(
            name="lda",
            title="Shrinkage LDA",
            about="Linear discriminant analysis; auto is Ledoit-Wolf shrinkage. "
            "Probabilities by temperature scaling on grouped folds.",
            factory="lda.LDAHead",
            params={},
            grid=({"scaling": SCALINGS, "shrinkage": (0.9, 0.6, 0.3, 0.1, 0.03, "auto")},),
            search="lda.fold_predictions",
            holds_out_groups=True,
        ),
        Head(
            name="baseline",
            title="Majority class",
            about="The most frequent class for every image; probabilities are the class frequencies.",
            factory="baseline.BaselineHead",
            params={},
            grid=({},),
        ),
    )
}


def get_head(name: str) -> Head:
    """Return the head with this name.

    Raises
    ------
    CompareError
        If the name is unknown; the message lists the known names.
    """
    try:
        return HEADS[name]
    except KeyError:
        raise CompareError(
            f"Unknown head {name!r}: expected one of {', '.join(HEADS)}. See: classify heads"
        ) from None


def grid_points(head: Head) -> list[dict[str, Any]]:
    """Return the grid points of a head, ordered so that in a tie the first one is chosen.

    Stronger regularisation comes first: ordered by C, then gamma, then as in the grid.
    """
    points = [
        dict(zip(grid, values, strict=True)) for grid in head.grid for values in product(*grid.values())
    ]
    return sorted(points, key=lambda point: (point.get("C", 0.0), point.get("gamma_factor", 0.0)))


def import_object(name: str) -> Any:
    """Import and return the object ``"<module>.<attribute>"`` of this package."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(f"{__package__}.{module}"), attribute)


# Constructor parameters that are not hyper-parameters, and the hint for a user who sets one.
_NOT_HYPERPARAMETERS = {
    "seed": "choose it with --seed",
    "log_dir": "a comparison writes training curves, a single fit does not",
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
        Estimator parameters, e.g. one of `grid_points`; they override `seed` and `class_weight`.
    seed : int, default=0
        Used by heads that draw random numbers (the dense network, the folds of a calibration).
    class_weight : {None, "balanced"}
        Used by heads that weigh classes; the baseline does not.

    Raises
    ------
    CompareError
        If the name, or one of the parameters, is unknown.
    """
    head = get_head(name)
    factory = import_object(head.factory)
    known = factory().get_params()
    common = {"seed": seed, "class_weight": class_weight}
    common = {key: value for key, value in common.items() if key in known}
    unknown = sorted(set(params or {}) - set(known))
    if unknown:
        raise CompareError(
            f"Head {name!r} has no parameter {unknown[0]!r}: expected some of {', '.join(sorted(known))}. "
            "See: classify heads"
        )
    return factory(**{**common, **head.params, **(params or {})})


def solver_params(name: str, n_rows: int) -> dict[str, Any]:
    """Return the solver parameter that both the search and the final fit use for a number of training rows.

    With solver "auto" the fits on folds, which have fewer rows, could use another solver than the final fit.

    Parameters
    ----------
    name : str
        A key of `HEADS`.
    n_rows : int
        Number of rows of the final fit, views included.
    """
    exact_rows = get_head(name).exact_rows
    return {} if exact_rows is None or n_rows <= exact_rows else {"solver": "approximate"}


def validate_params(name: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyper-parameters that a user set, each converted to the type of its default.

    Parameters
    ----------
    name : str
        A key of `HEADS`.
    params : mapping
        Numbers and strings; layer widths also as a string with commas.

    Raises
    ------
    CompareError
        If one is unknown, has another type, or cannot be set by the user; the message names it.
    """
    head = get_head(name)
    defaults = import_object(head.factory)().get_params()
    valid = {}
    for key, value in params.items():
        if key in head.params:
            raise CompareError(f"{key!r} defines the head {name!r}: choose another head instead")
        if key in _NOT_HYPERPARAMETERS:
            raise CompareError(f"{key!r} is no hyper-parameter: {_NOT_HYPERPARAMETERS[key]}")
        if key not in defaults:
            make_head(name, params={key: value})  # raises, and lists the known parameters
        valid[key] = _convert(key, value, defaults[key])
    return valid


def all_params(name: str, params: Mapping[str, Any], *, class_weight: str | None) -> dict[str, Any]:
    """Return all hyper-parameters of a head, including the defaults of those that are not given."""
    head = get_head(name)
    fixed = head.params.keys() | _NOT_HYPERPARAMETERS.keys()
    full = make_head(name, params=params, class_weight=class_weight).get_params()
    return {key: value for key, value in full.items() if key not in fixed}


def _convert(key: str, value: Any, default: Any) -> Any:
    """Return a value of the type of its default; raise CompareError if it has another type."""
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
        valid, expected = number and isfinite(value) and value == int(value), "a whole number"
    elif isinstance(default, float):
        valid, expected = number and isfinite(value), "a number"
    elif key == "shrinkage":
        valid, expected = value == "auto" or (number and 0 < value <= 1), "auto, or a number above 0 up to 1"
    elif isinstance(default, str):
        valid, expected = isinstance(value, str), "a word"
    else:  # class_weight
        valid, expected = value is None or value == "balanced" or isinstance(value, Mapping), "balanced"
    if not valid:
        raise CompareError(f"Parameter {key!r} is {value!r}: expected {expected}")
    return int(value) if isinstance(default, int) else value
