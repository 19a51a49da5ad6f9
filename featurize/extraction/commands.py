"""Commands shown to the user: create a store again, compute features of a config, repair a store."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurize.backbones import registry
from featurize.base.terminal import default_of
from featurize.extraction.extract import extract
from featurize.extraction.options import SAMPLE_SEED, SAMPLE_SIZE, ExtractOptions
from featurize.images.augment import ViewRanges

if TYPE_CHECKING:
    from featurize.store.reader import Store


_SAME_NAME = ("resize", "resample", "preprocess", "store_dtype")  # config keys that are also options


def extract_command(config: Mapping[str, Any]) -> str:
    """Return the command that computes features of this config from a folder ``IMAGES``."""
    return shlex.join(["featurize", "extract", "IMAGES", *_config_words(config)])


def extract_words(store: Store) -> list[str]:
    """Return the words of the command that creates this store from the same images.

    Parameters
    ----------
    store : Store
        Open.

    Returns
    -------
    list of str
        Not quoted; a word may have undecodable bytes, as `os.fsdecode` represents them.
    """
    created_with, folder = store.created_with, store.path.parent
    words = ["featurize", "extract", str(created_with.get("data") or "DATA")]
    words += ["--out", str(folder)] if folder != ExtractOptions.default_folder(store.dataset) else []
    words += _config_words(store.config, created_with)
    words += _non_default_words({"views": store.n_views})
    words += ["--order", ",".join(store.classes)] if store.ordered else []
    return words + _non_default_words(created_with.get("options", {}))


def rebuild_command(
    path: Path, config: Mapping[str, Any] | None, created_with: Mapping[str, Any] | None
) -> str:
    """Return what to do about a store that cannot be used: move it away and extract again.

    Parameters
    ----------
    path : Path
        The store.
    config, created_with : mapping, optional
        As far as they could be read; None otherwise.
    """
    created_with = created_with or {}
    words = ["featurize", "extract", created_with.get("data") or "DATA", "--out", str(path.parent)]
    if config is None:
        words += ["--backbone", path.name.partition("+")[0].removesuffix(".h5")]
    else:  # the engine is selected again
        words += _config_words({key: config[key] for key in config if key != "engine"}, created_with)
    words += _non_default_words(created_with.get("options", {}))
    return f"move {shlex.quote(str(path))} away, then: {shlex.join(words)}"


def repair_command(
    path: Path, *, data: str | Path | None, weights: str | Path | None, sample: int, seed: int
) -> str:
    """Return the command that repairs a store; it recomputes the same sample as the verification did."""
    words = ["featurize", "repair", str(path)]
    for name, value in (("--data", data), ("--weights", weights)):
        words += [name, str(value)] if value is not None else []
    words += ["--sample", str(sample)] if sample != SAMPLE_SIZE else []
    words += ["--seed", str(seed)] if seed != SAMPLE_SEED else []
    return shlex.join(words)


def _config_words(config: Mapping[str, Any], created_with: Mapping[str, Any] | None = None) -> list[str]:
    """Return the options of ``featurize extract`` that result in this config, without defaults.

    Parameters
    ----------
    config : mapping
        Of a store or bundle.
    created_with : mapping, optional
        Of a store: has the weights file, and the requested precision, which may be "auto". Without it the
        precision of the config is forced.
    """
    created_with = created_with or {}
    words = ["--backbone", str(config["backbone"])]
    weights = config["weights"]
    if weights["kind"] != "imagenet":
        file = str(created_with.get("weights_path") or "FILE")
        words += ["--weights", file if weights["kind"] == "file" else weights["kind"]]
    backbone = registry.BACKBONES.get(config["backbone"])
    if backbone is None or config["input_size"] != backbone.size:
        words += ["--input-size", str(config["input_size"])]
    words += _non_default_words({name: config[name] for name in _SAME_NAME})
    # The requested precision, not the resolved one: it is part of the store's file name.
    precision = (created_with.get("precision") or {}).get("asked", config["precision"])
    words += _non_default_words({"precision": precision})
    words += ["--engine", str(config["engine"])] if "engine" in config else []
    words += ["--levels"] if config.get("levels") else []
    words += _non_default_words({"seed": config["views"]["seed"]})
    for name, default in asdict(ViewRanges()).items():
        value, option = config["views"][name], name.replace("_", "-")
        if value != default and isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif value != default:
            words += [f"--{option}", str(value)]
    return words


def _non_default_words(options: Mapping[str, Any]) -> list[str]:
    """Return the words of the options that differ from the defaults of `extract`."""
    words = []
    for name, value in options.items():
        if value != default_of(extract, name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words
