"""Everything that changes a feature, as one JSON-able dictionary: digest, file name, differences."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from featurize.backbones.registry import Backbone
from featurize.backbones.weights import Weights
from featurize.errors import ConfigError
from featurize.images.augment import ViewRanges

PREPROCESSES = ("native", "rescale", "featurewise")
AUTO = "auto"  # left open: the first run settles it
PRECISIONS = ("float32", "bfloat16", "float16")
LEAST_COSINE = 0.999  # of every image's features in a fast format with those in float32, to be taken unasked
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
    levels: bool = False,
    engine: str = AUTO,
) -> dict[str, Any]:
    """Return the config of a store: all that changes a feature, and nothing else.

    What is left open in it, statistics that are None and a precision or engine that is "auto", the first run
    settles; see `with_earlier_choices`. In float32 the engines agree and none is named.
    """
    for name, value, known in (
        ("preprocess", preprocess, PREPROCESSES),
        ("precision", precision, (AUTO, *PRECISIONS)),
        ("store-dtype", store_dtype, STORE_DTYPES),
    ):
        if value not in known:
            raise ConfigError(f"--{name} {value}: unknown. Choose one of: {', '.join(known)}")
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
    """Return the engine that made the features, where another one would make other ones; else None."""
    if config["precision"] == "float32":
        return None
    return str(config.get("engine", "tensorflow"))  # before there were others, none was named


def config_digest(config: Mapping[str, Any]) -> str:
    """Return the SHA-256 (hex) of the config's canonical JSON."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def store_name(config: Mapping[str, Any], *, default_size: int) -> str:
    """Return the file name (without ``.h5``) that tells what was asked for from the backbone's default.

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


def with_earlier_choices(earlier: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was asked, with what it leaves open as an earlier run settled it."""
    config = dict(asked)
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


def differences(stored: Mapping[str, Any], asked: Mapping[str, Any], *, prefix: str = "") -> list[Difference]:
    """List the entries in which two configs differ, nested ones by their dotted name."""
    found: list[Difference] = []
    for key in sorted(set(stored) | set(asked)):
        old, new = stored.get(key), asked.get(key)
        if key == "engine" and stored["precision"] != asked["precision"]:
            continue  # it is named where the precision is another, and says no more than that
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, prefix=f"{prefix}{key}.")
        elif old != new:
            found.append(Difference(key=f"{prefix}{key}", stored=old, asked=new))
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:20] + "…" + text[-8:]
