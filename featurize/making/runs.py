"""Stores to be, drafted from what was asked or from what a store says of itself, and then made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from featurize.backbones import Backbone
from featurize.dataset import Dataset
from featurize.decode.rendering import Rendering
from featurize.making.filling import Execution, Outcome
from featurize.making.planning import Target, plan
from featurize.making.production import fit_statistics, produce
from featurize.store import Store
from featurize.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Draft:
    """One store to be, before it is known what it lacks."""

    backbone: Backbone
    weights: Weights
    config: Mapping[str, Any]
    path: Path
    store: Store | None  # what is there now, open, as far as it is to be used
    views: int
    views_for: str
    distrusted: frozenset[str] = frozenset()  # contents whose stored features are not to be used
    trusts_images: bool = True  # whether the stored table of images is to be believed

    def target(self, dataset: Dataset) -> Target:
        """Work out what is missing."""
        return plan(
            dataset,
            backbone=self.backbone,
            weights=self.weights,
            config=dict(self.config),
            path=self.path,
            store=self.store,
            views=self.views,
            views_for=self.views_for,
            distrusted=self.distrusted,
            trusts_images=self.trusts_images,
        )


def carry_out(
    dataset: Dataset, drafts: Sequence[Draft], *, max_pixels: int, execution: Execution
) -> list[Outcome]:
    """Make or update every drafted store, those of one input size together."""
    outcomes: dict[Path, Outcome] = {}
    for size in dict.fromkeys(draft.config["input_size"] for draft in drafts):
        group = [draft for draft in drafts if draft.config["input_size"] == size]
        rendering = Rendering.of_config(group[0].config, max_pixels=max_pixels)
        group = _with_statistics(dataset, group, rendering=rendering, execution=execution)
        targets = [draft.target(dataset) for draft in group]
        for outcome in produce(dataset, targets, rendering=rendering, execution=execution):
            outcomes[outcome.target.path] = outcome
    return [outcomes[draft.path] for draft in drafts]


def _with_statistics(
    dataset: Dataset, drafts: Sequence[Draft], *, rendering: Rendering, execution: Execution
) -> list[Draft]:
    """Settle the statistics that are still open, once for all backbones of one input size."""
    open_ones = {draft.path for draft in drafts if lacks_statistics(draft.config)}
    if not open_ones:
        return list(drafts)
    fitted = fit_statistics(dataset, rendering=rendering, execution=execution)
    return [
        replace(draft, config={**draft.config, "statistics": fitted}) if draft.path in open_ones else draft
        for draft in drafts
    ]


def lacks_statistics(config: Mapping[str, Any]) -> bool:
    """Tell whether the config needs statistics that no run has fitted yet."""
    return config["preprocess"] == "featurewise" and config["statistics"] is None
