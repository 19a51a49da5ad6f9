"""Everything that changes a feature, as one JSON-able dictionary: digest, file name, differences."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from featurize.backbones import Backbone
from featurize.errors import ConfigError
from featurize.views import ViewRanges
from featurize.weights import Weights

PREPROCESSES = ("native", "rescale", "featurewise")
PRECISIONS = ("float32", "bfloat16", "float16")
STORE_DTYPES = ("float32", "float16")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One entry in which two configs differ."""

    key: str
    stored: Any
    asked: Any

    def __str__(self) -> str:
        return f"{self.key} is {_short(self.stored)} there and {_short(self.asked)} here"


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
) -> dict[str, Any]:
    """Return the config of a store: all that changes a feature, and nothing else."""
    for name, value, known in (
        ("preprocess", preprocess, PREPROCESSES),
        ("precision", precision, PRECISIONS),
        ("store-dtype", store_dtype, STORE_DTYPES),
    ):
        if value not in known:
            raise ConfigError(f"--{name} {value}: unknown. Choose one of: {', '.join(known)}")
    return {
        "backbone": backbone.name,
        "weights": {"kind": weights.kind, "sha256": weights.sha256, "seed": weights.seed},
        "input_size": input_size,
        "resize": resize,
        "resample": resample,
        "preprocess": preprocess,
        "statistics": dict(statistics) if statistics is not None else None,
        "precision": precision,
        "levels": False,
        "store_dtype": store_dtype,
        "views": {**asdict(ranges), "seed": seed},
    }


def config_digest(config: Mapping[str, Any]) -> str:
    """Return the SHA-256 (hex) of the config's canonical JSON."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def store_name(config: Mapping[str, Any], *, default_size: int) -> str:
    """Return the file name (without ``.h5``) that tells this config from the backbone's default one.

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
    if config["precision"] != "float32":
        parts.append(config["precision"])
    if config["store_dtype"] != "float32":
        parts.append(f"stored-{config['store_dtype']}")
    if views != {**asdict(ViewRanges()), "seed": 0}:
        parts.append(f"views-{config_digest(views)[:6]}")
    return "+".join(parts)


def same_but_statistics(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Tell whether two configs agree in all but fitted statistics, which the first run settles."""
    return {**stored, "statistics": None} == {**asked, "statistics": None}


def differences(stored: Mapping[str, Any], asked: Mapping[str, Any], *, prefix: str = "") -> list[Difference]:
    """List the entries in which two configs differ, nested ones by their dotted name."""
    found: list[Difference] = []
    for key in sorted(set(stored) | set(asked)):
        old, new = stored.get(key), asked.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, prefix=f"{prefix}{key}.")
        elif old != new:
            found.append(Difference(key=f"{prefix}{key}", stored=old, asked=new))
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:20] + "…" + text[-8:]
