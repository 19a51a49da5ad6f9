"""Options that decide which features are computed, and where the stores are written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from featurize.errors import ConfigError
from featurize.images.augment import ViewRanges

VIEWS_FOR = ("train", "all")
SAMPLE_SIZE = 8  # contents that verify and repair compute again by default
SAMPLE_SEED = 0  # selects them


@dataclass(frozen=True, kw_only=True)
class ExtractOptions:
    """Options of `extract` that select the features and the folder of the stores; it has their defaults."""

    backbones: tuple[str, ...]
    views: int
    views_for: str
    out: Path | None
    weights: str
    seed: int
    preprocess: str
    input_size: int | None
    resize: str
    resample: str
    precision: str
    engine: str
    levels: bool
    store_dtype: str
    ranges: ViewRanges
    order: tuple[str, ...] | None
    entries: str
    replace: bool

    @staticmethod
    def default_folder(dataset: str) -> Path:
        """Return the folder of a data set's stores if ``out`` is not given."""
        return Path("artifacts") / "features" / dataset

    def check(self) -> None:
        """Raise a ConfigError if an option or a combination of options is invalid."""
        from featurize.engines.select import ENGINES
        from featurize.images.decode import (
            RESAMPLES,  # imports Pillow, which --help must not
            RESIZES,
        )

        if not self.backbones:
            raise ConfigError("No backbone was given. List them with: featurize backbones")
        if self.views < 0:
            raise ConfigError(f"--views {self.views}: expected 0 or more")
        if self.views_for not in VIEWS_FOR:
            raise ConfigError(f"--views-for {self.views_for}: unknown. Choose one of: {', '.join(VIEWS_FOR)}")
        if self.resize not in RESIZES:
            raise ConfigError(f"--resize {self.resize}: unknown. Choose one of: {', '.join(RESIZES)}")
        if self.resample not in RESAMPLES:
            raise ConfigError(f"--resample {self.resample}: unknown. Choose one of: {', '.join(RESAMPLES)}")
        if self.engine not in ENGINES:
            raise ConfigError(f"--engine {self.engine}: unknown. Choose one of: {', '.join(ENGINES)}")
        if self.input_size is not None and self.input_size < 1:
            raise ConfigError(f"--input-size {self.input_size}: expected 1 or more")
        n_backbones = len(set(self.backbones))
        if self.weights not in ("imagenet", "random") and n_backbones > 1:
            raise ConfigError(
                f"--weights {self.weights} fits one backbone, but {n_backbones} were given: "
                "extract them one by one"
            )
