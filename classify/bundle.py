"""A fitted head with all it needs to grade new images, as a folder: JSON and the head, no pickle.

``manifest.json`` says what the head was fitted on; ``head.skops`` or ``head.keras`` is the head; a weights
file comes along where the backbone's weights are not the published ones.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classify.heads import TRUSTED_TYPES, get_head, make_head
from classify.manifest import MANIFEST, read_manifest, write_manifest
from featurize import BundleError, __version__, printable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

WEIGHTS = "weights.h5"  # files are told apart by content
PARTS = ("head.skops", "head.keras", WEIGHTS, MANIFEST)
PACKAGES = ("tensorflow", "keras", "scikit-learn", "numpy", "skops")


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A loaded bundle."""

    path: Path
    manifest: Mapping[str, Any]
    estimator: Any

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in label order."""
        return tuple(self.manifest["classes"])

    @property
    def config(self) -> Mapping[str, Any]:
        """Config of the features the head was fitted on."""
        found: Mapping[str, Any] = self.manifest["config"]
        return found

    @property
    def weights(self) -> Path | None:
        """The backbone's weights, where they came along."""
        carried = self.manifest["weights"].get("file")
        return self.path / carried if carried else None

    def predict_proba(self, features: npt.NDArray[np.float32], config_digest: str) -> npt.NDArray[np.float64]:
        """Return the probability of each class.

        Parameters
        ----------
        features : ndarray of shape (n, n_features), float32
            Plain-view features.
        config_digest : str
            Digest of the config they were made under.

        Returns
        -------
        ndarray of shape (n, n_classes), float64
            Columns in the order of `classes`.

        Raises
        ------
        BundleError
            If the features were made under another config, or have another width.
        """
        if config_digest != self.manifest["config_digest"]:
            raise BundleError(
                f"{self.path}: features of config {config_digest[:12]}…, but the head was fitted on "
                f"{self.config['backbone']!r} features of config {self.manifest['config_digest'][:12]}…. "
                f"Make a matching store with: {extract_command(self.config)}"
            )
        if features.ndim != 2 or features.shape[1] != self.manifest["n_features"]:
            raise BundleError(
                f"{self.path}: expected features of shape (n, {self.manifest['n_features']}), found "
                f"{features.shape}. Make a matching store with: {extract_command(self.config)}"
            )
        from classify.tuning import all_classes

        return all_classes(
            self.estimator.predict_proba(features),
            labels=self.manifest["labels"],
            n_classes=len(self.classes),
        )


def save_bundle(
    folder: Path,
    *,
    estimator: Any,
    head: str,
    params: Mapping[str, Any],
    config: Mapping[str, Any],
    config_digest: str,
    classes: Sequence[str],
    ordered: bool,
    n_features: int,
    dataset: str,
    store: str,
    weights: Mapping[str, Any],
    metrics: Mapping[str, Any],
    seed: int,
) -> None:
    """Write a fitted head to ``folder``, made where it is missing.

    Parameters
    ----------
    folder : Path
    estimator : fitted head
    head, params
        Name and hyper-parameters.
    config, config_digest, classes, ordered, n_features, dataset, store
        Of the store the head was fitted on.
    weights : mapping
        What `carry_weights` returned.
    metrics : mapping
        What is known of the head's worth.
    seed : int
    """
    folder.mkdir(parents=True, exist_ok=True)
    head_file = folder / ("head.keras" if get_head(head).tensorflow else "head.skops")
    if get_head(head).tensorflow:
        estimator.save(head_file)
    else:
        import skops.io

        skops.io.dump(estimator, head_file)
    carried = dict(weights)
    source = carried.pop("path", None)
    if source is not None:
        _link_or_copy(Path(source), folder / WEIGHTS)
        carried["file"] = WEIGHTS
    fields = {
        "head": head,
        "head_file": head_file.name,
        "head_sha256": file_digest(head_file),
        "params": params,
        "labels": estimator.classes_,
        "config": config,
        "config_digest": config_digest,
        "backbone": config["backbone"],
        "classes": classes,
        "ordered": ordered,
        "n_features": n_features,
        "dataset": dataset,
        "store": store,
        "weights": carried,
        "metrics": metrics,
        "seed": seed,
        "created_with": packages(),
    }
    write_manifest(folder, fields)


def load_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Load a bundle; nothing in it is run.

    Parameters
    ----------
    path : path-like
        The bundle's folder.

    Returns
    -------
    Bundle

    Raises
    ------
    BundleError
        If it is missing, damaged, of a newer format, or holds types that no head of ours has.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    file = _inside(folder, manifest["head_file"])
    if file_digest(file) != manifest["head_sha256"]:
        raise BundleError(
            f"{file}: damaged or replaced: its SHA-256 is not the manifest's. Make the bundle anew."
        )
    carried = manifest["weights"].get("file")
    if carried and file_digest(_inside(folder, carried)) != manifest["weights"]["file_sha256"]:
        raise BundleError(
            f"{folder / carried}: damaged or replaced: its SHA-256 is not the manifest's. Make the bundle "
            "anew."
        )
    if get_head(manifest["head"]).tensorflow:
        from classify.heads.dense import DenseHead

        try:
            estimator = DenseHead.load(file, manifest["labels"])
        except Exception as error:  # Keras raises whatever the damage leads to
            raise BundleError(f"{file}: cannot be loaded in safe mode ({_first_line(error)})") from None
    else:
        estimator = _load_skops(file)
    _check_estimator(file, estimator, manifest)
    return Bundle(path=folder, manifest=manifest, estimator=estimator)


