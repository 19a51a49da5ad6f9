"""How a run is carried out, and the engines it takes for that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from featurize.backbones import Backbone
from featurize.engines import Engine
from featurize.engines.configured import configured_engine
from featurize.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a run is carried out; none of it changes a feature."""

    engine: str
    device: str
    gpu_memory: float | None
    batch_size: int | str
    strict: bool
    report: Callable[[str, int, int], None]
    note: Callable[[str], None]  # called with what the user should know of an engine
    remembered: Mapping[str, Any]  # options that a repair needs again and the config does not name
    threads: int | None = None  # cores that an engine takes; all by default

    def build(
        self,
        backbone: Backbone,
        weights: Weights,
        config: Mapping[str, Any],
        *,
        engine: str | None = None,
        precision: str | None = None,
    ) -> Engine:
        """Return the engine of a config; engine and precision stand in for what was asked and is settled."""
        built = configured_engine(
            backbone,
            weights,
            config,
            engine=engine or self.engine,
            precision=precision,
            device=self.device,
            gpu_memory=self.gpu_memory,
            batch_size=self.batch_size,
            threads=self.threads,
        )
        for text in built.notes:
            self.note(text)
        return built
