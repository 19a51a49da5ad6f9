"""Which images are tuned on, fitted on and tested on: the rules of a comparison, before any head is known."""

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
    """One search and one fit."""

    # Images to fit and to score while searching, of `Samples.for_search`; (): nothing is searched.
    pairs: tuple[tuple[IntArray, IntArray], ...]
    fit: IntArray
    val: IntArray | None  # images that stop the dense head; None: it holds back a part of its own
    test: IntArray  # may be empty


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationProtocol:
    """Everything a comparison does with images."""

    nested: bool  # there is no test split
    rounds: tuple[OuterFold, ...]  # one, or one an outer fold
    final: OuterFold | None  # what the bundle is fitted on; None: the one round's head is the bundle
    described: Mapping[str, Any]  # for results.json


def make_protocol(samples: Samples, *, seed: int) -> EvaluationProtocol:
    """Settle the protocol that the splits of the data call for.

    Parameters
    ----------
    samples : Samples
    seed : int
        Of the folds.

    Returns
    -------
    EvaluationProtocol

    Raises
    ------
    CompareError
        If a class has too few groups for folds.
    """
    return _with_test(samples, seed=seed) if samples.has_test else _nested(samples, seed=seed)


def final_fold(samples: Samples, *, seed: int, search: bool = True) -> tuple[OuterFold, tuple[str, ...]]:
    """Return the search and fit of a head for use, tested where there is a test split, and what to know."""
    images, test = samples.fit_images, samples.test_images
    if not search:
        return OuterFold(pairs=(), fit=images, val=None, test=test), ()
    searched = samples.for_search
    if samples.has_val:
        pairs: tuple[tuple[IntArray, IntArray], ...] = ((searched.train_images, searched.val_images),)
        return OuterFold(pairs=pairs, fit=images, val=None, test=test), ()
    pairs, _, notes = _folds(searched, samples.in_search(images), n_folds=OUTER_FOLDS, seed=seed)
    return OuterFold(pairs=pairs, fit=images, val=None, test=test), notes


def _with_test(samples: Samples, *, seed: int) -> EvaluationProtocol:
    train, test, nothing = samples.train_images, samples.test_images, np.empty(0, dtype=np.int64)
    unit = _unit(samples)
    if samples.has_val:
        val = samples.val_images
        pairs = ((samples.in_search(train), samples.in_search(val)),)
        first = OuterFold(pairs=pairs, fit=train, val=val, test=test)
        final = OuterFold(pairs=(), fit=samples.fit_images, val=None, test=nothing)
        text = (
            f"Hyper-parameters are chosen on the {len(val)} {unit} of the val split, which also stops the "
            f"dense head. Each head is then fitted on train and tested once on the {len(test)} {unit} of "
            "the test split. Bundles are refitted on train and val."
        )
        described: dict[str, Any] = {
            "kind": "test split",
            "tuning": "val split",
            "n_folds": None,
            "text": text,
            "notes": [],
        }
        return EvaluationProtocol(
            nested=False, rounds=(first,), final=final, described={**described, "seed": seed}
        )
    searched = samples.in_search(train)
    folds, n_folds, notes = _folds(samples.for_search, searched, n_folds=OUTER_FOLDS, seed=seed)
    text = (
        f"Hyper-parameters are chosen by {n_folds}-fold cross-validation over groups of the train split "
        "(balanced accuracy on plain views). Each head is then fitted on train and tested once on the "
        f"{len(test)} {unit} of the test split. That head is the bundle."
    )
    described = {"kind": "test split", "tuning": "cross-validation", "n_folds": n_folds, "text": text}
    return EvaluationProtocol(
        nested=False,
        rounds=(OuterFold(pairs=folds, fit=train, val=None, test=test),),
        final=None,
        described={**described, "seed": seed, "notes": list(notes)},
    )


def _nested(samples: Samples, *, seed: int) -> EvaluationProtocol:
    images = samples.fit_images
    outer, n_outer, notes = _folds(samples, images, n_folds=OUTER_FOLDS, seed=seed, train_groups=2)
    rounds, inner_notes, n_inner = [], list(notes), []
    for fold, (fitted, tested) in enumerate(outer):
        inside = samples.in_search(fitted)
        inner, k, more = _folds(samples.for_search, inside, n_folds=INNER_FOLDS, seed=seed)
        rounds.append(OuterFold(pairs=inner, fit=fitted, val=None, test=tested))
        inner_notes += [f"within outer fold {fold + 1}: {note}" for note in more]
        n_inner.append(k)

    def searched(pair: tuple[IntArray, IntArray]) -> tuple[IntArray, IntArray]:
        return samples.in_search(pair[0]), samples.in_search(pair[1])

    text = (
        f"There is no test split: nested cross-validation over groups, {n_outer} outer and up to "
        f"{max(n_inner)} inner folds. Every figure is out of fold, over {len(images)} {_unit(samples)}. "
        f"Bundles are fitted on all of them, with hyper-parameters chosen by {n_outer}-fold cross-validation."
    )
    described = {
        "kind": "nested cross-validation",
        "tuning": "cross-validation",
        "n_folds": n_outer,
        "text": text,
    }
    return EvaluationProtocol(
        nested=True,
        rounds=tuple(rounds),
        final=OuterFold(
            pairs=tuple(map(searched, outer)), fit=images, val=None, test=np.empty(0, dtype=np.int64)
        ),
        described={**described, "inner_folds": n_inner, "seed": seed, "notes": inner_notes},
    )


def _unit(samples: Samples) -> str:
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
