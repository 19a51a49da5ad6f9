"""Stores to be, drafted from what was asked or from what a store says of itself, and then made."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from featurize.backbones import Backbone
from featurize.dataset import Dataset
from featurize.decode.decoding import Decoder
from featurize.decode.rendering import Rendering
from featurize.engines import Engine
from featurize.making.decoders import Decoders
from featurize.making.execution import Execution
from featurize.making.outcomes import Outcome
from featurize.making.planning import Target, plan
from featurize.making.precision import Sample, settle_precision
from featurize.making.production import fit_statistics, produce
from featurize.store import Store
from featurize.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Draft:
    """One store to be, before it is known what it lacks."""

    backbone: Backbone
    weights: Weights
    config: dict[str, Any]
    precision: Mapping[str, Any] | None  # how it was settled, if it was; see `featurize.making.precision`
    path: Path
    store: Store | None  # what is there now, open, as far as it is to be used
    views: int
    views_for: str
    distrusted: frozenset[str] = frozenset()  # contents whose stored features are not to be used
    trusts_images: bool = True  # whether the stored table of images is to be believed

    @property
    def most_views(self) -> int:
        """Augmented views of one image, at most."""
        return max(self.views, self.store.n_views if self.store is not None else 0)

    def target(self, dataset: Dataset) -> Target:
        """Work out what is missing."""
        return plan(
            dataset,
            backbone=self.backbone,
            weights=self.weights,
            config=self.config,
            precision=self.precision,
            path=self.path,
            store=self.store,
            views=self.views,
            views_for=self.views_for,
            distrusted=self.distrusted,
            trusts_images=self.trusts_images,
        )


def carry_out(
    dataset: Dataset,
    drafts: Sequence[Draft],
    *,
    max_pixels: int,
    decoders: Decoders,
    execution: Execution,
) -> list[Outcome]:
    """Make or update every drafted store, those of one input size together."""
    outcomes: dict[Path, Outcome] = {}
    for size in dict.fromkeys(draft.config["input_size"] for draft in drafts):
        start = time.perf_counter()
        group = [draft for draft in drafts if draft.config["input_size"] == size]
        decoder = decoders.of(
            Rendering.of_config(group[0].config, max_pixels=max_pixels),
            most_views=1
            + max(max(draft.views, draft.store.n_views if draft.store else 0) for draft in group),
        )
        group, engines = _settle(dataset, group, decoder=decoder, execution=execution)
        targets = [draft.target(dataset) for draft in group]
        for outcome in produce(dataset, targets, decoder=decoder, engines=engines, execution=execution):
            outcome.seconds["total"] = time.perf_counter() - start
            outcomes[outcome.target.path] = outcome
    return [outcomes[draft.path] for draft in drafts]


def _settle(
    dataset: Dataset, drafts: Sequence[Draft], *, decoder: Decoder, execution: Execution
) -> tuple[list[Draft], dict[Path, Engine]]:
    """Settle what is still open, once for all backbones of one input size; return engines built for that."""
    open_ones = {draft.path for draft in drafts if lacks_statistics(draft.config)}
    if open_ones:
        fitted = fit_statistics(dataset, decoder=decoder, execution=execution)
        drafts = [
            replace(draft, config={**draft.config, "statistics": fitted})
            if draft.path in open_ones
            else draft
            for draft in drafts
        ]
    sample = Sample(dataset, decoder, execution)
    settled, engines = [], {}
    for draft in drafts:
        draft, engine = settle_precision(draft, sample, execution)
        settled.append(draft)
        if engine is not None:
            engines[draft.path] = engine
    return settled, engines


def lacks_statistics(config: Mapping[str, Any]) -> bool:
    """Tell whether the config needs statistics that no run has fitted yet."""
    return config["preprocess"] == "featurewise" and config["statistics"] is None
