"""From candidates to what a run folder holds: bundles, predictions.csv, results.json."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from classify.data.entries import is_portfolio
from classify.data.samples import Samples
from classify.evaluation.bootstrap import LEVEL, MAX_GROUPS, N_RESAMPLES, pool_groups
from classify.evaluation.intervals import FEW_GROUPS, head_intervals
from classify.evaluation.metrics import check_predictions, evaluate
from classify.evaluation.verdicts import make_verdicts, primary_metric
from classify.evaluation.weighted_metrics import group_sums
from classify.heads.select import BASELINE, is_ordinal
from classify.io.bundle_extras import carry_examples, carry_weights
from classify.io.bundle_writer import packages, save_bundle, save_ensemble
from classify.io.results import (
    FORMAT,
    FORMAT_VERSION,
    IMAGE_PREDICTIONS,
    METRICS,
    ORDERED_METRICS,
    PREDICTIONS,
    SIMPLEST_FIRST,
    Prediction,
    Result,
    plain_json,
    write_predictions,
    write_record,
)
from classify.model_selection.grid_search import CandidateResult, SearchSettings
from classify.model_selection.predictions import EntryPredictions, entry_predictions
from classify.model_selection.protocol import EvaluationProtocol
from featurize.store.reader import open_store


def make_record(
    candidates: Sequence[CandidateResult],
    protocol: EvaluationProtocol,
    *,
    paths: Sequence[Path],
    settings: SearchSettings,
    folder: Path,
    with_examples: bool = False,
) -> dict[str, Any]:
    """Save every head as a bundle under ``folder`` and return what results.json will hold.

    Parameters
    ----------
    candidates : sequence of CandidateResult
        From `classify.model_selection.grid_search.run_candidates`.
    protocol : EvaluationProtocol
    paths : sequence of Path
        Of the stores, in their order.
    settings : SearchSettings
    folder : Path
        The run folder.
    with_examples : bool, default=False
        Whether bundles carry the images that they were fitted on.

    Returns
    -------
    dict
        Plain JSON.
    """
    results: list[Result] = []
    carried: dict[str, Mapping[str, Any]] = {}
    examples: dict[str, Mapping[str, Any]] = {}
    facts: list[str] = []
    by_name = {
        candidate.samples.store: candidate.samples for candidate in candidates if not candidate.members
    }
    stores = list(by_name.values())
    for path in paths:
        with open_store(path) as store:
            carried[store.name], notes = carry_weights(
                folder / "weights", store=store.name, config=store.config, created_with=store.created_with
            )
            if with_examples:
                examples[store.name], more = carry_examples(folder / "examples", by_name[store.name], store)
                notes += more
        facts += notes
    tested = [
        None if candidate.final is None else entry_predictions(candidate, protocol)
        for candidate in candidates
    ]
    judged = _judged(candidates, tested, protocol, seed=settings.seed)
    intervals = iter(judged.intervals)
    for candidate, found in zip(candidates, tested, strict=True):
        result = _failed(candidate, protocol) if found is None else _result(candidate, protocol, found)
        if found is not None:
            result = replace(result, intervals=next(intervals))
            result = _with_bundle(candidate, result, carried, examples, settings=settings, folder=folder)
        results.append(result)
    shutil.rmtree(folder / "examples", ignore_errors=True)  # the bundles have them
    first, places = stores[0], dict(zip(carried, paths, strict=True))
    record = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "created_with": packages(),
        "dataset": first.dataset,
        "classes": first.classes,
        "ordered": first.ordered,
        "positive_class": first.classes[1] if len(first.classes) == 2 else None,
        "seed": settings.seed,
        "class_weight": settings.class_weight,
        "join": first.join if is_portfolio(first) else None,
        "protocol": protocol.description,
        "facts": [*dict.fromkeys(line for samples in stores for line in samples.facts.lines()), *facts],
        "stores": [_described(samples, places) for samples in stores],
        "statistics": judged.description,
        "recommended": _recommended(results),
        "results": [asdict(result) for result in results],
        "verdicts": judged.verdicts,
    }
    plain: dict[str, Any] = plain_json(record)
    return plain


def write_run(
    folder: Path,
    record: Mapping[str, Any],
    candidates: Sequence[CandidateResult],
    protocol: EvaluationProtocol,
) -> None:
    """Write predictions.csv, image by image too where entries have several images, and results.json."""
    classes = candidates[0].samples.classes
    write_predictions(folder / PREDICTIONS, _predictions(candidates, protocol), classes=classes)
    first = candidates[0].samples
    if is_portfolio(first) and first.join == "probabilities":
        images = _predictions(candidates, protocol, by_image=True)
        write_predictions(folder / IMAGE_PREDICTIONS, images, classes=classes)
    write_record(folder, record)


def _described(samples: Samples, paths: Mapping[str, Path]) -> dict[str, Any]:
    return {
        "store": samples.store,
        "path": paths.get(samples.store),  # None of a fused store
        "parts": [part.store for part in samples.parts],
        "config_digest": samples.config_digest,
        "backbone": samples.backbone,
        "weights": samples.config.get("weights"),
        "n_features": samples.n_features,
        "n_views": samples.n_views,
        "level_names": samples.level_names,
        "level_ends": samples.level_ends,
    }


def _judged(
    candidates: Sequence[CandidateResult],
    tested: Sequence[EntryPredictions | None],
    protocol: EvaluationProtocol,
    *,
    seed: int,
) -> HeadStatistics:
    """Return what can be said of the certainty of all figures; heads that failed have none."""
    able = [
        (candidate, found) for candidate, found in zip(candidates, tested, strict=True) if found is not None
    ]
    first = candidates[0].samples
    return head_statistics(
        [{"store": candidate.samples.store, "head": candidate.head} for candidate, _ in able],
        [found for _, found in able],
        classes=first.classes,
        ordered=first.ordered,
        nested=protocol.nested,
        seed=seed,
    )


def _common(candidate: CandidateResult, protocol: EvaluationProtocol) -> dict[str, Any]:
    samples = candidate.samples
    return {
        "store": samples.store,
        "config_digest": samples.config_digest,
        "backbone": samples.backbone,
        "head": candidate.head,
        "n_train": max(len(one.fit) for one in protocol.outer_folds),
        "n_test": sum(len(one.test) for one in protocol.outer_folds),
        "bundle": None,
        "bundle_params": None,
        "refitted": protocol.final is not None,
        "n_tasks": candidate.n_tasks,
        "n_remembered": candidate.n_cached_tasks,
    }


def _metric_names(samples: Samples) -> tuple[str, ...]:
    graded = is_ordinal(len(samples.classes), ordered=samples.ordered)
    return (*METRICS, *ORDERED_METRICS) if graded else METRICS


def _failed(candidate: CandidateResult, protocol: EvaluationProtocol) -> Result:
    names = _metric_names(candidate.samples)
    return Result(
        **_common(candidate, protocol),
        status=f"failed: {candidate.reason}",
        params=[] if protocol.nested else None,
        metrics=dict.fromkeys(names),
        undefined=dict.fromkeys(names, "the head failed"),
        per_class=None,
        confusion_matrix=None,
        reliability=None,
        intervals={},
        cv_balanced_accuracy=None,
        tuning_scores=[],
        tune_seconds=0.0,
        fit_seconds=0.0,
        predict_ms_per_image=None,
    )


def _result(candidate: CandidateResult, protocol: EvaluationProtocol, found: EntryPredictions) -> Result:
    samples = candidate.samples
    figures = evaluate(found.y, found.probabilities, classes=samples.classes, ordered=samples.ordered)
    params = [dict(choice.params) for choice in candidate.searches]
    n_images = int(found.n_images.sum())
    return Result(
        **_common(candidate, protocol),
        status="ok",
        params=params if protocol.nested else params[0],
        metrics={name: figures[name] for name in _metric_names(samples)},
        undefined=figures["undefined"],
        per_class=figures["per_class"],
        confusion_matrix=figures["confusion_matrix"],
        reliability=figures["reliability"],
        intervals={},
        # Without a test split the out-of-fold score: a search's own is the best of many.
        cv_balanced_accuracy=figures["balanced_accuracy"] if protocol.nested else candidate.searches[0].score,
        tuning_scores=[choice.score for choice in candidate.searches if choice.score is not None],
        tune_seconds=sum(choice.seconds for choice in candidate.searches),
        fit_seconds=sum(one.fit_seconds for one in candidate.fits),
        predict_ms_per_image=1000 * sum(one.predict_seconds for one in candidate.fits) / n_images,
        training=None if candidate.final is None else candidate.final.training,
        notes=_notes(candidate),
    )


def _notes(candidate: CandidateResult) -> tuple[str, ...]:
    fits = candidate.fits if candidate.final is None else (*candidate.fits, candidate.final)
    said = [note for choice in candidate.searches for note in choice.notes]
    return tuple(dict.fromkeys(said + [note for one in fits for note in one.notes]))


def _with_bundle(
    candidate: CandidateResult,
    result: Result,
    carried: Mapping[str, Any],
    examples: Mapping[str, Any],
    *,
    settings: SearchSettings,
    folder: Path,
) -> Result:
    assert candidate.final is not None
    assert candidate.final_params is not None
    if candidate.members:
        return _with_ensemble(candidate, result, folder=folder)
    assert candidate.final.saved is not None
    place = Path("bundles") / f"{candidate.samples.store}__{candidate.head}"
    first_store = candidate.samples.parts[0].store if candidate.samples.parts else candidate.samples.store
    save_bundle(
        folder / place,
        candidate.final.saved,
        head=candidate.head,
        params=candidate.final_params,
        samples=candidate.samples,
        weights=carried if candidate.samples.parts else carried[candidate.samples.store],
        metrics={**result.metrics, "cv_balanced_accuracy": result.cv_balanced_accuracy},
        seed=settings.seed,
        temperature=candidate.temperature,
        examples=examples.get(first_store),
    )
    return replace(result, bundle=place.as_posix(), bundle_params=candidate.final_params)


def _with_ensemble(candidate: CandidateResult, result: Result, *, folder: Path) -> Result:
    """Keep an ensemble as a bundle of its members' bundles, which are there already."""
    place = Path("bundles") / candidate.head
    save_ensemble(
        folder / place,
        [folder / "bundles" / f"{member.samples.store}__{member.head}" for member in candidate.members],
        head=candidate.head,
        samples=candidate.samples,
        metrics={**result.metrics, "cv_balanced_accuracy": result.cv_balanced_accuracy},
    )
    return replace(result, bundle=place.as_posix(), bundle_params=candidate.final_params)


