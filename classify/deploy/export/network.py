"""A bundle as one Keras network: pixels, backbones, heads, the mean of members."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from classify.deploy.export.formats import PixelInput, pixel_inputs
from classify.deploy.export.layers import Tensor, affine, at_temperature
from classify.errors import ExportError

if TYPE_CHECKING:
    import keras

    from classify.io.bundle import Bundle, BundlePart


OUTPUT = "probabilities"


def grading_network(bundle: Bundle, *, weights: str | os.PathLike[str] | None = None) -> keras.Model:
    """Return what a bundle does with one image as a functional Keras model of standard layers.

    Parameters
    ----------
    bundle : Bundle
    weights : path-like, optional
        The backbone's weights, where they did not come along with the bundle.

    Returns
    -------
    keras.Model
        From uint8 (n, size, size, 3), one input for each of `pixel_inputs`, to float32 (n, n_classes), named
        "probabilities". Backbones compute in float32, heads in float64.

    Raises
    ------
    ExportError
        If a head keeps more of its training rows than there is room for.
    BundleError, WeightsError
        If the weights of a backbone are missing.
    """
    import keras
    from keras import layers, ops

    members = bundle.members or (bundle,)
    for member in members:
        require_room(member.manifest["head"], member.estimator, what=str(member.path))
    parts = {part.config_digest: part for member in members for part in member.parts}
    inputs = pixel_inputs(bundle)
    pixels = {
        one: keras.Input((one.size, one.size, 3), dtype="uint8", name=one.name) for one in inputs.values()
    }
    levels = _backbones(bundle, list(parts.values()), inputs, pixels, weights=weights)
    said = [
        _member(member, levels, name=f"head_{k + 1}" if bundle.members else "head")
        for k, member in enumerate(members)
    ]
    mean = said[0] if len(said) == 1 else ops.mean(ops.stack(said), axis=0)
    last = layers.Activation("linear", dtype="float32", name=OUTPUT)
    network = keras.Model(list(pixels.values()), last(mean), name="folio")
    network.trainable = False
    return network


def _backbones(
    bundle: Bundle,
    parts: Sequence[BundlePart],
    inputs: Mapping[str, PixelInput],
    pixels: Mapping[PixelInput, Tensor],
    *,
    weights: str | os.PathLike[str] | None,
) -> dict[str, list[Tensor]]:
    """Return the pooled levels of each part by its config's digest: (n, width) each, the final one last."""
    from classify.deploy.features import part_weights
    from featurize.engines.portable import portable_network

    carried = part_weights(bundle.path, parts, weights)
    found = {}
    for k, (part, file) in enumerate(zip(parts, carried, strict=True)):
        name = f"backbone_{k + 1}" if len(parts) > 1 else "backbone"
        made = portable_network(part.config, name=name, weights=file)(pixels[inputs[part.config_digest]])
        found[part.config_digest] = list(made) if isinstance(made, list | tuple) else [made]
    return found


def _member(bundle: Bundle, levels: Mapping[str, list[Tensor]], *, name: str) -> Tensor:
    """Return the probabilities of a bundle that is no ensemble: (n, n_classes), float64."""
    manifest = bundle.manifest
    blocks = [levels[part.config_digest] for part in bundle.parts]
    rows = _columns(blocks[0] if len(blocks) == 1 else _fused(blocks), *manifest["columns"])
    said = head_probabilities(manifest["head"], bundle.estimator, rows, name=name)
    labels, n_classes = manifest["labels"], len(bundle.classes)
    if labels != list(range(n_classes)):  # a class that the head has never seen has probability 0
        said = affine(said, np.eye(n_classes)[labels], name=f"{name}_labels")
    return at_temperature(said, manifest.get("temperature", 1.0))


def _columns(levels: Sequence[Tensor], first: int, end: int) -> Tensor:
    """Return these columns of all levels side by side; the ends are ends of levels."""
    from keras import ops

    ends = np.cumsum([level.shape[1] for level in levels])
    wanted = [
        level
        for level, last in zip(levels, ends, strict=True)
        if first < last <= end and last - level.shape[1] >= first
    ]
    if sum(level.shape[1] for level in wanted) != end - first:
        raise ExportError(
            f"columns {first} to {end} are no levels of the backbone: these end at {ends.tolist()}"
        )
    return wanted[0] if len(wanted) == 1 else ops.concatenate(wanted, axis=1)


def _fused(blocks: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Return the levels of several backbones as `classify.data.fusion.fuse_rows` puts them side by side."""
    from keras import ops

    inner = [_balanced(level) for block in blocks for level in block[:-1]]
    return [*inner, ops.concatenate([_balanced(block[-1]) for block in blocks], axis=1)]


def _balanced(block: Tensor) -> Any:
    """Return rows (n, width) whose features have a mean square of 1; a row of zeros stays one."""
    from keras import ops

    wide = ops.cast(block, "float64")
    length = ops.sqrt(ops.sum(ops.square(wide), axis=1, keepdims=True))
    scale = ops.divide(float(np.sqrt(block.shape[1])), ops.where(ops.greater(length, 0.0), length, 1.0))
    return ops.multiply(block, ops.cast(scale, "float32"))


MOST_NUMBERS = 20_000_000  # of training rows in a head's graph: 160 MB in float64

GRAPHS: Mapping[str, str] = {  # head: "<module>.<function>" in this package
    "dense": "layers.dense",
    "logreg": "layers.logistic",
    "svm-linear": "svm.svm",
    "svm-rbf": "svm.svm",
    "ordinal-dense": "layers.dense",
    "ordinal-logistic": "layers.ordinal_logistic",
    "ordinal-svm": "svm.ordinal_svm",
    "nearest-mean": "layers.nearest_centroid",
    "knn": "layers.knn",
    "lda": "layers.lda",
    "baseline": "layers.baseline",
}
_KEEPING: Mapping[str, tuple[str, str]] = {  # head: what counts the numbers it keeps, and of what
    "svm-linear": ("svm.kept_numbers", "support vectors"),
    "svm-rbf": ("svm.kept_numbers", "support vectors"),
    "ordinal-svm": ("svm.kept_numbers", "support vectors"),
    "knn": ("layers.kept_numbers", "training rows"),
}


def head_probabilities(head: str, estimator: Any, rows: Tensor, *, name: str) -> Tensor:
    """Return the class probabilities of a fitted head as a graph.

    Parameters
    ----------
    head : str
        Its name.
    estimator : fitted head
    rows : tensor of shape (n, n_features), float32
    name : str
        Names of its layers begin with that.

    Returns
    -------
    tensor of shape (n, n_labels), float64
        What the estimator's `predict_proba` returns.
    """
    return _function(GRAPHS[head])(estimator, rows, name=name)


def require_room(head: str, estimator: Any, *, what: str, most: int = MOST_NUMBERS) -> None:
    """Raise unless what a fitted head keeps of its training rows has room in a graph.

    Raises
    ------
    ExportError
        With how much it is, and the limit.
    """
    counter, kept = _KEEPING.get(head, ("", ""))
    numbers = _function(counter)(estimator) if counter else 0
    if numbers > most:
        raise ExportError(
            f"{what}: {head} keeps {numbers // estimator.n_features_in_:,} {kept} of "
            f"{estimator.n_features_in_:,} features, {numbers:,} numbers; an export has room for {most:,}. "
            "Export a head that keeps none, such as logreg, lda or dense"
        )


def _function(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(f"{__package__}.{module}"), attribute)
