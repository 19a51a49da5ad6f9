"""Config of a store: all settings that change a feature, as one JSON-serialisable dictionary.

Also its digest, the store's file name, and the differences between two configs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from featurize.errors import ConfigError
from featurize.images.augment import ViewRanges

if TYPE_CHECKING:
    from featurize.backbones.registry import Backbone
    from featurize.backbones.weights import Weights

PREPROCESSES = ("native", "rescale", "featurewise")
AUTO = "auto"  # open: the first run chooses a value
PRECISIONS = ("float32", "bfloat16", "float16")
# --precision auto accepts a faster format if the features of every tested image have at least this cosine
# similarity with their float32 features.
LEAST_COSINE = 0.999
STORE_DTYPES = ("float32", "float16")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One setting in which two configs differ."""

    key: str  # dotted for nested settings: "views.seed"
    stored: Any
    requested: Any

    def __str__(self) -> str:
        return f"{self.key}: stored {_short(self.stored)}, requested {_short(self.requested)}"


def make_config(
    backbone: Backbone,
    weights: Weights,
    *,
    input_size: int,
    resize: str,
    resample: str,
    preprocess: str,
    precision: str,
    store_dtype: str,
    ranges: ViewRanges,
    seed: int,
    statistics: Mapping[str, list[float]] | None = None,
    levels: bool = False,
    engine: str = AUTO,
) -> dict[str, Any]:
    """Return the config of a store: all settings that change a feature, and no others.

    Statistics that are None and a precision or engine that is "auto" are open: the first run chooses them;
    see `with_earlier_choices`. In float32 all engines give the same features, so no engine is recorded.
    """
    for name, value, choices in (
        ("preprocess", preprocess, PREPROCESSES),
        ("precision", precision, (AUTO, *PRECISIONS)),
        ("store-dtype", store_dtype, STORE_DTYPES),
    ):
        if value not in choices:
            raise ConfigError(f"--{name} {value}: unknown. Choose one of: {', '.join(choices)}")
    config = {
        "backbone": backbone.name,
        "weights": {"kind": weights.kind, "sha256": weights.sha256, "seed": weights.seed},
        "input_size": input_size,
        "resize": resize,
        "resample": resample,
        "preprocess": preprocess,
        "statistics": dict(statistics) if statistics is not None else None,
        "precision": precision,
        "levels": levels,
        "store_dtype": store_dtype,
        "views": {**asdict(ranges), "seed": seed},
    }
    return config if precision == "float32" else {**config, "engine": engine}


def config_engine(config: Mapping[str, Any]) -> str | None:
    """Return the engine that computes the features if the choice of engine changes them, else None."""
    if config["precision"] == "float32":
        return None
    return str(config.get("engine", "tensorflow"))  # a config without this key is from before OpenVINO


def config_digest(config: Mapping[str, Any]) -> str:
    """Return the SHA-256 (hex) of the config's canonical JSON."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def store_name(config: Mapping[str, Any], *, default_size: int) -> str:
    """Return the file name of the store, without ``.h5``: the backbone and all non-default settings.

    Examples: ``vgg16``, ``vgg16+rescale``, ``vgg16+random``, ``resnet50+320px+crop``.
    """
    weights, views = config["weights"], config["views"]
    parts = [config["backbone"]]
    if weights["kind"] == "random":
        parts.append("random" if not weights["seed"] else f"random{weights['seed']}")
    elif weights["kind"] == "file":
        parts.append(f"weights-{weights['sha256'][:8]}")
    if config["preprocess"] != "native":
        parts.append(config["preprocess"])
    if config["input_size"] != default_size:
        parts.append(f"{config['input_size']}px")
    if config["resize"] != "squash":
        parts.append(config["resize"])
    if config["resample"] != "bicubic":
        parts.append(config["resample"])
    if config["precision"] not in (AUTO, "float32"):
        parts.append(config["precision"])
    if config["levels"]:
        parts.append("levels")
    if config["store_dtype"] != "float32":
        parts.append(f"stored-{config['store_dtype']}")
    if views != {**asdict(ViewRanges()), "seed": 0}:
        parts.append(f"views-{config_digest(views)[:6]}")
    return "+".join(parts)


def with_earlier_choices(earlier: Mapping[str, Any], requested: Mapping[str, Any]) -> dict[str, Any]:
    """Return the requested config, its open settings filled in with the choices of an earlier run."""
    config = dict(requested)
    if config["statistics"] is None:
        config["statistics"] = earlier["statistics"]
    if config["precision"] == AUTO:
        config["precision"] = earlier["precision"]
    engine = config.pop("engine", AUTO)
    if config["precision"] == "float32":
        return config
    if engine in (AUTO, config_engine(earlier)):
        return config | ({"engine": earlier["engine"]} if "engine" in earlier else {})
    return config | {"engine": engine}


def differences(
    stored: Mapping[str, Any], requested: Mapping[str, Any], *, prefix: str = ""
) -> list[Difference]:
    """Return the settings in which two configs differ; nested settings have dotted names."""
    found: list[Difference] = []
    for key in sorted(set(stored) | set(requested)):
        old, new = stored.get(key), requested.get(key)
        if key == "engine" and stored["precision"] != requested["precision"]:
            continue  # a different precision already implies this difference
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, prefix=f"{prefix}{key}.")
        elif old != new:
            found.append(Difference(key=f"{prefix}{key}", stored=old, requested=new))
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:20] + "…" + text[-8:]
