"""From trials to what a run folder holds: bundles, predictions.csv, results.json."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from classify.bundles.examples import carry_examples
from classify.bundles.weights import carry_weights
from classify.bundles.writing import packages, save_bundle, save_ensemble
from classify.judging import Judged, judge
from classify.metrics import evaluate
from classify.ordered import has_grades
from classify.portfolios import is_portfolio
from classify.predicted import Predicted, predicted
from classify.protocol import Plan
from classify.results import (
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
from classify.samples import Samples
from classify.search import Settings, Trial
from featurize import open_store


def make_record(
    trials: Sequence[Trial],
    plan: Plan,
    *,
    paths: Sequence[Path],
    settings: Settings,
    folder: Path,
    with_examples: bool = False,
) -> dict[str, Any]:
    """Save every head as a bundle under ``folder`` and return what results.json will hold.

    Parameters
    ----------
    trials : sequence of Trial
        From `classify.search.run_trials`.
    plan : Plan
    paths : sequence of Path
        Of the stores, in their order.
    settings : Settings
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
    by_name = {trial.samples.store: trial.samples for trial in trials if not trial.members}
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
    tested = [None if trial.final is None else predicted(trial, plan) for trial in trials]
    judged = _judged(trials, tested, plan, seed=settings.seed)
    intervals = iter(judged.intervals)
    for trial, found in zip(trials, tested, strict=True):
        result = _failed(trial, plan) if found is None else _result(trial, plan, found)
        if found is not None:
            result = replace(result, intervals=next(intervals))
            result = _with_bundle(trial, result, carried, examples, settings=settings, folder=folder)
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
        "protocol": plan.described,
        "facts": [*dict.fromkeys(line for samples in stores for line in samples.facts.lines()), *facts],
        "stores": [_described(samples, places) for samples in stores],
        "statistics": judged.described,
        "recommended": _recommended(results),
        "results": [asdict(result) for result in results],
        "verdicts": judged.verdicts,
    }
    plain: dict[str, Any] = plain_json(record)
    return plain


def write_run(folder: Path, record: Mapping[str, Any], trials: Sequence[Trial], plan: Plan) -> None:
    """Write predictions.csv, image by image too where entries have several images, and results.json."""
    classes = trials[0].samples.classes
    write_predictions(folder / PREDICTIONS, _predictions(trials, plan), classes=classes)
    first = trials[0].samples
    if is_portfolio(first) and first.join == "probabilities":
        images = _predictions(trials, plan, by_image=True)
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


def _judged(trials: Sequence[Trial], tested: Sequence[Predicted | None], plan: Plan, *, seed: int) -> Judged:
    """Return what can be said of the certainty of all figures; heads that failed have none."""
    able = [(trial, found) for trial, found in zip(trials, tested, strict=True) if found is not None]
    first = trials[0].samples
    return judge(
        [{"store": trial.samples.store, "head": trial.head} for trial, _ in able],
        [found for _, found in able],
        classes=first.classes,
        ordered=first.ordered,
        nested=plan.nested,
        seed=seed,
    )


def _common(trial: Trial, plan: Plan) -> dict[str, Any]:
    samples = trial.samples
    return {
        "store": samples.store,
        "config_digest": samples.config_digest,
        "backbone": samples.backbone,
        "head": trial.head,
        "n_train": max(len(one.fit) for one in plan.rounds),
        "n_test": sum(len(one.test) for one in plan.rounds),
        "bundle": None,
        "bundle_params": None,
        "refitted": plan.final is not None,
        "n_tasks": trial.n_tasks,
        "n_remembered": trial.n_remembered,
    }


def _metric_names(samples: Samples) -> tuple[str, ...]:
    graded = has_grades(ordered=samples.ordered, n_classes=len(samples.classes))
    return (*METRICS, *ORDERED_METRICS) if graded else METRICS


