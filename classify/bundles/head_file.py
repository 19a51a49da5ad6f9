"""A fitted head as a file: skops for scikit-learn's, Keras' own for the dense one; never pickle.

Neither file names a class of ours: ``head.skops`` holds what `classify.heads.state` returns, ``head.keras`` a
network of Keras' own layers. Both are put into a new head of the name that the manifest gives.
"""

from __future__ import annotations

import hashlib
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from classify.bundles.manifest import MANIFEST
from classify.heads import get_head, make_head
from featurize import BundleError, printable

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

        from classify.heads.state import head_state

        # Mostly descriptions of objects, which shrink to a tenth at the lowest level.
        data = skops.io.dumps(head_state(estimator), compression=zipfile.ZIP_DEFLATED, compresslevel=1)
    return SavedHead(data=data, labels=tuple(int(label) for label in estimator.classes_))


def load_head(file: Path, manifest: Mapping[str, Any], *, n_features: int) -> Any:
    """Load the head that a bundle's manifest describes; nothing in the file is run.

    Parameters
    ----------
    file : Path
    manifest : mapping
        Sound, as `classify.bundles.manifest.read_manifest` gives it.
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

    from classify.heads.state import restore_head

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
