"""A bundle as one Keras network: pixels, backbones, heads, mean of the members."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from classify.deploy.export.formats import PixelInput, pixel_inputs
from classify.deploy.export.layers import Tensor, affine, at_temperature
from classify.deploy.features import bundle_parts, part_weights
from classify.errors import ExportError

if TYPE_CHECKING:
    import keras

    from classify.io.bundle import Bundle


OUTPUT = "probabilities"


def export_network(bundle: Bundle, *, weights: str | os.PathLike[str] | None = None) -> keras.Model:
    """Return a functional Keras model of standard layers that predicts images as a bundle does.

    Parameters
    ----------
    bundle : Bundle
    weights : path-like, optional
        The backbone's weights, if the bundle does not contain them.

    Returns
    -------
    keras.Model
        From uint8 images (n, size, size, 3), one input for each of `pixel_inputs`, to float32 probabilities
        (n, n_classes), named "probabilities". Backbones compute in float32, heads in float64.

    Raises
    ------
    ExportError
        If a head holds too many training rows for a graph.
    BundleError, WeightsError
        If the weights of a backbone are missing.
    """
    import keras
    from keras import layers, ops

    members = bundle.members or (bundle,)
    for member in members:
        require_size(member.manifest["head"], member.estimator, bundle=str(member.path))
    inputs = pixel_inputs(bundle)
    pixels = {
        each: keras.Input((each.size, each.size, 3), dtype="uint8", name=each.name)
        for each in inputs.values()
    }
    levels = _backbone_levels(bundle, inputs, pixels, weights=weights)
    probabilities = [
        _member_probabilities(member, levels, name=f"head_{k + 1}" if bundle.members else "head")
        for k, member in enumerate(members)
    ]
    mean = probabilities[0] if len(probabilities) == 1 else ops.mean(ops.stack(probabilities), axis=0)
    last = layers.Activation("linear", dtype="float32", name=OUTPUT)
    network = keras.Model(list(pixels.values()), last(mean), name="folio")
    network.trainable = False
    return network


def _backbone_levels(
    bundle: Bundle,
    inputs: Mapping[str, PixelInput],
    pixels: Mapping[PixelInput, Tensor],
    *,
    weights: str | os.PathLike[str] | None,
) -> dict[str, list[Tensor]]:
    """Return the pooled levels of each backbone by config digest: (n, width) each, the final level last."""
    from featurize.engines.portable import portable_network

    parts = list(bundle_parts(bundle).values())
    files = part_weights(bundle.path, parts, weights)
    found = {}
    for k, (part, file) in enumerate(zip(parts, files, strict=True)):
        name = f"backbone_{k + 1}" if len(parts) > 1 else "backbone"
        network = portable_network(part.config, name=name, weights=file)
        outputs = network(pixels[inputs[part.config_digest]])
        found[part.config_digest] = list(outputs) if isinstance(outputs, list | tuple) else [outputs]
    return found


def _member_probabilities(bundle: Bundle, levels: Mapping[str, list[Tensor]], *, name: str) -> Tensor:
    """Return the probabilities of a bundle that is not an ensemble: (n, n_classes), float64."""
    manifest = bundle.manifest
    blocks = [levels[part.config_digest] for part in bundle.parts]
    rows = _columns(blocks[0] if len(blocks) == 1 else _fused(blocks), *manifest["columns"])
    probabilities = head_probabilities(manifest["head"], bundle.estimator, rows, name=name)
    labels, n_classes = manifest["labels"], len(bundle.classes)
    if labels != list(range(n_classes)):  # a class without training images has probability 0
        probabilities = affine(probabilities, np.eye(n_classes)[labels], name=f"{name}_labels")
    return at_temperature(probabilities, manifest.get("temperature", 1.0))


def _columns(levels: Sequence[Tensor], first: int, end: int) -> Tensor:
    """Return the columns from `first` to `end` of the concatenated levels; whole levels only."""
    from keras import ops

    ends = np.cumsum([level.shape[1] for level in levels])
    chosen = [
        level
        for level, last in zip(levels, ends, strict=True)
        if first < last <= end and last - level.shape[1] >= first
    ]
    if sum(level.shape[1] for level in chosen) != end - first:
        raise ExportError(
            f"columns {first} to {end} are not whole levels of the backbone: these end at {ends.tolist()}"
        )
    return chosen[0] if len(chosen) == 1 else ops.concatenate(chosen, axis=1)


def _fused(blocks: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Return the levels of several backbones, concatenated as in `classify.data.fusion.fuse_rows`."""
    from keras import ops

    inner = [_unit_mean_square(level) for block in blocks for level in block[:-1]]
    return [*inner, ops.concatenate([_unit_mean_square(block[-1]) for block in blocks], axis=1)]


def _unit_mean_square(block: Tensor) -> Any:
    """Return rows (n, width) scaled to a mean square of 1; a row of zeros stays unchanged."""
    from keras import ops

    wide = ops.cast(block, "float64")
    length = ops.sqrt(ops.sum(ops.square(wide), axis=1, keepdims=True))
    scale = ops.divide(float(np.sqrt(block.shape[1])), ops.where(ops.greater(length, 0.0), length, 1.0))
    return ops.multiply(block, ops.cast(scale, "float32"))


MAX_STORED_VALUES = 20_000_000  # of training rows in a head's graph: 160 MB in float64

GRAPHS: Mapping[str, str] = {  # head → "<module>.<function>" in this package
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
_STORED_ROWS: Mapping[str, tuple[str, str]] = {  # head → function that counts stored values, what they are
    "svm-linear": ("svm.n_stored_values", "support vectors"),
    "svm-rbf": ("svm.n_stored_values", "support vectors"),
    "ordinal-svm": ("svm.n_stored_values", "support vectors"),
    "knn": ("layers.n_stored_values", "training rows"),
}


def head_probabilities(head: str, estimator: Any, rows: Tensor, *, name: str) -> Tensor:
    """Return the graph of a fitted head's class probabilities.

    Parameters
    ----------
    head : str
        Name of the head.
    estimator : fitted head
    rows : tensor of shape (n, n_features), float32
    name : str
        Prefix of the layer names.

    Returns
    -------
    tensor of shape (n, n_labels), float64
        The same as the estimator's `predict_proba`.
    """
    return _function(GRAPHS[head])(estimator, rows, name=name)


def require_size(head: str, estimator: Any, *, bundle: str, max_values: int = MAX_STORED_VALUES) -> None:
    """Raise if a fitted head stores too many training rows for a graph.

    Raises
    ------
    ExportError
        With the number of values and the limit.
    """
    counter, rows = _STORED_ROWS.get(head, ("", ""))
    n_values = _function(counter)(estimator) if counter else 0
    if n_values > max_values:
        raise ExportError(
            f"{bundle}: {head} stores {n_values // estimator.n_features_in_:,} {rows} of "
            f"{estimator.n_features_in_:,} features, {n_values:,} values; the limit of an export is "
            f"{max_values:,}. Export a head that stores no training rows, such as logreg, lda or dense"
        )


def _function(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(f"{__package__}.{module}"), attribute)
