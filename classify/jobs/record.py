"""Output of a comparison: bundles, predictions.csv and the content of results.json."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from classify.data.entries import is_portfolio
from classify.data.samples import Samples
from classify.evaluation.metrics import evaluate
from classify.evaluation.verdicts import HeadStatistics, head_statistics
from classify.heads.select import BASELINE, is_ordinal
from classify.io.bundle_extras import prepare_examples, prepare_weights
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
    """Write every head as a bundle and return the content of results.json.

    Parameters
    ----------
    candidates : sequence of CandidateResult
        Results of `classify.model_selection.grid_search.run_candidates`, with the ensemble.
    protocol : EvaluationProtocol
    paths : sequence of Path
        Paths of the stores, in their order.
    settings : SearchSettings
    folder : Path
        The run folder.
    with_examples : bool, default=False
        Whether bundles include example images; see `classify.compare`.

    Returns
    -------
    dict
        JSON data, with names as they are on disk.
    """
    weights: dict[str, Mapping[str, Any]] = {}
    examples: dict[str, Mapping[str, Any]] = {}
    notes: list[str] = []
    by_name = {
        candidate.samples.store: candidate.samples for candidate in candidates if not candidate.members
    }
    stores = list(by_name.values())
    for path in paths:
        with open_store(path) as store:
            weights[store.name], weight_notes = prepare_weights(
                folder / "weights", store=store.name, config=store.config, created_with=store.created_with
            )
            notes += weight_notes
            if with_examples:
                examples[store.name], example_notes = prepare_examples(
                    folder / "examples", by_name[store.name], store
                )
                notes += example_notes
    tested = [
        None if candidate.final is None else entry_predictions(candidate, protocol)
        for candidate in candidates
    ]
    statistics = _statistics(candidates, tested, protocol, seed=settings.seed)
    intervals = iter(statistics.intervals)
    results: list[Result] = []
    for candidate, predictions in zip(candidates, tested, strict=True):
        if predictions is None:
            results.append(_failed_result(candidate, protocol))
            continue
        result = replace(_result(candidate, protocol, predictions), intervals=next(intervals))
        results.append(_save(candidate, result, weights, examples, settings=settings, folder=folder))
    shutil.rmtree(folder / "examples", ignore_errors=True)  # each bundle has its own
    first, path_of = stores[0], dict(zip(weights, paths, strict=True))
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
        "facts": [*dict.fromkeys(line for samples in stores for line in samples.facts.lines()), *notes],
        "stores": [_store_facts(samples, path_of) for samples in stores],
        "statistics": statistics.description,
        "recommended": _recommended(results),
        "results": [asdict(result) for result in results],
        "verdicts": statistics.verdicts,
    }
    plain: dict[str, Any] = plain_json(record)
    return plain


def write_run(
    folder: Path,
    record: Mapping[str, Any],
    candidates: Sequence[CandidateResult],
    protocol: EvaluationProtocol,
) -> None:
    """Write predictions.csv, image_predictions.csv if entries have several images, and results.json."""
    classes = candidates[0].samples.classes
    write_predictions(folder / PREDICTIONS, _predictions(candidates, protocol), classes=classes)
    first = candidates[0].samples
    if is_portfolio(first) and first.join == "probabilities":
        images = _predictions(candidates, protocol, by_image=True)
        write_predictions(folder / IMAGE_PREDICTIONS, images, classes=classes)
    write_record(folder, record)


def _store_facts(samples: Samples, path_of: Mapping[str, Path]) -> dict[str, Any]:
    return {
        "store": samples.store,
        "path": path_of.get(samples.store),  # None for a fused store
        "parts": [part.store for part in samples.parts],
        "config_digest": samples.config_digest,
        "backbone": samples.backbone,
        "weights": samples.config.get("weights"),
        "n_features": samples.n_features,
        "n_views": samples.n_views,
        "level_names": samples.level_names,
        "level_ends": samples.level_ends,
    }


def _statistics(
    candidates: Sequence[CandidateResult],
    tested: Sequence[EntryPredictions | None],
    protocol: EvaluationProtocol,
    *,
    seed: int,
) -> HeadStatistics:
    """Return intervals and verdicts of the heads that did not fail."""
    succeeded = [
        (candidate, predictions)
        for candidate, predictions in zip(candidates, tested, strict=True)
        if predictions is not None
    ]
    first = candidates[0].samples
    return head_statistics(
        [{"store": candidate.samples.store, "head": candidate.head} for candidate, _ in succeeded],
        [predictions for _, predictions in succeeded],
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
        "n_train": max(len(fold.fit) for fold in protocol.outer_folds),
        "n_test": sum(len(fold.test) for fold in protocol.outer_folds),
        "bundle": None,
        "bundle_params": None,
        "refitted": protocol.final is not None,
        "n_tasks": candidate.n_tasks,
        "n_remembered": candidate.n_cached_tasks,
    }


def _metric_names(samples: Samples) -> tuple[str, ...]:
    ordinal = is_ordinal(len(samples.classes), ordered=samples.ordered)
    return (*METRICS, *ORDERED_METRICS) if ordinal else METRICS


def _failed_result(candidate: CandidateResult, protocol: EvaluationProtocol) -> Result:
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


def _result(
    candidate: CandidateResult, protocol: EvaluationProtocol, predictions: EntryPredictions
) -> Result:
    samples = candidate.samples
    metrics = evaluate(
        predictions.y, predictions.probabilities, classes=samples.classes, ordered=samples.ordered
    )
    params = [dict(search.params) for search in candidate.searches]
    n_images = int(predictions.n_images.sum())
    return Result(
        **_common(candidate, protocol),
        status="ok",
        params=params if protocol.nested else params[0],
        metrics={name: metrics[name] for name in _metric_names(samples)},
        undefined=metrics["undefined"],
        per_class=metrics["per_class"],
        confusion_matrix=metrics["confusion_matrix"],
        reliability=metrics["reliability"],
        intervals={},
        # Without a test split: the out-of-fold score, because the score of a search is the best of many.
        cv_balanced_accuracy=metrics["balanced_accuracy"] if protocol.nested else candidate.searches[0].score,
        tuning_scores=[search.score for search in candidate.searches if search.score is not None],
        tune_seconds=sum(search.seconds for search in candidate.searches),
        fit_seconds=sum(fitted.fit_seconds for fitted in candidate.fits),
        predict_ms_per_image=1000 * sum(fitted.predict_seconds for fitted in candidate.fits) / n_images,
        training=None if candidate.final is None else candidate.final.training,
        notes=_notes(candidate),
    )


def _notes(candidate: CandidateResult) -> tuple[str, ...]:
    fits = candidate.fits if candidate.final is None else (*candidate.fits, candidate.final)
    notes = [note for search in candidate.searches for note in search.notes]
    notes += [note for fitted in fits for note in fitted.notes]
    return tuple(dict.fromkeys(notes))


def _save(
    candidate: CandidateResult,
    result: Result,
    weights: Mapping[str, Any],
    examples: Mapping[str, Any],
    *,
    settings: SearchSettings,
    folder: Path,
) -> Result:
    """Write the bundle of a head; return the result with its path."""
    assert candidate.final is not None
    assert candidate.final_params is not None
    if candidate.members:
        return _save_ensemble(candidate, result, folder=folder)
    assert candidate.final.saved is not None
    bundle = Path("bundles") / f"{candidate.samples.store}__{candidate.head}"
    first_store = candidate.samples.parts[0].store if candidate.samples.parts else candidate.samples.store
    save_bundle(
        folder / bundle,
        candidate.final.saved,
        head=candidate.head,
        params=candidate.final_params,
        samples=candidate.samples,
        weights=weights if candidate.samples.parts else weights[candidate.samples.store],
        metrics={**result.metrics, "cv_balanced_accuracy": result.cv_balanced_accuracy},
        seed=settings.seed,
        temperature=candidate.temperature,
        examples=examples.get(first_store),
    )
    return replace(result, bundle=bundle.as_posix(), bundle_params=candidate.final_params)


def _save_ensemble(candidate: CandidateResult, result: Result, *, folder: Path) -> Result:
    """Write an ensemble as a bundle of its members' bundles, which have been written before."""
    bundle = Path("bundles") / candidate.head
    save_ensemble(
        folder / bundle,
        [folder / "bundles" / f"{member.samples.store}__{member.head}" for member in candidate.members],
        head=candidate.head,
        samples=candidate.samples,
        metrics={**result.metrics, "cv_balanced_accuracy": result.cv_balanced_accuracy},
    )
    return replace(result, bundle=bundle.as_posix(), bundle_params=candidate.final_params)


