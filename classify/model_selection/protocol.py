"""Evaluation protocol: the images that hyper-parameters are chosen on, heads are fitted on and tested on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from classify.data.folds import grouped_folds
from classify.data.samples import Samples
from featurize.base.typing import IntArray

OUTER_FOLDS = 5
INNER_FOLDS = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class OuterFold:
    """One hyper-parameter search followed by one fit and one test."""

    # (images to fit on, images to score) of each inner fold, as indices into `Samples.search_samples`.
    # Empty: nothing is searched.
    inner_folds: tuple[tuple[IntArray, IntArray], ...]
    fit: IntArray  # images to fit on
    val: IntArray | None  # images for early stopping of the dense head; None: it holds out some of `fit`
    test: IntArray  # images to test on; may be empty


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationProtocol:
    """The folds of a comparison, which every head goes through."""

    nested: bool  # nested cross-validation, because there is no test split
    outer_folds: tuple[OuterFold, ...]  # a single one where there is a test split
    final: OuterFold | None  # fit of the bundle; None: the bundle is the head of the single outer fold
    description: Mapping[str, Any]  # "protocol" in results.json


def make_protocol(samples: Samples, *, seed: int) -> EvaluationProtocol:
    """Return the protocol for the splits of a data set.

    Parameters
    ----------
    samples : Samples
    seed : int
        Seed of the folds.

    Returns
    -------
    EvaluationProtocol

    Raises
    ------
    CompareError
        If a class has too few groups to make folds.
    """
    return _with_test(samples, seed=seed) if samples.has_test else _nested(samples, seed=seed)


def final_fold(samples: Samples, *, seed: int, search: bool = True) -> tuple[OuterFold, tuple[str, ...]]:
    """Return the search and fit of a single head, with a test where there is a test split; and notes."""
    images, test = samples.fit_images, samples.test_images
    if not search:
        return OuterFold(inner_folds=(), fit=images, val=None, test=test), ()
    searched = samples.search_samples
    if samples.has_val:
        inner_folds: tuple[tuple[IntArray, IntArray], ...] = ((searched.train_images, searched.val_images),)
        return OuterFold(inner_folds=inner_folds, fit=images, val=None, test=test), ()
    inner_folds, _, notes = _folds(
        searched, samples.to_search_samples(images), n_folds=OUTER_FOLDS, seed=seed
    )
    return OuterFold(inner_folds=inner_folds, fit=images, val=None, test=test), notes


def _with_test(samples: Samples, *, seed: int) -> EvaluationProtocol:
    train, test, no_images = samples.train_images, samples.test_images, np.empty(0, dtype=np.int64)
    unit = _unit(samples)
    if samples.has_val:
        val = samples.val_images
        inner_folds = ((samples.to_search_samples(train), samples.to_search_samples(val)),)
        first = OuterFold(inner_folds=inner_folds, fit=train, val=val, test=test)
        final = OuterFold(inner_folds=(), fit=samples.fit_images, val=None, test=no_images)
        text = (
            f"Hyper-parameters are chosen on the {len(val)} {unit} of the val split, which also stops the "
            f"dense head. Each head is then fitted on train and tested once on the {len(test)} {unit} of "
            "the test split. Bundles are refitted on train and val."
        )
        description: dict[str, Any] = {
            "kind": "test split",
            "tuning": "val split",
            "n_folds": None,
            "text": text,
            "notes": [],
        }
        return EvaluationProtocol(
            nested=False, outer_folds=(first,), final=final, description={**description, "seed": seed}
        )
    searched = samples.to_search_samples(train)
    folds, n_folds, notes = _folds(samples.search_samples, searched, n_folds=OUTER_FOLDS, seed=seed)
    text = (
        f"Hyper-parameters are chosen by {n_folds}-fold cross-validation over groups of the train split "
        "(balanced accuracy on plain views). Each head is then fitted on train and tested once on the "
        f"{len(test)} {unit} of the test split. That head is the bundle."
    )
    description = {"kind": "test split", "tuning": "cross-validation", "n_folds": n_folds, "text": text}
    return EvaluationProtocol(
        nested=False,
        outer_folds=(OuterFold(inner_folds=folds, fit=train, val=None, test=test),),
        final=None,
        description={**description, "seed": seed, "notes": list(notes)},
    )


def _nested(samples: Samples, *, seed: int) -> EvaluationProtocol:
    images = samples.fit_images
    outer, n_outer, notes = _folds(samples, images, n_folds=OUTER_FOLDS, seed=seed, train_groups=2)
    outer_folds, all_notes, n_inner = [], list(notes), []
    for fold, (fitted, tested) in enumerate(outer):
        searched = samples.to_search_samples(fitted)
        inner, k, inner_notes = _folds(samples.search_samples, searched, n_folds=INNER_FOLDS, seed=seed)
        outer_folds.append(OuterFold(inner_folds=inner, fit=fitted, val=None, test=tested))
        all_notes += [f"within outer fold {fold + 1}: {note}" for note in inner_notes]
        n_inner.append(k)
    text = (
        f"There is no test split: nested cross-validation over groups, {n_outer} outer and up to "
        f"{max(n_inner)} inner folds. Every figure is out of fold, over {len(images)} {_unit(samples)}. "
        f"Bundles are fitted on all of them, with hyper-parameters chosen by {n_outer}-fold cross-validation."
    )
    description = {
        "kind": "nested cross-validation",
        "tuning": "cross-validation",
        "n_folds": n_outer,
        "text": text,
    }
    return EvaluationProtocol(
        nested=True,
        outer_folds=tuple(outer_folds),
        final=OuterFold(
            inner_folds=tuple(
                (samples.to_search_samples(fitted), samples.to_search_samples(scored))
                for fitted, scored in outer
            ),
            fit=images,
            val=None,
            test=np.empty(0, dtype=np.int64),
        ),
        description={**description, "inner_folds": n_inner, "seed": seed, "notes": all_notes},
    )


def _unit(samples: Samples) -> str:
    """Return the name of what a row of these samples is."""
    return "images" if samples.n_joined is None else "entries"


def _folds(
    samples: Samples, images: IntArray, *, n_folds: int, seed: int, train_groups: int = 1
) -> tuple[tuple[tuple[IntArray, IntArray], ...], int, tuple[str, ...]]:
    folds = grouped_folds(
        samples.y[images],
        samples.group[images],
        n_folds=n_folds,
        seed=seed,
        train_groups=train_groups,
        classes=samples.classes,
    )
    pairs = tuple((images[fitted], images[scored]) for fitted, scored in folds.pairs)
    return pairs, folds.n_folds, folds.notes