def _failed(trial: Trial, plan: Plan) -> Result:
    names = _metric_names(trial.samples)
    return Result(
        **_common(trial, plan),
        status=f"failed: {trial.reason}",
        params=[] if plan.nested else None,
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


def _result(trial: Trial, plan: Plan, found: Predicted) -> Result:
    samples = trial.samples
    figures = evaluate(found.y, found.probabilities, classes=samples.classes, ordered=samples.ordered)
    params = [dict(choice.params) for choice in trial.choices]
    n_images = int(found.n_images.sum())
    return Result(
        **_common(trial, plan),
        status="ok",
        params=params if plan.nested else params[0],
        metrics={name: figures[name] for name in _metric_names(samples)},
        undefined=figures["undefined"],
        per_class=figures["per_class"],
        confusion_matrix=figures["confusion_matrix"],
        reliability=figures["reliability"],
        intervals={},
        # Without a test split the out-of-fold score: a search's own is the best of many.
        cv_balanced_accuracy=figures["balanced_accuracy"] if plan.nested else trial.choices[0].score,
        tuning_scores=[choice.score for choice in trial.choices if choice.score is not None],
        tune_seconds=sum(choice.seconds for choice in trial.choices),
        fit_seconds=sum(one.fit_seconds for one in trial.fits),
        predict_ms_per_image=1000 * sum(one.predict_seconds for one in trial.fits) / n_images,
        training=None if trial.final is None else trial.final.training,
        notes=_notes(trial),
    )


def _notes(trial: Trial) -> tuple[str, ...]:
    fits = trial.fits if trial.final is None else (*trial.fits, trial.final)
    said = [note for choice in trial.choices for note in choice.notes]
    return tuple(dict.fromkeys(said + [note for one in fits for note in one.notes]))


def _with_bundle(
    trial: Trial,
    result: Result,
    carried: Mapping[str, Any],
    examples: Mapping[str, Any],
    *,
    settings: Settings,
    folder: Path,
) -> Result:
    assert trial.final is not None
    assert trial.final_params is not None
    if trial.members:
        return _with_ensemble(trial, result, folder=folder)
    assert trial.final.saved is not None
    place = Path("bundles") / f"{trial.samples.store}__{trial.head}"
    first_store = trial.samples.parts[0].store if trial.samples.parts else trial.samples.store
    save_bundle(
        folder / place,
        trial.final.saved,
        head=trial.head,
        params=trial.final_params,
        samples=trial.samples,
        weights=carried if trial.samples.parts else carried[trial.samples.store],
        metrics={**result.metrics, "cv_balanced_accuracy": result.cv_balanced_accuracy},
        seed=settings.seed,
        temperature=trial.temperature,
        examples=examples.get(first_store),
    )
    return replace(result, bundle=place.as_posix(), bundle_params=trial.final_params)


def _with_ensemble(trial: Trial, result: Result, *, folder: Path) -> Result:
    """Keep an ensemble as a bundle of its members' bundles, which are there already."""
    place = Path("bundles") / trial.head
    save_ensemble(
        folder / place,
        [folder / "bundles" / f"{member.samples.store}__{member.head}" for member in trial.members],
        head=trial.head,
        samples=trial.samples,
        metrics={**result.metrics, "cv_balanced_accuracy": result.cv_balanced_accuracy},
    )
    return replace(result, bundle=place.as_posix(), bundle_params=trial.final_params)


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


def _predictions(trials: Sequence[Trial], plan: Plan, *, by_image: bool = False) -> Iterator[Prediction]:
    for trial in trials:
        if trial.final is None:
            continue
        found = predicted(trial, plan, by_image=by_image)
        for i, probabilities in enumerate(found.probabilities):
            yield Prediction(
                store=trial.samples.store,
                head=trial.head,
                entry=found.entry[i],
                path=found.path[i] if found.n_images[i] == 1 else "",
                n_images=int(found.n_images[i]),
                fold=int(found.fold[i]) if plan.nested else None,
                true=int(found.y[i]),
                probabilities=[float(value) for value in probabilities],
            )
