"""A backbone in OpenVINO's own format: from the cache, or by way of TensorFlow; nobody is told of it."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurize.backbones import Backbone
from featurize.cache import cache_folder
from featurize.engines.frozen import FrozenGraph, frozen_graph
from featurize.engines.model_cache import StoredModel, keep_model, load_model, model_key
from featurize.errors import EngineError, WeightsError
from featurize.weights import Weights

_TELEMETRY = "openvino_telemetry"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that makes one network another; fields as the parameters of `featurize.engines.create_engine`.

    Not the precision: the network is kept in float32, and OpenVINO rounds it when it compiles.
    """

    backbone: Backbone
    weights: Weights
    input_size: int
    preprocess: str
    statistics: Mapping[str, Sequence[float]] | None
    batch_size: int
    levels: bool

    def facts(self) -> dict[str, Any]:
        """Return what `model_key` wants to know."""
        names = ("input_size", "preprocess", "statistics", "batch_size", "levels")
        digests = {"backbone": self.backbone.name, "weights": self.weights.sha256}
        return {**digests, **{name: getattr(self, name) for name in names}}


def import_openvino() -> Any:
    """Import OpenVINO without its report, and return the module.

    A plain ``import openvino`` writes an identifier to the home folder and tells its makers' server, unless
    the package that does so is not installed: for the length of the import, it is not.

    Raises
    ------
    EngineError
        If OpenVINO is not to be had here.
    """
    silenced = _TELEMETRY not in sys.modules
    if silenced:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise EngineError(
            f"--engine openvino: cannot be imported here ({last_line(error)}). Type --engine tensorflow, or "
            f"pip install openvino"
        ) from error
    finally:
        if silenced:
            del sys.modules[_TELEMETRY]


def converted_network(core: Any, recipe: Recipe) -> StoredModel:
    """Return a network in OpenVINO's own format.

    Parameters
    ----------
    core : openvino.Core
        What converts it.
    recipe : Recipe
        The network.

    Returns
    -------
    StoredModel
        Of which `about` has "level_names" and "level_ends". From the cache where it is there and whole; then
        neither TensorFlow nor Keras is imported. Otherwise it is there from now on.

    Raises
    ------
    ConfigError, WeightsError, EngineError
        If the network cannot be built or converted.
    """
    folder, key = cache_folder("models"), model_key(recipe.facts())
    stored = load_model(folder, key)
    if stored is None:
        stored = _in_own_format(core, _frozen_on_cpu(recipe))
        _check_unchanged(recipe.weights)
        keep_model(folder, key, stored)
    return stored


def last_line(error: Exception) -> str:
    """Return what went wrong; OpenVINO's errors begin with places in its sources."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _frozen_on_cpu(recipe: Recipe) -> FrozenGraph:
    """Return the network as TensorFlow has it, taking nothing of any GPU."""
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # started already: then there is nothing left to take
        tf.config.set_visible_devices([], "GPU")
    return frozen_graph(
        recipe.backbone,
        recipe.weights,
        input_size=recipe.input_size,
        preprocess=recipe.preprocess,
        statistics=recipe.statistics,
        levels=recipe.levels,
        batch_size=recipe.batch_size,
    )


def _in_own_format(core: Any, frozen: FrozenGraph) -> StoredModel:
    """Convert by way of temporary files: `openvino.convert_model` would report home."""
    try:
        with tempfile.TemporaryDirectory(prefix="folio-", ignore_cleanup_errors=True) as name:
            graph, structure, numbers = (Path(name) / f"network.{end}" for end in ("pb", "xml", "bin"))
            graph.write_bytes(frozen.graph)
            model = core.read_model(graph)
            with contextlib.suppress(OSError):  # as large as what is written next
                graph.unlink()
            import_openvino().serialize(model, structure, numbers)
            return StoredModel(
                about={"level_names": list(frozen.level_names), "level_ends": list(frozen.level_ends)},
                structure=structure.read_bytes(),
                numbers=numbers.read_bytes(),
            )
    except OSError as error:
        raise EngineError(
            f"{tempfile.gettempdir()}: the network cannot be written there on its way to OpenVINO "
            f"({error.strerror or error}). Make room, point TMPDIR elsewhere, or type --engine tensorflow"
        ) from error
    except RuntimeError as error:
        raise EngineError(
            f"OpenVINO cannot convert the network ({last_line(error)}). Type --engine tensorflow"
        ) from error


def _check_unchanged(weights: Weights) -> None:
    """Refuse to keep under one digest what was made of another file."""
    if weights.path is None:
        return
    with weights.path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != weights.sha256:
        raise WeightsError(f"{weights.path}: changed while it was being read. Run the command again")