def _recommended(results: Sequence[Result]) -> dict[str, Any] | None:
    """Return store, head and bundle of the head with the highest cross-validation score."""
    eligible = [result for result in results if result.bundle is not None and result.head != BASELINE]
    if not eligible:
        return None

    def rank(result: Result) -> tuple[float, int]:
        listed = result.head in SIMPLEST_FIRST
        complexity = SIMPLEST_FIRST.index(result.head) if listed else len(SIMPLEST_FIRST)
        score = result.cv_balanced_accuracy  # None if nothing was searched: ranked last
        return 1.0 if score is None else -round(score, 10), complexity

    best = min(eligible, key=rank)
    return {"store": best.store, "head": best.head, "bundle": best.bundle}


def _predictions(
    candidates: Sequence[CandidateResult], protocol: EvaluationProtocol, *, by_image: bool = False
) -> Iterator[Prediction]:
    for candidate in candidates:
        if candidate.final is None:
            continue
        predictions = entry_predictions(candidate, protocol, by_image=by_image)
        for i, probabilities in enumerate(predictions.probabilities):
            yield Prediction(
                store=candidate.samples.store,
                head=candidate.head,
                entry=predictions.entry[i],
                path=predictions.path[i] if predictions.n_images[i] == 1 else "",
                n_images=int(predictions.n_images[i]),
                fold=int(predictions.fold[i]) if protocol.nested else None,
                true=int(predictions.y[i]),
                probabilities=[float(value) for value in probabilities],
            )