def _recommended(results: Sequence[Result]) -> dict[str, Any] | None:
    able = [result for result in results if result.bundle is not None and result.head != "baseline"]
    if not able:
        return None

    def rank(result: Result) -> tuple[float, int]:
        known = result.head in SIMPLEST_FIRST
        simplicity = SIMPLEST_FIRST.index(result.head) if known else len(SIMPLEST_FIRST)
        score = result.cv_balanced_accuracy  # None: nothing was searched; after all that have one
        return 1.0 if score is None else -round(score, 10), simplicity

    best = min(able, key=rank)
    return {"store": best.store, "head": best.head, "bundle": best.bundle}


def _predictions(
    candidates: Sequence[CandidateResult], protocol: EvaluationProtocol, *, by_image: bool = False
) -> Iterator[Prediction]:
    for candidate in candidates:
        if candidate.final is None:
            continue
        found = entry_predictions(candidate, protocol, by_image=by_image)
        for i, probabilities in enumerate(found.probabilities):
            yield Prediction(
                store=candidate.samples.store,
                head=candidate.head,
                entry=found.entry[i],
                path=found.path[i] if found.n_images[i] == 1 else "",
                n_images=int(found.n_images[i]),
                fold=int(found.fold[i]) if protocol.nested else None,
                true=int(found.y[i]),
                probabilities=[float(value) for value in probabilities],
            )


