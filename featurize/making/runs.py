"""Stores to be, drafted from what was asked or from what a store says of itself, and then made."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from featurize.backbones import Backbone
from featurize.cluster import Cluster
from featurize.dataset import Dataset
from featurize.decode.decoding import Decoder
from featurize.decode.rendering import Rendering
from featurize.making.crew import Crew
from featurize.making.decoders import Decoders
from featurize.making.execution import Execution
from featurize.making.outcomes import Outcome
from featurize.making.planning import Target, plan
from featurize.making.precision import Sample, candidates, settle_precision
from featurize.making.production import fit_statistics, nothing_to_do, produce
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
    cluster: Cluster | None = None,
) -> list[Outcome]:
    """Make or update every drafted store, those of one input size together: here, or on a cluster."""
    outcomes: dict[Path, Outcome] = {}
    for size in dict.fromkeys(draft.config["input_size"] for draft in drafts):
        start = time.perf_counter()
        group = [draft for draft in drafts if draft.config["input_size"] == size]
        rendering = Rendering.of_config(group[0].config, max_pixels=max_pixels)
        most_views = 1 + max(draft.most_views for draft in group)
        if cluster is None:
            decoder = decoders.of(rendering, most_views=most_views)
            made = _carry_out_here(dataset, group, decoder=decoder, execution=execution)
        else:
            crew = Crew(
                cluster,
                execution=execution,
                workers=decoders.workers,
                image_timeout=decoders.image_timeout,
                rendering=rendering,
                most_views=most_views,
            )
            made = _carry_out_there(dataset, group, crew=crew)
        for outcome in made:
            outcome.seconds["total"] = time.perf_counter() - start
            outcomes[outcome.target.path] = outcome
    return [outcomes[draft.path] for draft in drafts]


def _carry_out_here(
    dataset: Dataset, drafts: Sequence[Draft], *, decoder: Decoder, execution: Execution
) -> list[Outcome]:
    fit = partial(fit_statistics, dataset, decoder=decoder, execution=execution)
    sample = Sample(candidates(dataset), decoder, execution)
    settled, engines = [], {}
    for draft in _with_statistics(drafts, fit):
        draft, engine = settle_precision(draft, sample, execution)
        settled.append(draft)
        if engine is not None:
            engines[draft.path] = engine
    targets = [draft.target(dataset) for draft in settled]
    return produce(dataset, targets, decoder=decoder, engines=engines, execution=execution)


def _carry_out_there(dataset: Dataset, drafts: Sequence[Draft], *, crew: Crew) -> list[Outcome]:
    targets = [draft.target(dataset) for draft in drafts]
    if all(nothing_to_do(dataset, target) is not None for target in targets):
        return crew.produce(dataset, targets, engines={})
    drafts = _with_statistics(drafts, partial(crew.fit_statistics, dataset, drafts))
    settled, engines = crew.settle(dataset, drafts)
    return crew.produce(dataset, [draft.target(dataset) for draft in settled], engines=engines)


def _with_statistics(drafts: Sequence[Draft], fit: Callable[[], dict[str, list[float]]]) -> list[Draft]:
    """Return drafts that have their statistics, fitted once for all backbones of one input size."""
    if not any(lacks_statistics(draft.config) for draft in drafts):
        return list(drafts)
    fitted = fit()
    return [
        replace(draft, config={**draft.config, "statistics": fitted})
        if lacks_statistics(draft.config)
        else draft
        for draft in drafts
    ]


def lacks_statistics(config: Mapping[str, Any]) -> bool:
    """Tell whether the config needs statistics that no run has fitted yet."""
    return config["preprocess"] == "featurewise" and config["statistics"] is None
