"""File of a fitted head: skops for scikit-learn heads, Keras' format for dense heads; never pickle.

Neither file refers to classes of Folio. ``head.skops`` contains the return value of `head_state`;
``head.keras`` is a network of Keras layers. Loading creates the head that the manifest names and sets its
state.
"""

from __future__ import annotations

import hashlib
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

import numpy as np

from classify.errors import BundleError
from classify.heads.base import BaseHead
from classify.heads.registry import get_head, make_head
from classify.io.manifest import MANIFEST, make_again

# Types that skops does not trust by default: `CalibratedClassifierCV` creates these objects, which consist of
# arrays and numbers.
TRUSTED_TYPES = ("sklearn.calibration._CalibratedClassifier", "sklearn.calibration._SigmoidCalibration")


@dataclass(frozen=True, kw_only=True, eq=False)
class SavedHead:
    """A fitted head as the bytes of its file, for the cache, for workers and for bundles."""

    data: bytes
    labels: tuple[int, ...]  # labels that it was fitted on, ascending


def file_name(head: str) -> str:
    """Return the name of the head's file in a bundle."""
    return "head.keras" if get_head(head).tensorflow else "head.skops"


def dump_head(estimator: Any, head: str) -> SavedHead:
    """Return a fitted head as the bytes of its file.

    Parameters
    ----------
    estimator : fitted head
    head : str
        Name of the head.
    """
    if get_head(head).tensorflow:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / file_name(head)
            estimator.save(file)
            data = file.read_bytes()
    else:
        import skops.io

        # Mostly descriptions of objects, which even the lowest level compresses to a tenth.
        data = skops.io.dumps(head_state(estimator), compression=zipfile.ZIP_DEFLATED, compresslevel=1)
    return SavedHead(data=data, labels=tuple(int(label) for label in estimator.classes_))


def load_head(file: Path, manifest: Mapping[str, Any], *, n_features: int) -> Any:
    """Load the head that a manifest describes, without executing any code from the file.

    Parameters
    ----------
    file : Path
    manifest : mapping
        Checked by `classify.io.manifest.read_manifest`.
    n_features : int
        Number of columns of the head.

    Returns
    -------
    fitted head

    Raises
    ------
    BundleError
        If the file is damaged, contains types that no head of Folio has, or is not the head that the manifest
        describes.
    """
    if file_digest(file) != manifest["head_sha256"]:
        raise BundleError(
            f"{file}: damaged or replaced: its SHA-256 differs from {MANIFEST}. "
            f"{make_again(file.parent, manifest)}"
        )
    if get_head(manifest["head"]).tensorflow:
        from classify.heads.dense import DenseHead

        try:
            estimator = DenseHead.load(file, manifest["labels"])
        except Exception as error:  # Keras raises many types of errors
            raise BundleError(
                f"{file}: cannot be loaded in safe mode ({_first_line(error)}). "
                f"{make_again(file.parent, manifest)}"
            ) from None
    else:
        estimator = _load_skops(file, manifest)
    problem = _difference(estimator, manifest, n_features=n_features)
    problem = problem or _prediction_problem(estimator, n_features)
    if problem:
        raise BundleError(
            f"{file}: does not match {MANIFEST}: {problem}. {make_again(file.parent, manifest)}"
        )
    return estimator


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _load_skops(file: Path, manifest: Mapping[str, Any]) -> Any:
    import skops.io

    estimator = make_head(manifest["head"])
    try:
        untrusted = sorted(set(skops.io.get_untrusted_types(file=file)) - set(TRUSTED_TYPES))
        if not untrusted:
            restore_head(estimator, skops.io.load(file, trusted=list(TRUSTED_TYPES)))
            return estimator
    except Exception as error:  # zipfile, json, numpy and skops each raise their own
        raise BundleError(
            f"{file}: cannot be loaded ({_first_line(error)}). {make_again(file.parent, manifest)}"
        ) from None
    raise BundleError(
        f"{file}: refused, because it contains {', '.join(untrusted)}, which no head of Folio has."
    )


def _difference(estimator: Any, manifest: Mapping[str, Any], *, n_features: int) -> str:
    """Return how a loaded head differs from its manifest; "" if it does not."""
    head, labels = get_head(manifest["head"]), manifest["labels"]
    if type(estimator) is not type(make_head(head.name)) or any(
        getattr(estimator, name, None) != value for name, value in head.params.items()
    ):
        return f"it is a {type(estimator).__name__}, not the head {head.name!r}"
    if not np.array_equal(getattr(estimator, "classes_", ()), labels):
        return f"its classes are not the labels {labels}"
    if getattr(estimator, "n_features_in_", None) != n_features:
        return f"it was not fitted on {n_features} features"
    if head.tensorflow and estimator.model_.output_shape != (None, len(labels) if len(labels) > 2 else 1):
        return f"its network does not have {len(labels)} classes"
    return ""


