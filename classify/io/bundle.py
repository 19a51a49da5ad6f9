"""Bundle: a folder with a fitted head and everything needed to predict new images; no pickle.

``manifest.json`` describes the head and its features; ``head.skops`` or ``head.keras`` is the head. Weights
of the backbone are included unless they are the published ones.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classify.errors import BundleError
from classify.io.head_file import file_digest, load_head
from classify.io.manifest import EXAMPLES, MANIFEST, WEIGHTS, make_again, read_manifest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


PARTS = ("head.skops", "head.keras", WEIGHTS, EXAMPLES, MANIFEST)


@dataclass(frozen=True, kw_only=True)
class BundlePart:
    """A backbone of a bundle, with the config of its features."""

    store: str
    config_digest: str
    config: Mapping[str, Any]
    weights: Path | None  # weights file in the bundle
    missing: str | None  # why weights that cannot be downloaded are not in the bundle
    level_ends: tuple[int, ...]  # last column of each level; a single level if the bundle has one backbone


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A loaded bundle."""

    path: Path
    manifest: Mapping[str, Any]
    estimator: Any
    members: tuple[Bundle, ...] = ()  # of an ensemble, which has no estimator

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in label order."""
        return tuple(self.manifest["classes"])

    @property
    def join(self) -> str:
        """What is averaged over the images of an entry; "" if the head was fitted on entries of one image."""
        return self.members[0].join if self.members else str(self.manifest.get("join") or "")

    @property
    def parts(self) -> tuple[BundlePart, ...]:
        """The backbone of the features, or all backbones of fused features, in order."""
        manifest = self.manifest
        single = {**manifest, "level_ends": [manifest["n_features"]]}
        return tuple(
            BundlePart(
                store=part["store"],
                config_digest=part["config_digest"],
                config=part["config"],
                weights=self.path / part["weights"]["file"] if part["weights"].get("file") else None,
                missing=part["weights"].get("missing"),
                level_ends=tuple(part["level_ends"]),
            )
            for part in manifest.get("parts", [single])
        )

    def predict_proba(self, features: npt.NDArray[np.float32], config_digest: str) -> npt.NDArray[np.float64]:
        """Return the probability of each class.

        Parameters
        ----------
        features : ndarray of shape (n, n_features), float32
            Plain-view features with all levels; of several backbones as returned by `fusion.fuse_rows`.
        config_digest : str
            Digest of the config of the features; of several backbones `fusion.fused_digest`.

        Returns
        -------
        ndarray of shape (n, n_classes), float64
            Columns in the order of `classes`.

        Raises
        ------
        BundleError
            If config or width of the features differ from those that the head was fitted on.
        """
        if config_digest != self.manifest["config_digest"]:
            backbones = " and ".join(repr(str(part.config["backbone"])) for part in self.parts)
            raise BundleError(
                f"{self.path}: the features have config {config_digest[:12]}…, but the head was fitted on "
                f"{backbones} features of config {self.manifest['config_digest'][:12]}…. {self._remedy()}"
            )
        if features.ndim != 2 or features.shape[1] != self.manifest["n_features"]:
            raise BundleError(
                f"{self.path}: expected features of shape (n, {self.manifest['n_features']}), received "
                f"{features.shape}. {self._remedy()}"
            )
        from classify.heads.base import all_classes
        from classify.heads.solvers.temperature import apply_temperature

        first, end = self.manifest["columns"]
        probabilities = all_classes(
            self.estimator.predict_proba(features[:, first:end]),
            labels=self.manifest["labels"],
            n_classes=len(self.classes),
        )
        return apply_temperature(probabilities, self.manifest.get("temperature", 1.0))

    def _remedy(self) -> str:
        """Return a sentence with the commands that make matching features, one per backbone."""
        from featurize.extraction.commands import extract_command

        commands = {part.store: extract_command(part.config) for part in self.parts}
        if len(commands) == 1:
            return f"Make a matching store with: {next(iter(commands.values()))}"
        return "Make matching stores with: " + "; ".join(
            f"{command} (for {store})" for store, command in commands.items()
        )


def load_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Load a bundle without executing any code from it.

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
        If it is missing, damaged, of another format version, or contains types that no head of Folio has.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    if "members" in manifest:
        return _load_ensemble(folder, manifest)
    for part in manifest.get("parts", [manifest]):
        name = part["weights"].get("file")
        if name and file_digest(_bundle_file(folder, name, manifest)) != part["weights"]["file_sha256"]:
            raise BundleError(
                f"{folder / name}: damaged or replaced: its SHA-256 differs from {MANIFEST}. "
                f"{make_again(folder, manifest)}"
            )
    first, end = manifest["columns"]
    estimator = load_head(
        _bundle_file(folder, manifest["head_file"], manifest), manifest, n_features=end - first
    )
    return Bundle(path=folder, manifest=manifest, estimator=estimator)


def _load_ensemble(folder: Path, manifest: Mapping[str, Any]) -> Bundle:
    members = tuple(load_bundle(folder / name) for name in manifest["members"])
    for name, member in zip(manifest["members"], members, strict=True):
        if member.members or list(member.classes) != manifest["classes"]:
            raise BundleError(
                f"{folder / name}: not a head of the classes {', '.join(manifest['classes'])}. "
                f"{make_again(folder, manifest)}"
            )
    return Bundle(path=folder, manifest=manifest, estimator=None, members=members)


def _bundle_file(folder: Path, name: str, manifest: Mapping[str, Any]) -> Path:
    """Return the path of a file of a bundle; raise BundleError if it is missing or outside the folder."""
    path = folder / str(name)
    if Path(str(name)).name != name or not path.is_file():
        raise BundleError(
            f"{folder}: {name!r}, named in {MANIFEST}, is not a file of the bundle. "
            f"{make_again(folder, manifest)}"
        )
    return path