_INTERVALS = (
    "Shares of entries (accuracy, share off by two, precision, recall, error of a class): Wilson's score "
    "interval, for as many entries as they are worth where groups hold several. Expected calibration error: "
    "inverted tests. Log loss: studentised bootstrap over groups. All else: BCa bootstrap over groups."
)
_TESTS = {
    "accuracy": "exact test over swaps of two heads' predictions, group by group (McNemar's where groups are "
    "single entries)",
    "quadratic_kappa": "random swaps of two heads' predictions, group by group: (1 + as far) / (1 + swaps)",
}


@dataclass(frozen=True, kw_only=True)
class HeadStatistics:
    """What is said of the certainty of the figures of several heads."""

    intervals: tuple[dict[str, dict[str, Any]], ...]  # one a head: metric → interval
    verdicts: list[dict[str, Any]]
    description: dict[str, Any]  # methods, for results.json


def head_statistics(
    names: Sequence[Mapping[str, str]],
    predictions: Sequence[EntryPredictions],
    *,
    classes: Sequence[str],
    ordered: bool,
    nested: bool,
    seed: int,
) -> HeadStatistics:
    """Return intervals of every metric of every head, and verdicts on pairs of heads.

    The baseline stands among the heads: a head that is not detectably better than it has learned nothing that
    can be shown. It says the same of all stores, so that it is compared once.

    Parameters
    ----------
    names : sequence of mapping
        ``store`` and ``head`` of each.
    predictions : sequence of EntryPredictions
        Of the same entries in the same order.
    classes : sequence of str
    ordered : bool
    nested : bool
        Whether the predictions are out of fold: then all is approximate.
    seed : int
        Of resamples and swaps.

    Returns
    -------
    HeadStatistics

    Raises
    ------
    ValueError
        If the predictions are of different entries.
    """
    for one in predictions:
        if one.entry != predictions[0].entry or not np.array_equal(one.group, predictions[0].group):
            raise ValueError("only predictions of the same entries can be compared")
    n_groups = len(np.unique(predictions[0].group)) if predictions else 0
    sums = [
        group_sums(
            *check_predictions(one.y, one.probabilities, n_classes=len(classes)),
            pool_groups(one.group, seed=seed),
            classes=tuple(classes),
            ordered=ordered,
            predicted=np.argmax(one.probabilities, axis=1),
        )
        for one in predictions
    ]
    baselines = [k for k, name in enumerate(names) if name["head"] == BASELINE]
    compared = [k for k in range(len(names)) if k not in baselines[1:]]
    found = make_verdicts([names[k] for k in compared], [sums[k] for k in compared], seed=seed)
    metric = primary_metric(ordinal=sums[0].ordinal) if sums else None
    whys = ["the heads of two folds share training images"] if nested else []
    if sums and sums[0].n_groups < FEW_GROUPS:
        whys.append(f"fewer than {FEW_GROUPS} groups")
    in_parts = f"; resampled and swapped in {MAX_GROUPS:,} random parts" if n_groups > MAX_GROUPS else ""
    return HeadStatistics(
        intervals=tuple(head_intervals(sums, nested=nested, seed=seed)) if sums else (),
        verdicts=found,
        description={
            "level": LEVEL,
            "intervals": _INTERVALS + in_parts,
            "n_resamples": N_RESAMPLES,
            "seed": seed,
            "primary_metric": metric,
            "test": _TESTS[metric] if metric else None,
            "correction": f"Holm-corrected over {len(found)} pairs",
            "n_entries": sums[0].n_entries if sums else 0,
            "n_groups": n_groups,
            "approximate": bool(whys),
            "why": "; ".join(whys),
        },
    )
