"""A fitted head with all it needs to grade new images, as a folder: JSON and the head, no pickle.

``manifest.json`` says what the head was fitted on; ``head.skops`` or ``head.keras`` is the head; a weights
file comes along where the backbone's weights are not the published ones.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classify.errors import BundleError
from classify.io.head_file import file_digest, load_head
from classify.io.manifest import EXAMPLES, MANIFEST, WEIGHTS, read_manifest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


PARTS = ("head.skops", "head.keras", WEIGHTS, EXAMPLES, MANIFEST)


@dataclass(frozen=True, kw_only=True)
class BundlePart:
    """A backbone of a bundle: what its features are made with."""

    store: str
    config_digest: str
    config: Mapping[str, Any]
    weights: Path | None  # where they came along
    missing: str | None  # why they did not, though nobody can download them
    level_ends: tuple[int, ...]  # of its features; a bundle of one backbone tells no levels apart


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A loaded bundle."""

    path: Path
    manifest: Mapping[str, Any]
    estimator: Any
    members: tuple[Bundle, ...] = ()  # of an ensemble, which has no estimator of its own

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in label order."""
        return tuple(self.manifest["classes"])

    @property
    def join(self) -> str:
        """What of an entry's images is averaged; "" where the head was fitted on entries of one image."""
        return self.members[0].join if self.members else str(self.manifest.get("join") or "")

    @property
    def parts(self) -> tuple[BundlePart, ...]:
        """What features are made with: one backbone, or each of those whose features are fused, in order."""
        manifest = self.manifest
        alone = {**manifest, "level_ends": [manifest["n_features"]]}
        return tuple(
            BundlePart(
                store=part["store"],
                config_digest=part["config_digest"],
                config=part["config"],
                weights=self.path / part["weights"]["file"] if part["weights"].get("file") else None,
                missing=part["weights"].get("missing"),
                level_ends=tuple(part["level_ends"]),
            )
            for part in manifest.get("parts", [alone])
        )

    def predict_proba(self, features: npt.NDArray[np.float32], config_digest: str) -> npt.NDArray[np.float64]:
        """Return the probability of each class.

        Parameters
        ----------
        features : ndarray of shape (n, n_features), float32
            Plain-view features, all levels of them; of several backbones as `fusion` joins them.
        config_digest : str
            Digest of the config they were made under; of several backbones `fusion.fused_digest`.

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
            made_on = " and ".join(repr(str(part.config["backbone"])) for part in self.parts)
            raise BundleError(
                f"{self.path}: features of config {config_digest[:12]}…, but the head was fitted on "
                f"{made_on} features of config {self.manifest['config_digest'][:12]}…. {self._remedy()}"
            )
        if features.ndim != 2 or features.shape[1] != self.manifest["n_features"]:
            raise BundleError(
                f"{self.path}: expected features of shape (n, {self.manifest['n_features']}), found "
                f"{features.shape}. {self._remedy()}"
            )
        from classify.heads.base import all_classes
        from classify.heads.solvers.temperature import apply_temperature

        first, end = self.manifest["columns"]
        said = all_classes(
            self.estimator.predict_proba(features[:, first:end]),
            labels=self.manifest["labels"],
            n_classes=len(self.classes),
        )
        return apply_temperature(said, self.manifest.get("temperature", 1.0))

    def _remedy(self) -> str:
        """Return which command makes the right features, store by store where there are several."""
        commands = {part.store: extract_command(part.config) for part in self.parts}
        if len(commands) == 1:
            return f"Make a matching store with: {next(iter(commands.values()))}"
        return "Make matching stores with: " + "; ".join(
            f"{command} (for {store})" for store, command in commands.items()
        )


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
    if "members" in manifest:
        return _load_ensemble(folder, manifest)
    for part in manifest.get("parts", [manifest]):
        carried = part["weights"].get("file")
        if carried and file_digest(_inside(folder, carried)) != part["weights"]["file_sha256"]:
            raise BundleError(
                f"{folder / carried}: damaged or replaced: its SHA-256 is not the manifest's. Make the "
                "bundle anew."
            )
    first, end = manifest["columns"]
    estimator = load_head(_inside(folder, manifest["head_file"]), manifest, n_features=end - first)
    return Bundle(path=folder, manifest=manifest, estimator=estimator)


def _load_ensemble(folder: Path, manifest: Mapping[str, Any]) -> Bundle:
    members = tuple(load_bundle(folder / name) for name in manifest["members"])
    for name, member in zip(manifest["members"], members, strict=True):
        if member.members or list(member.classes) != manifest["classes"]:
            raise BundleError(
                f"{folder / name}: not a head of the classes {', '.join(manifest['classes'])}. Make the "
                "bundle anew."
            )
    return Bundle(path=folder, manifest=manifest, estimator=None, members=members)


def extract_command(config: Mapping[str, Any], *, images: str = "IMAGES") -> str:
    """Return the command that makes features of this config."""
    from featurize.backbones.registry import get_backbone
    from featurize.base.terminal import default_of
    from featurize.extraction.extract import extract

    words = ["featurize", "extract", images, "--backbone", str(config["backbone"])]
    weights = config["weights"]
    if weights["kind"] != "imagenet":
        words += ["--weights", "random" if weights["kind"] == "random" else "FILE"]
    if config["input_size"] != get_backbone(config["backbone"]).size:
        words += ["--input-size", str(config["input_size"])]
    for key in ("resize", "resample", "preprocess", "store_dtype"):
        if config[key] != default_of(extract, key):
            words += [f"--{key.replace('_', '-')}", str(config[key])]
    words += ["--precision", str(config["precision"])]  # by default it depends on machine and images
    if "engine" in config:
        words += ["--engine", str(config["engine"])]
    if config.get("levels"):
        words.append("--levels")
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


def _inside(folder: Path, name: str) -> Path:
    path = folder / str(name)
    if Path(str(name)).name != name or not path.is_file():
        raise BundleError(
            f"{folder}: {name!r}, named in {MANIFEST}, is not a file of the bundle. Make the bundle anew."
        )
    return path