def carry_weights(
    folder: Path, *, store: str, config: Mapping[str, Any], created_with: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Keep the backbone's weights for the bundles of a store, unless they are the published ones.

    Parameters
    ----------
    folder : Path
        Where to keep them, once a store.
    store : str
        The store's name.
    config, created_with : mapping
        Of the store.

    Returns
    -------
    weights : dict
        For `save_bundle`.
    notes : tuple of str
        What could not be carried, and what it means.
    """
    from featurize import FolioError, find_weights, get_backbone, save_weights

    wanted = dict(config["weights"])
    if wanted["kind"] == "imagenet":
        return wanted, ()
    source = "random" if wanted["kind"] == "random" else created_with.get("weights_path")
    try:
        backbone = get_backbone(config["backbone"])
        if source is None:
            raise FolioError("the store does not say which file they came from")
        found = find_weights(backbone, source, seed=wanted.get("seed") or 0)
        if found.sha256 != wanted["sha256"]:
            raise FolioError(f"{source} holds other weights now than the features were made with")
        folder.mkdir(parents=True, exist_ok=True)
        kept = save_weights(backbone, found, folder / f"{store}.{WEIGHTS}")
    except (FolioError, OSError) as error:
        note = (
            f"{store}: the backbone's weights could not be put into its bundles ({printable(str(error))}); "
            "they grade stored features, not images"
        )
        return {**wanted, "missing": printable(str(error))}, (note,)
    return {**wanted, "path": kept, "file_sha256": file_digest(kept)}, ()


def extract_command(config: Mapping[str, Any], *, images: str = "IMAGES") -> str:
    """Return the command that makes features of this config."""
    from featurize import default_of, extract, get_backbone

    words = ["featurize", "extract", images, "--backbone", str(config["backbone"])]
    weights = config["weights"]
    if weights["kind"] != "imagenet":
        words += ["--weights", "random" if weights["kind"] == "random" else "FILE"]
    if config["input_size"] != get_backbone(config["backbone"]).size:
        words += ["--input-size", str(config["input_size"])]
    for key in ("resize", "resample", "preprocess", "precision", "store_dtype"):
        if config[key] != default_of(extract, key):
            words += [f"--{key.replace('_', '-')}", str(config[key])]
    views = dict(config["views"])
    if (seed := views.pop("seed")) != default_of(extract, "seed"):
        words += ["--seed", str(seed)]
    ranges = default_of(extract, "ranges")
    for key, value in views.items():
        if value == getattr(ranges, key):
            continue
        option = key.replace("_", "-")
        words += (
            [f"--{'' if value else 'no-'}{option}"]
            if isinstance(value, bool)
            else [f"--{option}", str(value)]
        )
    return shlex.join(words)


def packages() -> dict[str, str]:
    """Return the versions that a fitted head depends on, without importing anything."""
    found = {"folio-grader": __version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _inside(folder: Path, name: str) -> Path:
    path = folder / str(name)
    if Path(str(name)).name != name or not path.is_file():
        raise BundleError(
            f"{folder}: {name!r}, named in {MANIFEST}, is not a file of the bundle. Make the bundle anew."
        )
    return path


def _load_skops(file: Path) -> Any:
    import skops.io

    try:
        strangers = sorted(set(skops.io.get_untrusted_types(file=file)) - set(TRUSTED_TYPES))
        if not strangers:
            return skops.io.load(file, trusted=list(TRUSTED_TYPES))
    except Exception as error:  # zipfile, json, numpy and skops each raise their own
        raise BundleError(f"{file}: cannot be loaded ({_first_line(error)}). Make the bundle anew.") from None
    raise BundleError(f"{file}: refused: it holds {', '.join(strangers)}, which no head of Folio has.")


def _check_estimator(file: Path, estimator: Any, manifest: Mapping[str, Any]) -> None:
    """Raise unless what was loaded is the head that the manifest describes."""
    import numpy as np

    head, labels, n_features = get_head(manifest["head"]), manifest["labels"], manifest["n_features"]
    problem = ""
    if type(estimator) is not type(make_head(head.name)) or any(
        getattr(estimator, name, None) != value for name, value in head.params.items()
    ):
        problem = f"holds {type(estimator).__name__}, not the head {head.name!r}"
    elif not np.array_equal(getattr(estimator, "classes_", ()), labels):
        problem = f"its classes are not the labels {labels}"
    elif getattr(estimator, "n_features_in_", None) != n_features:
        problem = f"not fitted on {n_features} features"
    elif head.tensorflow and estimator.model_.output_shape != (None, len(labels) if len(labels) > 2 else 1):
        problem = f"its network does not tell {len(labels)} classes apart"
    if problem:
        raise BundleError(f"{file}: {problem}, as {MANIFEST} has it. Make the bundle anew.")


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def _first_line(error: Exception) -> str:
    return printable((str(error).splitlines() or [type(error).__name__])[0][:200])
