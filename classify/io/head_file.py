"""A fitted head as a file: skops for scikit-learn's, Keras' own for the dense one; never pickle.

Neither file names a class of ours: ``head.skops`` holds what `head_state` returns, ``head.keras`` a
network of Keras' own layers. Both are put into a new head of the name that the manifest gives.
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
from classify.io.manifest import MANIFEST
from featurize.base.text import printable

# What skops must be told to trust: `CalibratedClassifierCV` makes these plain objects of arrays and numbers.
# All else in a head it knows by itself.
TRUSTED_TYPES = ("sklearn.calibration._CalibratedClassifier", "sklearn.calibration._SigmoidCalibration")


@dataclass(frozen=True, kw_only=True, eq=False)
class SavedHead:
    """A fitted head as the bytes of its file: to be kept, copied, put into a bundle; it answers nothing."""

    data: bytes
    labels: tuple[int, ...]  # the classes it was fitted on, ascending


def file_name(head: str) -> str:
    """Return what the file of this head is called in a bundle."""
    return "head.keras" if get_head(head).tensorflow else "head.skops"


def dump_head(estimator: Any, head: str) -> SavedHead:
    """Return a fitted estimator as bytes.

    Parameters
    ----------
    estimator : fitted head
    head : str
        Its name.
    """
    if get_head(head).tensorflow:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / file_name(head)
            estimator.save(file)
            data = file.read_bytes()
    else:
        import skops.io

        # Mostly descriptions of objects, which shrink to a tenth at the lowest level.
        data = skops.io.dumps(head_state(estimator), compression=zipfile.ZIP_DEFLATED, compresslevel=1)
    return SavedHead(data=data, labels=tuple(int(label) for label in estimator.classes_))


def load_head(file: Path, manifest: Mapping[str, Any], *, n_features: int) -> Any:
    """Load the head that a bundle's manifest describes; nothing in the file is run.

    Parameters
    ----------
    file : Path
    manifest : mapping
        Sound, as `classify.io.manifest.read_manifest` gives it.
    n_features : int
        How many columns the head takes.

    Returns
    -------
    fitted head

    Raises
    ------
    BundleError
        If the file is damaged, holds types that no head of ours has, or another head than the manifest says.
    """
    if file_digest(file) != manifest["head_sha256"]:
        raise BundleError(
            f"{file}: damaged or replaced: its SHA-256 is not the manifest's. Make the bundle anew."
        )
    if get_head(manifest["head"]).tensorflow:
        from classify.heads.dense import DenseHead

        try:
            estimator = DenseHead.load(file, manifest["labels"])
        except Exception as error:  # Keras raises whatever the damage leads to
            raise BundleError(f"{file}: cannot be loaded in safe mode ({_first_line(error)})") from None
    else:
        estimator = _load_skops(file, manifest["head"])
    problem = _difference(estimator, manifest, n_features=n_features) or _trial(estimator, n_features)
    if problem:
        raise BundleError(f"{file}: {problem}, as {MANIFEST} has it. Make the bundle anew.")
    return estimator


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _load_skops(file: Path, head: str) -> Any:
    import skops.io

    estimator = make_head(head)
    try:
        strangers = sorted(set(skops.io.get_untrusted_types(file=file)) - set(TRUSTED_TYPES))
        if not strangers:
            restore_head(estimator, skops.io.load(file, trusted=list(TRUSTED_TYPES)))
            return estimator
    except Exception as error:  # zipfile, json, numpy and skops each raise their own
        raise BundleError(f"{file}: cannot be loaded ({_first_line(error)}). Make the bundle anew.") from None
    raise BundleError(f"{file}: refused: it holds {', '.join(strangers)}, which no head of Folio has.")


def _difference(estimator: Any, manifest: Mapping[str, Any], *, n_features: int) -> str:
    """Return how what was loaded is not the head that the manifest describes, "" where it is."""
    import numpy as np

    head, labels = get_head(manifest["head"]), manifest["labels"]
    if type(estimator) is not type(make_head(head.name)) or any(
        getattr(estimator, name, None) != value for name, value in head.params.items()
    ):
        return f"holds {type(estimator).__name__}, not the head {head.name!r}"
    if not np.array_equal(getattr(estimator, "classes_", ()), labels):
        return f"its classes are not the labels {labels}"
    if getattr(estimator, "n_features_in_", None) != n_features:
        return f"not fitted on {n_features} features"
    if head.tensorflow and estimator.model_.output_shape != (None, len(labels) if len(labels) > 2 else 1):
        return f"its network does not tell {len(labels)} classes apart"
    return ""


def _trial(estimator: Any, n_features: int) -> str:
    """Return how the head fails to grade a row of ones, "" where it does not."""
    import numpy as np

    try:
        found = estimator.predict_proba(np.ones((1, n_features), dtype=np.float32))
        sound = found.shape == (1, len(estimator.classes_)) and abs(float(found.sum()) - 1.0) < 1e-3
    except Exception as error:  # whatever arrays of other shapes lead to
        return f"cannot grade ({_first_line(error)})"
    return "" if sound else "does not grade in probabilities"


def _first_line(error: Exception) -> str:
    return printable((str(error).splitlines() or [type(error).__name__])[0][:200])


OPTIONAL = frozenset({"notes_"})  # attributes that not every fit sets


def head_state(head: BaseHead) -> dict[str, Any]:
    """Return a fitted head as ``{"params": …, "attributes": …}``; heads within it in the same form.

    Parameters
    ----------
    head : fitted head
        Of a class whose `FITTED` lists its attributes.
    """
    fitted = vars(head)
    return {
        "params": head.get_params(deep=False),
        "attributes": {
            name: _plain(fitted[name], kind) for name, kind in head.FITTED.items() if name in fitted
        },
    }


def restore_head(head: BaseHead, state: Any) -> None:
    """Make an unfitted head the one whose state this is. Nothing is set before all of it has been checked.

    Parameters
    ----------
    head : unfitted head
        Of the same class.
    state : object
        From an untrusted file: expected to be what `head_state` returned.

    Raises
    ------
    ValueError
        If it is not the state of such a head; the message says why.
    """
    if type(state) is not dict or set(state) != {"params", "attributes"}:
        raise ValueError("holds something else than a head's parameters and attributes")
    params = _checked_params(head, state["params"])
    attributes = _checked_attributes(head, state["attributes"])
    head.set_params(**params)
    for name, value in attributes.items():  # names of `FITTED`, nothing else
        setattr(head, name, value)


def _plain(value: Any, kind: Any) -> Any:
    """Return an attribute as Python's own number, or as it is where it is scikit-learn's or an array."""
    if get_origin(kind) is list:
        return [head_state(one) for one in value]
    return kind(value) if kind in (bool, int, float, tuple) else value


def _checked_params(head: BaseHead, params: Any) -> dict[str, Any]:
    defaults = head.get_params(deep=False)
    if type(params) is not dict or set(params) != set(defaults):
        raise ValueError(
            f"its parameters are not those of this head, which are {', '.join(sorted(defaults))}"
        )
    for name, value in params.items():
        if not _is_like(value, defaults[name]):
            raise ValueError(f"its parameter {name!r} is {_short(value)}")
    return dict(params)


def _is_like(value: Any, default: Any) -> bool:
    """Return whether a parameter may have this value, given its default."""
    if type(default) is int:
        return type(value) is int
    if type(default) is float:
        return type(value) in (int, float)
    if default is None:  # class_weight
        return (
            value is None
            or type(value) is str
            or (type(value) is dict and all(map(_is_label, value.items())))
        )
    return type(value) is str or (default == "auto" and type(value) in (int, float))  # shrinkage


def _is_label(item: tuple[Any, Any]) -> bool:
    label, weight = item
    return type(label) in (int, str) and type(weight) in (int, float)


def _checked_attributes(head: BaseHead, attributes: Any) -> dict[str, Any]:
    known: Mapping[str, Any] = head.FITTED
    if type(attributes) is not dict:
        raise ValueError("holds something else than a head's parameters and attributes")
    if strangers := set(attributes) - set(known):
        raise ValueError(f"it has the attribute {_short(min(strangers, key=str))}, which this head has not")
    if lacking := sorted(set(known) - set(attributes) - OPTIONAL):
        raise ValueError(f"it lacks {lacking[0]!r}, which every fitted one has")
    return {name: _checked(name, value, known[name]) for name, value in attributes.items()}


def _checked(name: str, value: Any, kind: Any) -> Any:
    """Return an attribute of the right type, heads within it restored."""
    if get_origin(kind) is list:
        (of,) = get_args(kind)
        if type(value) is not list:
            raise ValueError(f"its attribute {name!r} is {_short(value)}; expected a list")
        found = [of() for _ in value]
        for one, state in zip(found, value, strict=True):
            restore_head(one, state)
        return found
    sound = type(value) in (kind if isinstance(kind, tuple) else (kind,))
    if sound and kind is np.ndarray:
        sound = value.dtype.kind in "biufU"
    if sound and kind is tuple:
        sound = all(type(one) is str for one in value)
    if not sound:
        raise ValueError(f"its attribute {name!r} is of another type: {type(value).__name__}")
    return value


def _short(value: Any) -> str:
    return repr(value)[:60]
