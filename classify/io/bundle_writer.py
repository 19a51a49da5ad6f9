"""Writing bundles of a fitted head and of an ensemble of heads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classify.data.levels import levels_of
from classify.io.bundle_extras import add_examples, add_weights, link_or_copy
from classify.io.head_file import SavedHead, file_name
from classify.io.manifest import WEIGHTS, write_manifest
from featurize._version import __version__
from featurize.base.project import installed_versions

if TYPE_CHECKING:
    from classify.data.samples import Samples


MEMBER = "member_{}"  # folder of a member in the bundle of an ensemble
PACKAGES = ("tensorflow", "keras", "scikit-learn", "numpy", "skops")


def save_bundle(
    folder: Path,
    saved: SavedHead,
    *,
    head: str,
    params: Mapping[str, Any],
    samples: Samples,
    weights: Mapping[str, Any],
    metrics: Mapping[str, Any],
    seed: int,
    temperature: float = 1.0,
    examples: Mapping[str, Any] | None = None,
) -> None:
    """Write a fitted head as a bundle; the folder is created if it is missing.

    Parameters
    ----------
    folder : Path
    saved : SavedHead
    head, params
        Name and hyper-parameters of the head.
    samples : Samples
        Samples that the head was fitted on.
    weights : mapping
        Return value of `classify.io.bundle_extras.prepare_weights`; for a fused store, a mapping from the
        name of each part to that value.
    metrics : mapping
        Metrics of the head.
    seed : int
    temperature : float, default=1.0
        Temperature of the probabilities; see `classify.heads.solvers.temperature`.
    examples : mapping, optional
        Return value of `classify.io.bundle_extras.prepare_examples`; for a fused store, that of its first
        part.
    """
    from classify.data.entries import is_portfolio

    folder.mkdir(parents=True, exist_ok=True)
    (folder / file_name(head)).write_bytes(saved.data)
    columns = samples.columns(levels_of(params))
    fields: dict[str, Any] = {
        "head": head,
        "head_file": file_name(head),
        "head_sha256": hashlib.sha256(saved.data).hexdigest(),
        "params": params,
        "labels": saved.labels,
        "config_digest": samples.config_digest,
        "backbone": samples.backbone,
        "classes": samples.classes,
        "ordered": samples.ordered,
        "n_features": samples.n_features,
        "columns": (columns.start, columns.stop),
        "dataset": samples.dataset,
        "store": samples.store,
        "metrics": metrics,
        "seed": seed,
        "created_with": packages(),
    }
    if samples.parts:
        fields["parts"] = [
            {
                "store": part.store,
                "backbone": part.backbone,
                "config": part.config,
                "config_digest": part.config_digest,
                "level_ends": part.level_ends,
                "weights": add_weights(folder, weights[part.store], name=f"{part.store}.{WEIGHTS}"),
            }
            for part in samples.parts
        ]
    else:
        fields |= {"config": samples.config, "weights": add_weights(folder, weights)}
    if is_portfolio(samples):
        fields["join"] = samples.join
    if temperature != 1.0:
        fields["temperature"] = temperature
    if examples is not None:
        fields["examples"] = add_examples(folder, examples)
    write_manifest(folder, fields)


def save_ensemble(
    folder: Path, members: Sequence[Path], *, head: str, samples: Samples, metrics: Mapping[str, Any]
) -> None:
    """Write an ensemble, which predicts the mean of the probabilities of its members, as a bundle.

    Parameters
    ----------
    folder : Path
    members : sequence of Path
        Bundles of the members; their files are linked or copied.
    head : str
        Name of the ensemble.
    samples : Samples
        Samples with the classes and the names of the stores.
    metrics : mapping
        Metrics of the ensemble.
    """
    names = [MEMBER.format(k + 1) for k in range(len(members))]
    for name, member in zip(names, members, strict=True):
        (folder / name).mkdir(parents=True)
        for file in sorted(member.iterdir()):
            link_or_copy(file, folder / name / file.name)
    fields = {
        "head": head,
        "members": names,
        "classes": samples.classes,
        "ordered": samples.ordered,
        "dataset": samples.dataset,
        "store": samples.store,
        "metrics": metrics,
        "created_with": packages(),
    }
    write_manifest(folder, fields)


def packages() -> dict[str, str]:
    """Return the versions of the packages that a fitted head depends on, without importing them."""
    return {"folio-grader": __version__, **installed_versions(PACKAGES)}