def _prediction_problem(estimator: Any, n_features: int) -> str:
    """Return why the head cannot predict a row of ones; "" if it can."""
    try:
        proba = estimator.predict_proba(np.ones((1, n_features), dtype=np.float32))
        valid = proba.shape == (1, len(estimator.classes_)) and abs(float(proba.sum()) - 1.0) < 1e-3
    except Exception as error:  # arrays of wrong shapes lead to many types of errors
        return f"it cannot predict ({_first_line(error)})"
    return "" if valid else "it does not predict probabilities"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


OPTIONAL = frozenset({"notes_"})  # fitted attributes that not every fit sets


def head_state(head: BaseHead) -> dict[str, Any]:
    """Return a fitted head as ``{"params": …, "attributes": …}``; nested heads in the same form.

    Parameters
    ----------
    head : fitted head
        The class attribute `FITTED` lists the fitted attributes and their types.
    """
    fitted = vars(head)
    return {
        "params": head.get_params(deep=False),
        "attributes": {
            name: _plain(fitted[name], kind) for name, kind in head.FITTED.items() if name in fitted
        },
    }


def restore_head(head: BaseHead, state: Any) -> None:
    """Set the state of a head that is not fitted, after all of the state has been checked.

    Parameters
    ----------
    head : unfitted head
        Of the class that the state was taken from.
    state : object
        Expected to be a return value of `head_state`, but from an untrusted file.

    Raises
    ------
    ValueError
        If it is not the state of such a head.
    """
    if type(state) is not dict or set(state) != {"params", "attributes"}:
        raise ValueError("it does not contain parameters and attributes of a head")
    params = _checked_params(head, state["params"])
    attributes = _checked_attributes(head, state["attributes"])
    head.set_params(**params)
    for name, value in attributes.items():  # only names in `FITTED`
        setattr(head, name, value)


def _plain(value: Any, kind: Any) -> Any:
    """Return an attribute for the file: nested heads as states, numbers as Python numbers."""
    if get_origin(kind) is list:
        return [head_state(head) for head in value]
    return kind(value) if kind in (bool, int, float, tuple) else value


def _checked_params(head: BaseHead, params: Any) -> dict[str, Any]:
    defaults = head.get_params(deep=False)
    if type(params) is not dict or set(params) != set(defaults):
        raise ValueError(f"its parameters are not the parameters of this head: {', '.join(sorted(defaults))}")
    for name, value in params.items():
        if not _is_valid(value, defaults[name]):
            raise ValueError(f"its parameter {name!r} is {_short(value)}")
    return dict(params)


def _is_valid(value: Any, default: Any) -> bool:
    """Return whether a parameter with this default may have this value."""
    if type(default) is int:
        return type(value) is int
    if type(default) is float:
        return type(value) in (int, float)
    if default is None:  # class_weight
        return (
            value is None
            or type(value) is str
            or (type(value) is dict and all(map(_is_label_weight, value.items())))
        )
    return type(value) is str or (default == "auto" and type(value) in (int, float))  # shrinkage


def _is_label_weight(item: tuple[Any, Any]) -> bool:
    label, weight = item
    return type(label) in (int, str) and type(weight) in (int, float)


def _checked_attributes(head: BaseHead, attributes: Any) -> dict[str, Any]:
    expected: Mapping[str, Any] = head.FITTED
    if type(attributes) is not dict:
        raise ValueError("it does not contain parameters and attributes of a head")
    if unknown := set(attributes) - set(expected):
        raise ValueError(
            f"it has the attribute {_short(min(unknown, key=str))}, which this head does not have"
        )
    if missing := sorted(set(expected) - set(attributes) - OPTIONAL):
        raise ValueError(f"it lacks the attribute {missing[0]!r} of a fitted head")
    return {name: _checked(name, value, expected[name]) for name, value in attributes.items()}


def _checked(name: str, value: Any, kind: Any) -> Any:
    """Return an attribute after a check of its type, with nested heads restored."""
    if get_origin(kind) is list:
        (head_class,) = get_args(kind)
        if type(value) is not list:
            raise ValueError(f"its attribute {name!r} is {_short(value)}; expected a list")
        heads = [head_class() for _ in value]
        for nested, state in zip(heads, value, strict=True):
            restore_head(nested, state)
        return heads
    valid = type(value) in (kind if isinstance(kind, tuple) else (kind,))
    if valid and kind is np.ndarray:
        valid = value.dtype.kind in "biufU"
    if valid and kind is tuple:
        valid = all(type(element) is str for element in value)
    if not valid:
        raise ValueError(f"its attribute {name!r} has the wrong type: {type(value).__name__}")
    return value


def _short(value: Any) -> str:
    return repr(value)[:60]
