"""From trials to what a run folder holds: bundles, predictions.csv, results.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from classify.bundle import packages, save_bundle
from classify.carried_weights import carry_weights
from classify.metrics import evaluate
from classify.predicted import predicted
from classify.protocol import Plan
from classify.results import (
    FORMAT,
    FORMAT_VERSION,
    METRICS,
    Prediction,
    Result,
    plain_json,
    write_predictions,
    write_record,
)
from classify.samples import Samples
from classify.search import Settings, Trial
from featurize import open_store

# Of heads with equal cross-validation scores the first one here is recommended; then the first store.
SIMPLEST_FIRST = ("logreg", "svm-linear", "svm-rbf", "dense")
_FAILED: dict[str, Any] = dict.fromkeys(METRICS)


def make_record(
    trials: Sequence[Trial], plan: Plan, *, paths: Sequence[Path], settings: Settings, folder: Path
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

    Returns
    -------
    dict
        Plain JSON.
    """
    results: list[Result] = []
    carried: dict[str, Mapping[str, Any]] = {}
    facts: list[str] = []
    stores = list({trial.samples.store: trial.samples for trial in trials}.values())
    for samples, path in zip(stores, paths, strict=True):
        with open_store(path) as store:
            created_with = store.created_with
        carried[samples.store], notes = carry_weights(
            folder / "weights", store=samples.store, config=samples.config, created_with=created_with
        )
        facts += notes
    for trial in trials:
        result = _result(trial, plan)
        if trial.final is not None:
            result = _with_bundle(
                trial, result, carried[trial.samples.store], settings=settings, folder=folder
            )
        results.append(result)
    first = stores[0]
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
        "protocol": plan.described,
        "facts": [*dict.fromkeys(line for samples in stores for line in samples.facts.lines()), *facts],
        "stores": [_described(samples, path) for samples, path in zip(stores, paths, strict=True)],
        "recommended": _recommended(results),
        "results": [asdict(result) for result in results],
    }
    found: dict[str, Any] = plain_json(record)
    return found


def write_run(folder: Path, record: Mapping[str, Any], trials: Sequence[Trial], plan: Plan) -> None:
    """Write predictions.csv and results.json."""
    classes = trials[0].samples.classes
    write_predictions(folder, _predictions(trials, plan), classes=classes)
    write_record(folder, record)


def _described(samples: Samples, path: Path) -> dict[str, Any]:
    return {
        "store": samples.store,
        "path": path,
        "config_digest": samples.config_digest,
        "backbone": samples.backbone,
        "weights": samples.config["weights"],
        "n_features": samples.n_features,
        "n_views": samples.n_views,
        "level_names": samples.level_names,
        "level_ends": samples.level_ends,
    }


def _result(trial: Trial, plan: Plan) -> Result:
    samples = trial.samples
    common: dict[str, Any] = {
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
    if trial.final is None:
        return Result(
            **common,
            status=f"failed: {trial.reason}",
            params=[] if plan.nested else None,
            metrics=_FAILED,
            undefined=dict.fromkeys(METRICS, "the head failed"),
            per_class=None,
            confusion_matrix=None,
            cv_balanced_accuracy=None,
            tuning_scores=[],
            tune_seconds=0.0,
            fit_seconds=0.0,
            predict_ms_per_image=None,
        )
    found = predicted(trial, plan)
    n_images = int(found.n_images.sum())
    figures = evaluate(found.y, found.probabilities, classes=samples.classes)
    params = [dict(choice.params) for choice in trial.choices]
    return Result(
        **common,
        status="ok",
        params=params if plan.nested else params[0],
        metrics={name: figures[name] for name in METRICS},
        undefined=figures["undefined"],
        per_class=figures["per_class"],
        confusion_matrix=figures["confusion_matrix"],
        # Without a test split the out-of-fold score: a search's own is the best of many.
        cv_balanced_accuracy=figures["balanced_accuracy"] if plan.nested else trial.choices[0].score,
        tuning_scores=[choice.score for choice in trial.choices if choice.score is not None],
        tune_seconds=sum(choice.seconds for choice in trial.choices),
        fit_seconds=sum(one.fit_seconds for one in trial.fits),
        predict_ms_per_image=1000 * sum(one.predict_seconds for one in trial.fits) / n_images,
        notes=_notes(trial),
    )


def _notes(trial: Trial) -> tuple[str, ...]:
    fits = trial.fits if trial.final is None else (*trial.fits, trial.final)
    said = [note for choice in trial.choices for note in choice.notes]
    return tuple(dict.fromkeys(said + [note for one in fits for note in one.notes]))


def _with_bundle(
    trial: Trial, result: Result, weights: Mapping[str, Any], *, settings: Settings, folder: Path
) -> Result:
    assert trial.final is not None
    assert trial.final.saved is not None
    assert trial.final_params is not None
    place = Path("bundles") / f"{trial.samples.store}__{trial.head}"
    save_bundle(
        folder / place,
        trial.final.saved,
        head=trial.head,
        params=trial.final_params,
        samples=trial.samples,
        weights=weights,
        metrics={**result.metrics, "cv_balanced_accuracy": result.cv_balanced_accuracy},
        seed=settings.seed,
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


def _predictions(trials: Sequence[Trial], plan: Plan) -> Iterator[Prediction]:
    for trial in trials:
        if trial.final is None:
            continue
        found = predicted(trial, plan)
        for i, probabilities in enumerate(found.probabilities):
            yield Prediction(
                store=trial.samples.store,
                head=trial.head,
                path=found.path[i],
                entry=found.entry[i],
                fold=int(found.fold[i]) if plan.nested else None,
                true=int(found.y[i]),
                probabilities=[float(value) for value in probabilities],
            )
